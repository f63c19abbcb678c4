#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile the P4 program into what a switch loads and a client reads.

    python p4/compile.py            writes p4/compiled/ (needs p4c-bm2-ss)
    python p4/compile.py --check    says whether p4/compiled/ is up to date (needs nothing)

The results are committed, because p4c is in few package registries and takes minutes to build:
whoever does not change the program never needs it. SOURCE.sha256 holds the hash of every program
file and of both results, so that an edit on either side shows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
COMPILER = "p4c-bm2-ss"
MAIN = "flowferry.p4"
P4INFO = "flowferry.p4info.txtpb"
CONFIG = "flowferry.json"
HASHES = "SOURCE.sha256"

ORIGIN = "generated from p4/program by p4/compile.py: change those, not this"
P4INFO_HEADER = f"# SPDX-License-Identifier: Apache-2.0\n# {ORIGIN}\n"


class CompileError(Exception):
    """Says to a person what is wrong, where, and what to do."""


def hashed_files(root: Path) -> Iterator[Path]:
    """Everything SOURCE.sha256 speaks of, in a fixed order."""
    yield from sorted((root / "program").glob("*.p4"))
    yield root / "compiled" / P4INFO
    yield root / "compiled" / CONFIG


class Results(NamedTuple):
    """What a script has compiled, and of which files."""

    script: str
    folder: str
    files: Callable[[Path], Iterator[Path]]


SOFTWARE = Results("p4/compile.py", "compiled", hashed_files)


def hashes(root: Path, results: Results = SOFTWARE) -> str:
    """The text of SOURCE.sha256, in the format of sha256sum, names relative to p4/."""
    lines = []
    for path in results.files(root):
        if not path.is_file():
            raise CompileError(f"{path.relative_to(root)} is missing; run python {results.script}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{digest}  {path.relative_to(root).as_posix()}\n")
    return "".join(lines)


def stale(root: Path, results: Results = SOFTWARE) -> list[str]:
    """Names of files that differ from what was compiled, empty when everything is fresh."""
    record = root / results.folder / HASHES
    if not record.is_file():
        return [f"{results.folder}/{HASHES}"]
    recorded = set(record.read_text(encoding="utf-8").splitlines())
    present = set(hashes(root, results).splitlines())
    return sorted({line.split("  ", 1)[-1] for line in recorded ^ present})


def require_fresh(root: Path, results: Results = SOFTWARE) -> None:
    """A CompileError that says what to do, unless everything is fresh."""
    if changed := stale(root, results):
        raise CompileError(
            f"p4/{results.folder} is stale: {', '.join(changed)} changed since it was compiled. "
            f"Run python {results.script} and commit the result."
        )


def find_compiler(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CompileError(
            f"{name} is not on PATH. It is part of p4c (https://github.com/p4lang/p4c); "
            "install it, or give --compiler. It is needed only to change the P4 program."
        )
    return found


def run_compiler(compiler: str, program: Path, output: Path) -> None:
    """Compile from inside the program's directory, so that file names come out relative."""
    command = [
        compiler,
        "--std",
        "p4-16",
        "--p4runtime-files",
        str(output / P4INFO),
        "-o",
        str(output / CONFIG),
        MAIN,
    ]
    done = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    messages = (done.stdout + done.stderr).strip()
    if done.returncode != 0 or messages:
        # A warning is an error: the program is small enough to have none.
        raise CompileError(f"{COMPILER} does not accept {program / MAIN}:\n{messages}")


def plain(value: Any) -> Any:
    """The configuration without a path of the machine it was compiled on."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    cleaned = {key: plain(item) for key, item in value.items()}
    for key in ("filename", "program"):
        name = cleaned.get(key)
        if isinstance(name, str) and "/" in name:
            cleaned[key] = name.rsplit("/", 1)[-1]
    return cleaned


def compact(value: Any, depth: int = 0) -> str:
    """JSON with one line for every table, action or state: small, and a diff can be read."""
    pad = " " * depth
    if depth < 3 and isinstance(value, dict) and value:
        items = [f"{pad} {json.dumps(k)}: {compact(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{pad}}}"
    if depth < 3 and isinstance(value, list) and any(isinstance(v, dict) for v in value):
        items = [f"{pad} {compact(v, depth + 2)}" for v in value]
        return "[\n" + ",\n".join(items) + f"\n{pad}]"
    return json.dumps(value, separators=(", ", ": "))


def compile_program(root: Path, compiler: str) -> None:
    target = root / "compiled"
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch)
        run_compiler(compiler, root / "program", output)
        config = plain(json.loads((output / CONFIG).read_text(encoding="utf-8")))
        p4info = (output / P4INFO).read_text(encoding="utf-8")
    config["__meta__"]["origin"] = ORIGIN
    text = compact(config) + "\n"
    for leak in (str(root), str(Path(compiler).parent), scratch):
        if leak in text or leak in p4info:
            raise CompileError(f"the compiled program names {leak}, a path of this machine")
    target.mkdir(exist_ok=True)
    (target / CONFIG).write_text(text, encoding="utf-8")
    (target / P4INFO).write_text(P4INFO_HEADER + p4info, encoding="utf-8")
    (target / HASHES).write_text(hashes(root), encoding="utf-8")


def main(arguments: list[str] | None = None, root: Path = HERE) -> int:
    parser = argparse.ArgumentParser(description="Compile p4/program into p4/compiled.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("--compiler", default=COMPILER, help="default: %(default)s on PATH")
    options = parser.parse_args(arguments)
    if options.check:
        return told(lambda: require_fresh(root))
    return told(lambda: compile_program(root, find_compiler(options.compiler)))


def told(work: Callable[[], None]) -> int:
    """The exit code of what may fail; why it failed is told."""
    try:
        work()
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
