# SPDX-License-Identifier: Apache-2.0
"""Which container runtime this node's pods run in."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from ..errors import FlowferryError
from .base import ContainerRuntime
from .containerd import Containerd
from .crio import Crio
from .kubelet_process import runtime_socket

# A plain list of imports, since Ansible ships to a node what it finds imported here.
RUNTIMES: dict[str, type[ContainerRuntime]] = {kind.program: kind for kind in (Containerd, Crio)}
_CREDENTIALS = struct.Struct("3i")  # pid, user, group


def container_runtime() -> ContainerRuntime:
    """The runtime that this node's kubelet uses, whatever else is installed."""
    path = runtime_socket()
    program = served_by(path)
    if program not in RUNTIMES:
        raise FlowferryError(
            "runtime_cannot_restore",
            f"the kubelet here uses {program or 'an unknown program'} at {path}; pods are moved "
            f"between nodes that run {' or '.join(kind.name for kind in RUNTIMES.values())}",
        )
    return RUNTIMES[program](path)


def served_by(path: str) -> str:
    """The name of the program that listens on a unix socket; empty if it is not seen from here."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(path)
            told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError as error:
        raise FlowferryError(
            "runtime_cannot_restore",
            f"the kubelet's container runtime does not answer at {path}: {error}",
        ) from error
    pid = _CREDENTIALS.unpack(told)[0]
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
