# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel has found before anybody waits for it."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

from ..errors import FlowferryError
from . import vm

PIECE = 1 << 20
"""Bytes of a buffer."""
PATIENCE = 55.0
# Pages that are free beyond what is in buffers, and how many buffers are kept to be used again.
_MARGIN = 8 * PIECE
_KEPT = 4
# More would take so long to find that the keeper would not wait for it.
_LARGEST = 8 << 30


class Buffers:
    """Buffers for what comes, whose pages are then those of the process that it is for.

    To find pages may mean to write others to disk first, and on a virtual machine to ask its host;
    so that is done beforehand. Buffers are taken from the front. For every piece that is written
    into the process, one goes back to the kernel: from the end, or the buffer itself.
    """

    def __init__(self, memory_bytes: int) -> None:
        pieces = min(memory_bytes + _MARGIN, _available() * 3 // 4, _LARGEST) // PIECE + _KEPT
        self._memory = mmap.mmap(-1, pieces * PIECE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)
        self._start = vm.address_of(self._view)
        vm.populate(self._start, pieces * PIECE)
        vm.drop(self._start + (pieces - _KEPT) * PIECE, _KEPT * PIECE)
        self._changed = threading.Condition()
        self._free: list[int] = []
        self._front, self._end = 0, pieces

    def buffer(self) -> memoryview:
        """Room for one piece; waits until there is some."""
        with self._changed:
            is_some = self._changed.wait_for(
                lambda: self._free or self._front < self._end, PATIENCE
            )
            if not is_some:
                raise FlowferryError(
                    "transfer_failed", f"memory has come that nobody took within {PATIENCE:g} s"
                )
            if self._free:
                number = self._free.pop()
            else:
                number, self._front = self._front, self._front + 1
        return self._view[number * PIECE : (number + 1) * PIECE]

    def take_back(self, buffer: memoryview) -> None:
        """What was in a buffer is in the process now."""
        number = (vm.address_of(buffer) - self._start) // PIECE
        with self._changed:
            if self._front < self._end:
                self._end -= 1
                dropped = self._end
                self._free.append(number)
            elif len(self._free) < _KEPT:
                self._free.append(number)
                dropped = -1
            else:
                dropped = number
            self._changed.notify()
        if dropped >= 0:
            vm.drop(self._start + dropped * PIECE, PIECE)


def _available() -> int:
    """Bytes of memory that this node can still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
