# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel has found before anybody waits for it."""

from __future__ import annotations

import mmap
import queue
import threading
from pathlib import Path

from ..errors import FlowferryError
from . import vm

PIECE = 1 << 20
"""Bytes of a buffer."""
_ROOM = 48 * PIECE
PATIENCE = 55.0


class Reserve:
    """Buffers for what comes, and pages for who is to have it.

    Some is room for what has come. The rest goes back to the kernel piece by piece, which so has
    pages at hand when a process needs them: to find some may mean to write others to disk, and on a
    virtual machine to ask its host.
    """

    def __init__(self, memory_bytes: int) -> None:
        room = min(_ROOM, memory_bytes)
        room -= room % PIECE
        self._size = room + min(memory_bytes, _available() * 3 // 4)
        self._memory = mmap.mmap(-1, self._size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self._memory)
        self._start = vm.address_of(view)
        vm.populate(self._start, self._size)
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for at in range(0, room, PIECE):
            self._buffers.put(view[at : at + PIECE])
        self._handed_over = room
        self._lock = threading.Lock()

    def buffer(self) -> memoryview:
        """Room for one batch; waits until there is some."""
        try:
            return self._buffers.get(timeout=PATIENCE)
        except queue.Empty:
            raise FlowferryError(
                "transfer_failed", f"memory has come that nobody took within {PATIENCE:g} s"
            ) from None

    def take_back(self, buffer: memoryview) -> None:
        """What was in a buffer is not needed any more."""
        self._buffers.put(buffer)

    def hand_over(self, size: int) -> None:
        """Give so much back to the kernel."""
        with self._lock:
            start = self._handed_over
            self._handed_over = min(self._size, start + size)
        vm.drop(self._start + start, self._handed_over - start)


def _available() -> int:
    """Bytes of memory that this node can still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
