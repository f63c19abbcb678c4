# SPDX-License-Identifier: Apache-2.0
"""Memory of other processes, read and written in place: process_vm_readv(2) and its counterpart."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import FlowferryError

_LIBC = ctypes.CDLL(None, use_errno=True)
MOST_RANGES = 512
"""Of one call; the kernel takes twice as many."""
_DROP, _POPULATE = 4, 23  # of madvise(2): MADV_DONTNEED, MADV_POPULATE_WRITE


class Range(NamedTuple):
    """Memory of a process."""

    start: int
    size: int


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


for _call in (_LIBC.process_vm_readv, _LIBC.process_vm_writev):
    _call.restype = ctypes.c_ssize_t
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def address_of(buffer: bytearray | memoryview) -> int:
    """Where a buffer that can be written to is; whoever asks keeps it alive."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def read(pid: int, ranges: Sequence[Range], here: int) -> None:
    """Copy what a process has in these ranges to the address ``here``, one after the other."""
    _transfer("process_vm_readv", pid, ranges, here)


def write(pid: int, ranges: Sequence[Range], here: int) -> None:
    """Copy from the address ``here`` into a process."""
    _transfer("process_vm_writev", pid, ranges, here)


def _transfer(name: str, pid: int, ranges: Sequence[Range], here: int) -> None:
    size = sum(one.size for one in ranges)
    local = _Iovec(here, size)
    remote = (_Iovec * len(ranges))(*(_Iovec(one.start, one.size) for one in ranges))
    count = ctypes.c_ulong(len(ranges))
    done = getattr(_LIBC, name)(
        ctypes.c_int(pid), ctypes.byref(local), ctypes.c_ulong(1), remote, count, ctypes.c_ulong(0)
    )
    if done != size:
        reason = os.strerror(ctypes.get_errno()) if done < 0 else f"{done} of {size} bytes"
        raise FlowferryError("transfer_failed", f"memory of process {pid}, {name}: {reason}")


def populate(start: int, size: int) -> bool:
    """Have the kernel find pages for memory of this process; False if it cannot be told to."""
    return bool(_LIBC.madvise(start, size, _POPULATE) == 0)


def drop(start: int, size: int) -> None:
    """Give the pages of private memory of this process back to the kernel."""
    _LIBC.madvise(start, size, _DROP)
