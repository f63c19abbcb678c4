# SPDX-License-Identifier: Apache-2.0
"""Memory that goes from a process that stands still into one that does not run yet.

It is read from the one and written into the other in place, while CRIU dumps and restores all the
rest: it is in no file, and neither end waits until the other has all of it. It goes over TLS
connections of its own, in batches: {key, number of ranges, bytes}, the ranges, their content. The
key says which process it is of; whoever names memory and whoever has it placed agree on them. A
batch without ranges is the end of its connection, with the number of bytes that were sent there.
"""

from __future__ import annotations

import queue
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping

from ..errors import FlowferryError
from ..transfer import JsonLines, connect
from . import vm
from .buffers import PATIENCE, PIECE, Buffers
from .vm import Range

WORTH_IT = 16 << 20
"""Bytes of memory that can go so from which on it is worth the trouble."""
PURPOSE = "memory"
"""Which the receiver is told a connection is for."""
_CONNECTIONS = 2
_HEAD = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QQ")
HEAD_ROOM = _HEAD.size + vm.MOST_RANGES * _RANGE.size


class Batch:
    """Ranges of one process with room for their content."""

    def __init__(self, key: int) -> None:
        self.key = key
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
        return _HEAD.pack(self.key, len(self.ranges), self.size) + ranges


class Sender:
    """The source's end: told which memory, it reads and sends that in threads of its own."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        self.bytes = 0
        self._pids: dict[int, int] = {}
        self._pending: dict[int, Batch] = {}
        self._naming = threading.Lock()
        """Several dumps may name memory at the same time."""
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._lines = [connect(host, port, context, PURPOSE, timeout) for _ in range(_CONNECTIONS)]
        self._buffers = [bytearray(HEAD_ROOM + PIECE) for _ in self._lines]
        for lines in self._lines:
            lines.connection.settimeout(PATIENCE)
        self._threads: list[threading.Thread] = []

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._lines)

    @property
    def is_under_way(self) -> bool:
        """Whether a copy runs that lacks memory; here it has all before it runs."""
        return False

    def begin(self) -> None:
        """From now on memory is named."""
        for lines, buffer in zip(self._lines, self._buffers):
            thread = threading.Thread(target=self._run, args=(lines, buffer), daemon=True)
            thread.start()
            self._threads.append(thread)

    def learn(self, pids: Mapping[int, int]) -> None:
        """The processes of a dump: ``pids`` has this node's pid for the key of each."""
        with self._naming:
            self._pids.update(pids)

    def send(self, key: int, start: int, size: int) -> None:
        """Send this memory, soon."""
        with self._naming:
            self.bytes += size
            self._name(key, start, size)

    def _name(self, key: int, start: int, size: int) -> None:
        while size:
            batch = self._pending.setdefault(key, Batch(key))
            taken = batch.add(start, size)
            start, size = start + taken, size - taken
            if size:
                self._queue.put(self._pending.pop(key))

    def finish(self) -> None:
        """All of it is named. It may be under way still: what has come the other end says."""
        with self._naming:
            for batch in self._pending.values():
                self._queue.put(batch)
            self._pending.clear()
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

    def _may_send(self) -> None:
        """Wait here for what is more urgent."""

    def _run(self, lines: JsonLines, buffer: bytearray) -> None:
        sent = 0
        try:
            while (batch := self._queue.get()) is not None:
                self._may_send()
                self._send_batch(lines, buffer, batch)
                sent += batch.size
            lines.connection.sendall(_HEAD.pack(0, 0, sent))
        except (OSError, FlowferryError):
            lines.shut_down()  # the destination notices, and says so

    def _send_batch(self, lines: JsonLines, buffer: bytearray, batch: Batch) -> None:
        """``buffer`` has room for it."""
        head, view = batch.head(), memoryview(buffer)
        view[: len(head)] = head
        vm.read(self._pids[batch.key], batch.ranges, vm.address_of(buffer) + len(head))
        lines.connection.sendall(view[: len(head) + batch.size])


class Receiver:
    """The destination's end. What comes before there are processes waits in buffers."""

    def __init__(self, memory_bytes: int) -> None:
        self._buffers = Buffers(memory_bytes)
        self._changed = threading.Condition()
        self._waiting: dict[int, list[tuple[Batch, memoryview]]] = {}
        self._pids: dict[int, int] = {}
        self._placed: dict[int, int] = {}
        self._ended = 0
        self._failure: Exception | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a copy runs that lacks memory; here it has all before it runs."""
        return False

    def receive(self, lines: JsonLines) -> None:
        """Take what comes over one connection, until its end."""
        try:
            lines.connection.settimeout(PATIENCE)
            self._batches(lines)
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def _batches(self, lines: JsonLines) -> None:
        for batch, buffer in batches(lines, self._buffers.buffer):
            self._take(batch, buffer)

    def _take(self, batch: Batch, buffer: memoryview) -> None:
        with self._changed:
            if batch.key not in self._pids:
                self._waiting.setdefault(batch.key, []).append((batch, buffer))
                return
        self._write(batch, buffer)

    def _write(self, batch: Batch, buffer: memoryview) -> None:
        vm.write(self._pids[batch.key], batch.ranges, vm.address_of(buffer))
        self._buffers.take_back(buffer)
        with self._changed:
            self._placed[batch.key] = self._placed.get(batch.key, 0) + batch.size
            self._changed.notify_all()

    def place(self, pids: Mapping[int, int], connections: int, size: int) -> None:
        """Write everything into processes, which do not run yet; returns when all is there.

        ``pids`` has this node's pid for the key of each process of a dump, of which ``size`` bytes
        were sent. Those of other dumps may be placed at the same time.
        """
        with self._changed:
            self._pids.update(pids)
            waiting = [one for key in pids for one in self._waiting.pop(key, [])]
        for batch, buffer in waiting:
            self._write(batch, buffer)

        def placed() -> int:
            return sum(self._placed.get(key, 0) for key in pids)

        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or placed() == size or self._ended == connections, PATIENCE
            )
            if placed() == size:
                return
            if self._failure is not None:
                raise FlowferryError("restore_failed", f"memory has not come: {self._failure}")
            raise FlowferryError(
                "restore_failed", f"{placed()} of {size} bytes of memory have come"
            )


def batches(lines: JsonLines, room: Callable[[], memoryview]) -> Iterator[tuple[Batch, memoryview]]:
    """What comes over one connection until its end, each with its content at the front of ``room``.

    FlowferryError if something else was announced than has come.
    """
    received = 0
    while True:
        key, count, size = _HEAD.unpack(exactly(lines, _HEAD.size))
        if count == 0:
            break
        batch = Batch(key)
        if count > vm.MOST_RANGES:
            raise _not_announced()
        for start, length in _RANGE.iter_unpack(exactly(lines, count * _RANGE.size)):
            batch.add(start, length)
        if batch.size != size:
            raise _not_announced()
        buffer = room()
        lines.read_into(buffer[:size])
        yield batch, buffer
        received += size
    if received != size:
        raise FlowferryError("transfer_failed", f"{received} of {size} bytes have come")


def _not_announced() -> FlowferryError:
    return FlowferryError("transfer_failed", "memory has come that is not what was announced")


def exactly(lines: JsonLines, size: int) -> bytearray:
    """The next bytes of a connection."""
    data = bytearray(size)
    lines.read_into(memoryview(data))
    return data
