# SPDX-License-Identifier: Apache-2.0
"""Memory of another process that is given to it when it is touched, or before: userfaultfd(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import FlowferryError

PAGE = os.sysconf("SC_PAGE_SIZE")
FAULT, FORK, REMAP, REMOVE, UNMAP = range(0x12, 0x17)
_LIBC = ctypes.CDLL(None, use_errno=True)
# Of linux/userfaultfd.h: _IOR and _IOWR of type 0xaa.
_UNREGISTER, _WAKE, _COPY, _ZERO = 0x8010AA01, 0x8010AA02, 0xC028AA03, 0xC020AA04
_API = 0xC018AA3F
_PROTOCOL = 0xAA
# What CRIU asks for (criu/uffd.c): to be told of fork, mremap, madvise and munmap.
_NEEDED = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6
_MESSAGE = struct.Struct("=BBHIQQQ")
_CALL = {"x86_64": 323, "aarch64": 282}
_AT_ONCE = 64


class Again(Exception):
    """The process is about to change its memory: its events have to be read first."""


class Gone(Exception):
    """The process has ended."""


class Event(NamedTuple):
    """What has become of memory; the meaning of the numbers depends on the ``kind``."""

    kind: int
    numbers: tuple[int, int, int]

    @property
    def address(self) -> int:
        """Of a fault: that of its page."""
        return self.numbers[1] & -PAGE

    @property
    def descriptor(self) -> int:
        """Of a fork: the one of the child."""
        return self.numbers[0] & 0xFFFFFFFF


class UserFault:
    """The descriptor of one address space, which a process has made of its own."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def events(self) -> Iterator[Event]:
        """What has happened; each is told once, and the process waits until it is."""
        try:
            data = os.read(self.descriptor, _AT_ONCE * _MESSAGE.size)
        except BlockingIOError:
            return
        for kind, _, _, _, *numbers in _MESSAGE.iter_unpack(data):
            first, second, third = numbers
            yield Event(kind, (first, second, third))

    def copy(self, start: int, size: int, here: int) -> None:
        """Give it memory that this process has at ``here``; pages that it has already stay.

        Again, after which all of it may be given once more; Gone.
        """
        done, step = 0, size
        while done < size:
            step = min(step, size - done)
            call = (ctypes.c_uint64 * 5)(start + done, here + done, step, 0, 0)
            number = self._call(_COPY, call)
            copied = ctypes.c_int64(call[4]).value
            if number == 0 or copied > 0:
                done, step = done + copied, size
            elif number == errno.EEXIST:
                done += PAGE
            elif not self._is_left(number) and step > PAGE:
                step = step // 2 // PAGE * PAGE  # it is not in one mapping
            else:
                done += PAGE

    def zero(self, address: int) -> None:
        """Give it an empty page, unless it has one already; Gone.

        Where that has to wait until events are read, it is asked for once more.
        """
        number = self._call(_ZERO, (ctypes.c_uint64 * 4)(address, PAGE, 0, 0))
        if number in (errno.EEXIST, errno.EAGAIN):
            self._call(_WAKE, (ctypes.c_uint64 * 2)(address, PAGE))
        elif number:
            self._is_left(number)

    def unregister(self, start: int, size: int) -> None:
        """Have the kernel care for this memory alone."""
        self._call(_UNREGISTER, (ctypes.c_uint64 * 2)(start, size))

    def close(self) -> None:
        """From now on what is missing is empty."""
        os.close(self.descriptor)

    def _is_left(self, number: int) -> bool:
        """False when the memory is gone that something was to be given to."""
        if number == errno.EAGAIN:
            raise Again
        if number in (errno.ESRCH, errno.ENOSPC):
            raise Gone
        if number == errno.ENOENT:
            return False
        raise OSError(number, f"userfaultfd: {os.strerror(number)}")

    def _call(self, request: int, argument: ctypes.Array[ctypes.c_uint64]) -> int:
        """The error number; 0 if there is none."""
        ended = _LIBC.ioctl(self.descriptor, ctypes.c_ulong(request), argument)
        return ctypes.get_errno() if ended != 0 else 0


def check() -> None:
    """Refuse a kernel by which memory cannot follow a process."""
    reason = _missing()
    if reason:
        raise FlowferryError(
            "post_copy_impossible",
            f"memory cannot follow a process to this node: {reason}. Leave memory=post-copy out",
        )


def _missing() -> str:
    call = _CALL.get(os.uname().machine)
    if call is None:
        return f"userfaultfd is not known for {os.uname().machine}"
    descriptor = _LIBC.syscall(call, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return f"its kernel has no userfaultfd ({os.strerror(ctypes.get_errno())})"
    try:
        asked = (ctypes.c_uint64 * 3)(_PROTOCOL, _NEEDED, 0)
        if _LIBC.ioctl(descriptor, ctypes.c_ulong(_API), asked) != 0:
            return "its kernel's userfaultfd does not tell of forks and of memory that changes"
    finally:
        os.close(descriptor)
    return ""
