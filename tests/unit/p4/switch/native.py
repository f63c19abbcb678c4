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
from flowferry_p4.switch.compiler.names import hexadecimal


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


def evaluate(
    expressions: Mapping[str, str], variables: Mapping[str, int], kind: str = "u64"
) -> dict[str, int]:
    """The value of each C expression, with variables of this kind (u64, u128) set."""
    declared = "".join(f"volatile {kind} {n} = {hexadecimal(v)};" for n, v in variables.items())
    library = compile_functions(
        [
            f"void get_{name}(u64 *half) {{ {declared} u128 value = {text};"
            " half[0] = value; half[1] = value >> 64; }"
            for name, text in expressions.items()
        ]
    )
    result = {}
    for name in expressions:
        halves = (ctypes.c_uint64 * 2)()
        getattr(library, f"get_{name}")(halves)
        result[name] = halves[1] << 64 | halves[0]
    return result
