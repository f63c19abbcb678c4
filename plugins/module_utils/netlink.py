# SPDX-License-Identifier: Apache-2.0
"""Netlink sockets in other network namespaces than one's own."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

_CLONE_NEWNET = 0x40000000
# Seconds; the kernel answers at once.
_LIMIT = 5.0


def open_in(network: Path, protocol: int) -> socket.socket:
    """A socket of the namespace that a file like /proc/PID/ns/net names.

    A socket stays in the namespace that it was made in.
    """
    if os.path.samestat(network.stat(), Path("/proc/thread-self/ns/net").stat()):
        return _open(protocol)
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:  # in a thread of its own, which alone changes its namespace
        try:
            _enter(network)
            made.append(_open(protocol))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _open(protocol: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    made.settimeout(_LIMIT)
    return made


def _enter(network: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns needs Python 3.12
    with network.open("rb") as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(network))
