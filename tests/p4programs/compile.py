#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile the test programs, each into tests/p4programs/compiled/ (needs p4c-bm2-ss).

    python tests/p4programs/compile.py [NAME...]    those named, or all that changed

The results are committed, like those of the project's own program, with the hashes of what they
were made from: SOURCE.sha256. Who changes no program needs no compiler.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
COMPILED = HERE / "compiled"
HASHES = COMPILED / "SOURCE.sha256"
SHARED = ("begin.p4", "data.p4", "end.p4")
"""Files that programs include."""

ORIGIN = "generated from tests/p4programs by compile.py there: change those, not this"


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.p4") if p.name not in SHARED)


def hashes() -> str:
    """The text of SOURCE.sha256: every program and every result."""
    files = [*sorted(HERE.glob("*.p4")), *sorted(COMPILED.glob("*.json"))]
    files += sorted(COMPILED.glob("*.txtpb"))
    digests = ((hashlib.sha256(p.read_bytes()).hexdigest(), p.relative_to(HERE)) for p in files)
    return "".join(f"{digest}  {path.as_posix()}\n" for digest, path in digests)


def sources(name: str) -> list[str]:
    """What SOURCE.sha256 has to say about a program whose results are up to date."""
    return [f"{name}.p4", *SHARED, f"compiled/{name}.json", f"compiled/{name}.p4info.txtpb"]


def stale() -> list[str]:
    """Programs that changed since they were compiled, or whose results did."""
    recorded = set(HASHES.read_text(encoding="utf-8").splitlines()) if HASHES.is_file() else set()
    fresh = {line.split("  ", 1)[1] for line in hashes().splitlines() if line in recorded}
    return [name for name in names() if not fresh.issuperset(sources(name))]


def project_compiler() -> ModuleType:
    """p4/compile.py, whose ways of writing results are used here too."""
    path = HERE.parents[1] / "p4" / "compile.py"
    spec = importlib.util.spec_from_file_location("flowferry_compile", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_one(name: str, compiler: str, project: ModuleType) -> str:
    """Write the results of one program, or say why the compiler does not take it."""
    with tempfile.TemporaryDirectory() as scratch:
        p4info, config = Path(scratch) / "p4info.txtpb", Path(scratch) / "config.json"
        done = subprocess.run(
            [compiler, "--std", "p4-16", "--Wdisable", "--p4runtime-files", str(p4info)]
            + ["-o", str(config), f"{name}.p4"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return f"{name}.p4: {done.stderr.strip()}"
        document = project.plain(json.loads(config.read_text(encoding="utf-8")))
        document["__meta__"]["origin"] = ORIGIN
        text = project.compact(document) + "\n"
        (COMPILED / f"{name}.json").write_text(text, encoding="utf-8")
        info = f"# SPDX-License-Identifier: Apache-2.0\n# {ORIGIN}\n{p4info.read_text()}"
        (COMPILED / f"{name}.p4info.txtpb").write_text(info, encoding="utf-8")
    return ""


def main(arguments: Sequence[str]) -> None:
    project = project_compiler()
    compiler = project.find_compiler(project.COMPILER)
    COMPILED.mkdir(exist_ok=True)
    wanted = list(arguments) or stale()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for failure in pool.map(lambda name: compile_one(name, compiler, project), wanted):
            if failure:
                print(failure, file=sys.stderr)
    HASHES.write_text(hashes(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
