#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile the program for Tofino 2 into what a client reads, and what the chip's assembler reads.

    python p4/compile_tofino.py             writes p4/compiled/tofino2 (needs p4c-barefoot)
    python p4/compile_tofino.py -o DIR      and what p4c's assembler (bfas) reads: DIR/pipe
    python p4/compile_tofino.py --check     says whether it is up to date (needs nothing)

p4c-barefoot is the open Tofino backend of p4c (configure with -DENABLE_TOFINO=ON). In its build
tree it finds the architecture's files by ``-I``: backends/tofino/bf-p4c/p4include and p4include.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compile import (
    HASHES,
    P4INFO,
    CompileError,
    Results,
    find_compiler,
    hashes,
    require_fresh,
    told,
)

HERE = Path(__file__).resolve().parent
COMPILER = "p4c-barefoot"
FOLDER = "compiled/tofino2"
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# generated from p4/tofino by p4/compile_tofino.py: change those, not this
# without `externs`, which are messages of the backend's own that no P4Runtime client knows
"""


def hashed_files(root: Path) -> Iterator[Path]:
    """Everything SOURCE.sha256 speaks of, in a fixed order."""
    yield from sorted((root / "tofino").glob("*.p4"))
    yield from (root / "program" / name for name in ("constants.p4", "headers.p4"))
    yield root / FOLDER / P4INFO


TOFINO = Results("p4/compile_tofino.py", FOLDER, hashed_files)


def run_compiler(compiler: str, includes: list[str], program: Path, output: Path) -> None:
    """Place the tables in the chip's stages, which takes minutes."""
    command = [compiler, "--std=p4-16", "--target=tofino2", "--arch=t2na"]
    command += [word for path in includes for word in ("-I", path)]
    command += ["--p4runtime-files", str(output / P4INFO), "-o", str(output), "flowferry.p4"]
    done = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    # It warns of what the software's program alone uses.
    if done.returncode != 0:
        messages = (done.stdout + done.stderr).strip()
        raise CompileError(f"{compiler} does not accept {program}:\n{messages}")


def without_externs(p4info: str) -> str:
    """The p4info as clients can read it: top-level `externs` hold messages of type barefoot.*."""
    return re.sub(r"^externs \{\n.*?^\}\n", "", p4info, flags=re.DOTALL | re.MULTILINE)


def compile_program(root: Path, compiler: str, includes: list[str], output: Path) -> None:
    """Write the p4info and the hashes; the assembler's files are left in ``output``."""
    run_compiler(compiler, includes, root / "tofino", output)
    target = root / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    p4info = without_externs((output / P4INFO).read_text(encoding="utf-8"))
    (target / P4INFO).write_text(HEADER + p4info, encoding="utf-8")
    (target / HASHES).write_text(hashes(root, TOFINO), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile p4/tofino into p4/compiled/tofino2.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("--compiler", default=COMPILER, help="default: %(default)s on PATH")
    parser.add_argument("-I", dest="includes", action="append", default=[], metavar="DIR")
    parser.add_argument("-o", dest="output", type=Path, help="keep what the assembler reads there")
    options = parser.parse_args()
    if options.check:
        return told(lambda: require_fresh(HERE, TOFINO))
    return told(lambda: compile_for(options))


def compile_for(options: argparse.Namespace) -> None:
    """What the command line asks for."""
    with tempfile.TemporaryDirectory() as scratch:
        output = options.output or Path(scratch)
        output.mkdir(parents=True, exist_ok=True)
        compile_program(HERE, find_compiler(options.compiler), options.includes, output)


if __name__ == "__main__":
    sys.exit(main())
