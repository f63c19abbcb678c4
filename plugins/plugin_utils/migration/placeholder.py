# SPDX-License-Identifier: Apache-2.0
"""The program placeholder.c, compiled on the controller, which keeps it in its cache."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

SOURCE = Path(__file__).with_name("placeholder.c")
FLAGS = (
    *("-Os", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding"),
    *("-fno-stack-protector", "-fno-builtin", "-Wl,-s,--build-id=none"),
)
COMPILERS = ("clang", "gcc")


def program(machine: str) -> str:
    """The program for nodes of this machine, in base64."""
    return base64.b64encode(file(machine).read_bytes()).decode()


def version() -> str:
    """Another one for each other program; the same for every machine."""
    return hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:12]


def file(machine: str) -> Path:
    """Where the controller has the program for nodes of this machine."""
    if machine != platform.machine():
        raise FlowferryError(
            "direct_impossible",
            f"the node is {machine} and the controller {platform.machine()}, where the program "
            "that waits for an application cannot be made for it; use method=kubelet, or a "
            "controller like the nodes",
        )
    cached = _cache() / f"placeholder-{version()}-{machine}"
    if not cached.exists():
        _compile(cached)
    return cached


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flowferry")


def _compile(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        made = Path(directory, "placeholder")
        for compiler in COMPILERS:
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            except FileNotFoundError:
                continue
            except subprocess.CalledProcessError as error:
                raise FlowferryError(
                    "direct_impossible", f"{compiler} does not compile {SOURCE}: {error.stderr}"
                ) from error
            made.replace(target)
            return
    raise FlowferryError(
        "direct_impossible",
        f"the controller has none of {', '.join(COMPILERS)}, by which the program that waits for "
        "an application is made; install one, or use method=kubelet",
    )
