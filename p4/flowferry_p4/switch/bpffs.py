# SPDX-License-Identifier: Apache-2.0
"""A file system of the kernel's for names of programs, maps and links, which outlive processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path

from .errors import PinError

_DETACH = 2


def mount(directory: Path) -> None:
    """Mount a bpffs on a directory, unless one is mounted there."""
    if is_mounted(directory):
        return
    if _alone():
        raise PinError(
            f"a file system that the switch mounts on {directory} would end with it, since it runs "
            "in a mount namespace of its own (as `ip netns exec` makes one); mount it before: "
            f"mount -t bpf bpf {directory}"
        )
    path = os.fsencode(directory)
    if _libc().mount(b"bpf", path, b"bpf", ctypes.c_ulong(0), b"mode=0700"):
        reason = os.strerror(ctypes.get_errno())
        raise PinError(f"cannot mount a bpffs on {directory}: {reason}")


def _alone() -> bool:
    """Whether the mount namespace, and with it every mount, ends with this process."""
    here = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            with contextlib.suppress(OSError):  # ended meanwhile, or not ours to look at
                if (process / "ns/mnt").readlink() == here:
                    return False
    return True


def unmount(directory: Path) -> None:
    """Remove what is mounted there, where anything is."""
    if is_mounted(directory) and _libc().umount2(os.fsencode(directory), _DETACH):
        raise PinError(f"cannot unmount {directory}: {os.strerror(ctypes.get_errno())}")


def is_mounted(directory: Path) -> bool:
    wanted = str(directory.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("bpf ") and _plain(place.split(" ")[4]) == wanted:
            return True
    return False


def _plain(path: str) -> str:
    """A path of mountinfo without its escapes."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
