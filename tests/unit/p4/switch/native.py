# SPDX-License-Identifier: Apache-2.0
"""Generated C, compiled for this host: what the compiler writes is run, not read."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from flowferry_p4.switch.clang import find_clang


def runtime() -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowferry_p4.switch", "templates")
    )
    return environment.get_template("runtime.c.j2").render()


def compile_functions(functions: Sequence[str]) -> ctypes.CDLL:
    """Build a shared library of functions that may use the runtime's helpers."""
    source = runtime() + "\n".join(functions)
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "functions.so"
        subprocess.run(
            [find_clang(), "-O1", "-w", "-fno-strict-aliasing", "-shared", "-fPIC",
             "-x", "c", "-", "-o", str(library)],
            input=source,
            text=True,
            check=True,
            capture_output=True,
        )  # fmt: skip
        return ctypes.CDLL(str(library))


def evaluate(expressions: Mapping[str, str], variables: Mapping[str, int]) -> dict[str, int]:
    """The u64 value of each C expression, with u64 variables set."""
    declared = "".join(f"volatile u64 {n} = {v:#x}ULL;" for n, v in variables.items())
    library = compile_functions(
        [f"u64 {name}(void) {{ {declared} return {text}; }}" for name, text in expressions.items()]
    )
    result = {}
    for name in expressions:
        function = getattr(library, name)
        function.restype = ctypes.c_uint64
        result[name] = function()
    return result
