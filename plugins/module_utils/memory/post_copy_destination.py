# SPDX-License-Identifier: Apache-2.0
"""Memory that comes after the process that it belongs to: post-copy, the destination's end.

CRIU restores the process without it (criu/uffd.c has the protocol by which it hands over the
userfaultfd). What the process touches is asked for and comes by a connection of its own; all the
rest follows by the others, in the order of addresses. A process cannot go back from here: neither
end has all of it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from ..transfer import JsonLines
from . import vm
from .buffers import PATIENCE, PIECE
from .guard import Guard
from .missing import Missing, Piece
from .requests import ALL_HAS_COME, REQUEST, START, notice_lost_peer
from .stream import batches
from .userfault import FAULT, FORK, PAGE, REMAP, REMOVE, UNMAP, Again, Event, Gone, UserFault

SOCKET = "lazy-pages.socket"
"""Which CRIU looks for beside its images."""
_ASKED = 16 * PAGE
"""Bytes that are asked for at once, where they are missing."""
_PID = struct.Struct("@i")
# What CRIU tells after the last process, instead of one more.
_FINISHED = 0x52535446


@dataclass
class _Space:
    """The memory of one process."""

    fault: UserFault
    missing: Missing
    key: int
    asked: set[int] = field(default_factory=set)
    """Addresses at the source; a page is asked for once."""
    waiting: dict[int, float] = field(default_factory=dict)
    """Pages that the process waits for, and since when."""


class PostCopyReceiver:
    """For the processes of one copy. Any failure ends the copy, and state() says why.

    A helper that comes later finds the file ``mark`` then.
    """

    def __init__(self, mark: Path) -> None:
        self._lock = threading.RLock()
        """Held while events are read and while memory is given: none is given to what is gone."""
        self._changed = threading.Condition(self._lock)
        self._spaces: dict[int, _Space] = {}
        """By the descriptors of their userfaultfds."""
        self._expected: dict[int, Missing] = {}
        self._guard = Guard(mark)
        self._events = select.epoll()
        self._requests: JsonLines | None = None
        self._monitor: threading.Thread | None = None
        self._has_begun = self._is_over = False
        self._failure: Exception | None = None
        self._came = self._faults = 0
        self._longest = 0.0

    # -- connections

    def take_requests(self, lines: JsonLines) -> None:
        """The connection by which the source is asked."""
        with self._changed:
            self._requests = lines
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_over)
        lines.shut_down()  # the source need not wait any more

    def receive(self, lines: JsonLines) -> None:
        """Take what comes over one connection, until its end."""
        try:
            notice_lost_peer(lines.connection)
            self._batches(lines)
        except Exception as error:
            self._fail(error)

    def _batches(self, lines: JsonLines) -> None:
        room = memoryview(bytearray(PIECE))
        for batch, content in batches(lines, lambda: room):
            at = vm.address_of(content)
            for start, length in batch.ranges:
                self._give(batch.key, start, length, at)
                at += length

    # -- restore

    def expect(
        self,
        images: Path,
        keys: Mapping[int, int],
        ranges: Mapping[int, Sequence[tuple[int, int]]],
    ) -> None:
        """Before a restore from ``images``: what will be missing, by key, is (address, size).

        ``keys`` has those of the processes by their pids for CRIU.
        """
        with self._lock:
            self._expected.update({key: Missing(found) for key, found in ranges.items()})
        directory = os.open(images, os.O_PATH | os.O_DIRECTORY)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        finally:
            os.close(directory)
        listener.listen(1)
        threading.Thread(target=self._accept, args=(listener, keys), daemon=True).start()

    def _accept(self, listener: socket.socket, keys: Mapping[int, int]) -> None:
        """CRIU tells a process id, and then the descriptor of that process."""
        try:
            with listener:
                listener.settimeout(PATIENCE)
                criu, _ = listener.accept()
            with criu:
                while len(told := criu.recv(_PID.size)) == _PID.size:
                    (pid,) = _PID.unpack(told)
                    if pid in keys:
                        self._add(keys[pid], _received(criu))
                    elif pid > 0 and pid != _FINISHED:
                        os.close(_received(criu))  # it has all of its memory
        except Exception as error:
            self._fail(error)

    def _add(self, key: int, descriptor: int, missing: Missing | None = None) -> None:
        with self._changed:
            if self._is_over:  # a child that was told of together with the end has all, too
                os.close(descriptor)
                return
            os.set_blocking(descriptor, False)
            self._guard.hold(descriptor)
            found = self._expected.pop(key) if missing is None else missing
            self._spaces[descriptor] = _Space(UserFault(descriptor), found, key)
            self._events.register(descriptor, select.EPOLLIN)
            if self._monitor is None:
                self._monitor = threading.Thread(target=self._watch, daemon=True)
                self._monitor.start()
            self._changed.notify_all()

    def place(self, pids: Mapping[int, int], group: Path) -> None:
        """Every process is there and none runs. ``pids`` has this node's for keys.

        They end, with all in the cgroup ``group``, if their memory does not come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not pids.keys() & self._expected, 10.0)
            if self._failure or pids.keys() & self._expected:
                raise FlowferryError(
                    "restore_failed", f"memory cannot come: {self._failure or 'no userfaultfd'}"
                )
            self._guard.watch(group)
            for space in self._spaces.values():
                if space.key in pids:
                    _leave_to_kernel(space, pids[space.key])

    def begin(self) -> None:
        """The copy runs: have the rest follow."""
        with self._lock:
            self._has_begun = True
            self._ask(START, 0, 0)
            self._look_whether_over()

    # -- meanwhile

    def state(self) -> dict[str, Any]:
        """How far it is: ``done``, ``bytes``, ``faults``, ``longest_ms`` that one has waited."""
        with self._lock:
            if self._failure is not None:
                raise FlowferryError("post_copy_failed", f"memory was lost: {self._failure}")
            told = {"done": self._is_over, "bytes": self._came, "faults": self._faults}
            return {**told, "longest_ms": round(self._longest * 1000, 2)}

    @property
    def is_under_way(self) -> bool:
        """Whether the copy runs and memory is missing."""
        return self._has_begun and not self._is_over

    def settle(self, seconds: float) -> None:
        """Wait until nothing is missing, it has failed, or nothing has come for so long."""
        came = -1
        with self._changed:
            while self.is_under_way and self._came != came:
                came = self._came
                self._changed.wait_for(lambda: self._is_over, seconds)

    def close(self) -> None:
        """A copy that misses something is ended."""
        if not self._is_over:
            self._fail(FlowferryError("post_copy_failed", "it was given up"))

    def _watch(self) -> None:
        try:
            while not self._is_over:
                for descriptor, _ in self._events.poll(1.0):
                    with self._lock:
                        space = self._spaces.get(descriptor)
                        for event in space.fault.events() if space else ():
                            assert space is not None
                            self._handle(space, event)
        except Exception as error:
            self._fail(error)

    def _handle(self, space: _Space, event: Event) -> None:
        first, second, third = event.numbers
        if event.kind == FAULT:
            self._touched(space, event.address)
        elif event.kind == FORK:
            self._add(space.key, event.descriptor, space.missing.copy())
        elif event.kind == REMAP:
            space.missing.move(first, second, third)
        elif event.kind in (REMOVE, UNMAP):
            space.missing.cut(first, second - first)
        self._look_whether_over()

    def _touched(self, space: _Space, page: int) -> None:
        """The process waits for this page."""
        self._faults += 1
        found = space.missing.at_source(page, _ASKED)
        if found is None or not space.missing.is_in(page, page + PAGE):
            self._try(space, lambda: space.fault.zero(page))
            return
        space.waiting.setdefault(page, time.monotonic())
        start, size = found
        if start not in space.asked:
            space.asked.update(range(start, start + size, PAGE))
            self._ask(space.key, start, size)

    def _ask(self, key: int, start: int, size: int) -> None:
        self._changed.wait_for(lambda: self._requests, 10.0)
        if self._requests is None:
            raise FlowferryError("post_copy_failed", "the source cannot be asked")
        self._requests.connection.sendall(REQUEST.pack(key, start, size))

    def _give(self, key: int, start: int, size: int, here: int) -> None:
        """To every process that misses what is so called at the source."""
        while True:
            with self._lock:
                spaces = [one for one in self._spaces.values() if one.key == key]
                if all(self._give_to(space, start, size, here) for space in spaces):
                    self._came += size
                    self._look_whether_over()
                    return
            time.sleep(0.0002)  # for the thread that reads events

    def _give_to(self, space: _Space, start: int, size: int, here: int) -> bool:
        """Whether it has all of that; else once more, when its events have been read."""
        for piece in space.missing.pieces(start, size):

            def give(piece: Piece = piece) -> None:
                space.fault.copy(piece.start, piece.size, here + piece.offset)

            if not self._try(space, give):
                return False
            space.missing.cut(piece.start, piece.size)
            for page in [one for one in space.waiting if 0 <= one - piece.start < piece.size]:
                self._longest = max(self._longest, time.monotonic() - space.waiting.pop(page))
        return True

    def _try(self, space: _Space, step: Callable[[], None]) -> bool:
        """Whether it was done. A process that has ended misses nothing."""
        try:
            step()
        except Again:
            return False
        except Gone:
            space.missing = Missing()
        return True

    def _look_whether_over(self) -> None:
        is_left = any(space.missing for space in self._spaces.values()) or self._expected
        if self._is_over or not self._has_begun or is_left:
            return
        self._is_over = True
        self._guard.is_over()
        self._let_go()
        with suppress(OSError, FlowferryError):  # a source that is gone need not be told
            self._ask(ALL_HAS_COME, 0, 0)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if self._is_over or self._failure is not None:
                return  # what comes after the end does not matter
            self._failure = error
            self._guard.end()  # while the descriptors are open still
            self._is_over = True
            self._let_go()

    def _let_go(self) -> None:
        for space in self._spaces.values():
            space.fault.close()
        self._spaces.clear()
        self._changed.notify_all()


def _received(lines: socket.socket) -> int:
    """A descriptor, after which nothing else is taken from the stream."""
    _, descriptors, _, _ = socket.recv_fds(lines, 1, 1)
    if not descriptors:
        raise FlowferryError("restore_failed", "CRIU has handed over no userfaultfd")
    return descriptors[0]


def _leave_to_kernel(space: _Space, pid: int) -> None:
    """Mappings of which nothing is missing: there the kernel need not ask for empty pages."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split(maxsplit=1)[0].split("-"))
        if not space.missing.is_in(start, end):
            space.fault.unregister(start, end - start)
