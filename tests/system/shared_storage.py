# SPDX-License-Identifier: Apache-2.0
"""A directory of this machine on every node of a lab, as if they had mounted the same storage.

    python3 shared_storage.py DIRECTORY TARGET PID...

The nodes have mount namespaces of their own, and see nothing of this machine's: so the directory
is taken as a detached mount, and attached at TARGET in the namespace of each process.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

OPEN_TREE, MOVE_MOUNT = 428, 429
CLONE_TREE, FROM_DESCRIPTOR = 1, 4
HERE = -100

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attach(directory: str, target: str, pid: int) -> None:
    """In a process of its own, since the namespace is left for good."""
    tree = _check(libc.syscall(OPEN_TREE, HERE, directory.encode(), CLONE_TREE))
    with Path(f"/proc/{pid}/ns/mnt").open() as namespace:
        _check(libc.setns(namespace.fileno(), 0))
    Path(target).mkdir(parents=True, exist_ok=True)
    _check(libc.syscall(MOVE_MOUNT, tree, b"", HERE, target.encode(), FROM_DESCRIPTOR))


def main() -> None:
    directory, target, *pids = sys.argv[1:]
    for pid in pids:
        child = os.fork()
        if child == 0:
            attach(directory, target, int(pid))
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit(f"{directory} could not be attached for process {pid}")


if __name__ == "__main__":
    main()
