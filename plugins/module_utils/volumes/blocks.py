# SPDX-License-Identifier: Apache-2.0
"""The content of a file in blocks, so that a large one which changed a little is sent a little."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator

BLOCK = 1 << 16
_DIGEST = 16
_LONGEST_RUN = 1 << 20
HOLE = bytes(_DIGEST)
"""Stands for a block that the file system keeps no data for, and for what is beyond the end."""

Run = tuple[int, int, bytes]
"""Offset, length and data of a part that differs; no data where it is a hole now."""


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST]


def _data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the file has data; what is between is a hole."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return
            start, end = position, size
        yield start, min(end, size)
        position = end


def _blocks_with_data(descriptor: int, size: int) -> set[int] | range:
    count = -(-size // BLOCK)
    ranges = list(_data_ranges(descriptor, size))
    if ranges == [(0, size)]:
        return range(count)
    return {block for start, end in ranges for block in range(start // BLOCK, -(-end // BLOCK))}


class Comparison:
    """Reads a file, tells what is different from the digests of before, and has the new ones."""

    def __init__(self, descriptor: int, size: int, before: bytes) -> None:
        self._descriptor = descriptor
        self._size = size
        self._before = before
        self.digests = bytearray()

    def differences(self) -> Iterator[Run]:
        """In ascending order, those that touch joined."""
        start, data, length = 0, bytearray(), 0
        for offset, block in self._changed():
            size = min(BLOCK, self._size - offset)
            joins = offset == start + length and bool(data) == bool(block) and length
            if not joins or length >= _LONGEST_RUN:
                if length:
                    yield start, length, bytes(data)
                start, data, length = offset, bytearray(), 0
            data += block
            length += size
        if length:
            yield start, length, bytes(data)

    def _changed(self) -> Iterator[tuple[int, bytes]]:
        """Each block that differs; without data if it is a hole."""
        with_data = _blocks_with_data(self._descriptor, self._size)
        for number in range(-(-self._size // BLOCK)):
            offset = number * BLOCK
            data = b""
            if number in with_data:
                data = os.pread(self._descriptor, min(BLOCK, self._size - offset), offset)
                if len(data) < min(BLOCK, self._size - offset):  # it was cut while it was read
                    self._size = offset + len(data)
                    if not data:
                        return
            digest = _digest(data) if data else HOLE
            at = number * _DIGEST
            if digest != (self._before[at : at + _DIGEST] or HOLE):
                yield offset, data
            self.digests += digest


def digests_of(descriptor: int, size: int) -> bytes:
    """Those of a whole file."""
    comparison = Comparison(descriptor, size, b"")
    for _ in comparison.differences():
        pass
    return bytes(comparison.digests)
