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
    if machine != platform.machine():
        raise FlowferryError(
            "direct_impossible",
            f"the node is {machine} and the controller {platform.machine()}, where the program "
            "that waits for an application cannot be made for it; use method=kubelet, or a "
            "controller like the nodes",
        )
    told = SOURCE.read_bytes() + " ".join(FLAGS).encode()
    name = f"placeholder-{hashlib.sha256(told).hexdigest()[:12]}-{machine}"
    cached = _cache() / name
    if not cached.exists():
        _compile(cached)
    return base64.b64encode(cached.read_bytes()).decode()


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
