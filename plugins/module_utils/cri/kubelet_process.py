# SPDX-License-Identifier: Apache-2.0
"""What the kubelet of this node was started with."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import FlowferryError

ROOT = "/var/lib/kubelet"
ENDPOINT = "/run/containerd/containerd.sock"


def kubelet_runs() -> bool:
    """Whether this node has one."""
    return bool(_command())


def kubelet_root() -> str:
    """The directory of this node's kubelet."""
    return _option(_command(), "root-dir") or ROOT


def runtime_socket() -> str:
    """The socket of the container runtime that the kubelet uses."""
    command = _command()
    if not command:
        raise FlowferryError(
            "runtime_cannot_restore",
            "there is no kubelet here; pods are moved between the nodes of a cluster",
        )
    told = _option(command, "container-runtime-endpoint")
    settings = _option(command, "config")
    if not told and settings:
        text = Path(settings).read_text()
        found = re.search(
            r"""^[^#\n]*?"?containerRuntimeEndpoint"?\s*:\s*["']?([^\s"',]+)""", text, re.MULTILINE
        )
        told = found[1] if found else ""
    return (told or ENDPOINT).replace("unix://", "", 1)


def _command() -> list[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == "kubelet":
            return words
    return []


def _option(command: list[str], name: str) -> str:
    """The last value of an option, in either of the forms that it may have."""
    found = ""
    for word, following in zip(command, [*command[1:], ""]):
        if word.lstrip("-").startswith(f"{name}=") and word.startswith("-"):
            found = word.partition("=")[2]
        elif word in (f"-{name}", f"--{name}"):
            found = following
    return found
