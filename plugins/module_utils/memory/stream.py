# SPDX-License-Identifier: Apache-2.0
"""Memory that goes from a process that stands still into one that does not run yet.

It is read from the one and written into the other in place, while CRIU dumps and restores all the
rest: it is in no file, and neither end waits until the other has all of it. It goes over TLS
connections of its own, in batches: {pid, number of ranges, bytes}, the ranges, their content. A
batch of no process is the end of its connection, with the number of bytes that were sent there.
"""

from __future__ import annotations

import queue
import ssl
import struct
import threading
from collections.abc import Mapping

from ..errors import FlowferryError
from ..transfer import JsonLines, connect
from . import vm
from .buffers import PATIENCE, PIECE, Buffers
from .vm import Range

WORTH_IT = 16 << 20
"""Bytes of memory from which on it is worth the trouble."""
PURPOSE = "memory"
"""Which the receiver is told a connection is for."""
_CONNECTIONS = 2
_HEAD = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QQ")
_ROOM = _HEAD.size + vm.MOST_RANGES * _RANGE.size


class Batch:
    """Ranges of one process with room for their content."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ranges: list[Range] = []
        self.size = 0

    def add(self, start: int, size: int) -> int:
        """Take as much of a range as there is room for; returns how much."""
        if len(self.ranges) == vm.MOST_RANGES:
            return 0
        taken = min(size, PIECE - self.size)
        if taken:
            self.ranges.append(Range(start, taken))
            self.size += taken
        return taken

    def head(self) -> bytes:
        """As it goes before the content."""
        ranges = b"".join(_RANGE.pack(*one) for one in self.ranges)
        return _HEAD.pack(self.pid, len(self.ranges), self.size) + ranges


class Sender:
    """The source's end: told which memory, it reads and sends that in threads of its own."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        self.bytes = 0
        self._pids: Mapping[int, int] = {}
        self._pending: Batch | None = None
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._lines = [connect(host, port, context, PURPOSE, timeout) for _ in range(_CONNECTIONS)]
        self._buffers = [bytearray(_ROOM + PIECE) for _ in self._lines]
        for lines in self._lines:
            lines.connection.settimeout(PATIENCE)
        self._threads: list[threading.Thread] = []

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._lines)

    def begin(self, pids: Mapping[int, int]) -> None:
        """From now on memory is named; ``pids`` has this node's pid for the other end's."""
        self._pids = pids
        for lines, buffer in zip(self._lines, self._buffers):
            thread = threading.Thread(target=self._run, args=(lines, buffer), daemon=True)
            thread.start()
            self._threads.append(thread)

    def send(self, pid: int, start: int, size: int) -> None:
        """Send this memory, soon."""
        self.bytes += size
        while size:
            if self._pending is None or self._pending.pid != pid:
                self._flush()
                self._pending = Batch(pid)
            taken = self._pending.add(start, size)
            start, size = start + taken, size - taken
            if size:
                self._flush()

    def finish(self) -> None:
        """All of it is named. It may be under way still: what has come the other end says."""
        self._flush()
        for _ in self._lines:
            self._queue.put(None)

    def close(self) -> None:
        """Whatever is not sent stays."""
        for lines in self._lines:
            lines.shut_down()
        self.finish()
        for thread in self._threads:
            thread.join(10.0)
        for lines in self._lines:
            lines.close()

    def _flush(self) -> None:
        if self._pending is not None:
            self._queue.put(self._pending)
            self._pending = None

    def _run(self, lines: JsonLines, buffer: bytearray) -> None:
        view, here, sent = memoryview(buffer), vm.address_of(buffer), 0
        try:
            while (batch := self._queue.get()) is not None:
                head = batch.head()
                view[: len(head)] = head
                vm.read(self._pids[batch.pid], batch.ranges, here + len(head))
                lines.connection.sendall(view[: len(head) + batch.size])
                sent += batch.size
            lines.connection.sendall(_HEAD.pack(0, 0, sent))
        except (OSError, FlowferryError):
            lines.shut_down()  # the destination notices, and says so


class Receiver:
    """The destination's end. What comes before there are processes waits in buffers."""

    def __init__(self, memory_bytes: int) -> None:
        self._buffers = Buffers(memory_bytes)
        self._changed = threading.Condition()
        self._waiting: list[tuple[Batch, memoryview]] = []
        self._pids: Mapping[int, int] | None = None
        self._received = self._ended = 0
        self._failure: Exception | None = None

    def receive(self, lines: JsonLines) -> None:
        """Take what comes over one connection, until its end."""
        try:
            lines.connection.settimeout(PATIENCE)
            received = self._batches(lines)
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise
        with self._changed:
            self._received += received
            self._ended += 1
            self._changed.notify_all()

    def _batches(self, lines: JsonLines) -> int:
        received = 0
        while True:
            pid, count, size = _HEAD.unpack(_exactly(lines, _HEAD.size))
            if count == 0:
                break
            batch = Batch(pid)
            if count > vm.MOST_RANGES:
                raise _not_announced()
            for start, length in _RANGE.iter_unpack(_exactly(lines, count * _RANGE.size)):
                batch.add(start, length)
            if batch.size != size:
                raise _not_announced()
            buffer = self._buffers.buffer()
            lines.read_into(buffer[:size])
            self._take(batch, buffer)
            received += size
        if received != size:
            raise FlowferryError("transfer_failed", f"{received} of {size} bytes have come")
        return received

    def _take(self, batch: Batch, buffer: memoryview) -> None:
        with self._changed:
            if self._pids is None:
                self._waiting.append((batch, buffer))
                return
        self._write(self._pids, batch, buffer)

    def _write(self, pids: Mapping[int, int], batch: Batch, buffer: memoryview) -> None:
        vm.write(pids[batch.pid], batch.ranges, vm.address_of(buffer))
        self._buffers.take_back(buffer)

    def place(self, pids: Mapping[int, int], connections: int, size: int) -> None:
        """Write everything into processes, which do not run yet; returns when all is there.

        ``pids`` has this node's pid for the other end's, which has sent ``size`` bytes.
        """
        with self._changed:
            self._pids = pids
            waiting, self._waiting = self._waiting, []
        for batch, buffer in waiting:
            self._write(pids, batch, buffer)
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._ended == connections, PATIENCE)
            if self._failure is not None:
                raise FlowferryError("restore_failed", f"memory has not come: {self._failure}")
            if (self._ended, self._received) != (connections, size):
                raise FlowferryError(
                    "restore_failed", f"{self._received} of {size} bytes of memory have come"
                )


def _not_announced() -> FlowferryError:
    return FlowferryError("transfer_failed", "memory has come that is not what was announced")


def _exactly(lines: JsonLines, size: int) -> bytearray:
    data = bytearray(size)
    lines.read_into(memoryview(data))
    return data
