# SPDX-License-Identifier: Apache-2.0
"""Generated C to a BPF object, by the clang of the host."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from .errors import CompileFailed, ToolMissing

FLAGS = (
    "-O2",
    "-g",  # BTF: the maps are declared in it
    "-target", "bpf",
    "-mcpu=v3",
    "-fno-strict-aliasing",  # packet bytes are read as integers
    "-Wall",
    "-Wno-unused-function", "-Wno-unused-label", "-Wno-unused-variable",
    "-Wno-unused-but-set-variable",
)  # fmt: skip


def find_clang() -> str:
    clang = shutil.which("clang")
    if clang is None:
        raise ToolMissing(
            "clang is not on this host; the switch compiles P4 programs with it "
            "(Debian, Ubuntu: apt-get install clang)"
        )
    return clang


def compile_c(source: str, clang: str | None = None) -> bytes:
    """Compile; on failure keep the C and name it, so that one can look."""
    command = [clang or find_clang(), *FLAGS]
    with tempfile.TemporaryDirectory(prefix="flowferry-switch-") as directory:
        output = Path(directory) / "program.o"
        done = subprocess.run(
            [*command, "-x", "c", "-c", "-", "-o", str(output)],
            input=source,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return output.read_bytes()
    with tempfile.NamedTemporaryFile(
        "w", prefix="flowferry-switch-", suffix=".c", delete=False
    ) as kept:
        kept.write(source)
    raise CompileFailed(f"clang rejects the generated program {kept.name}:\n{done.stderr.strip()}")
