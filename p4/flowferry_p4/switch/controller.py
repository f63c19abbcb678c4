# SPDX-License-Identifier: Apache-2.0
"""A controller that is connected, and what waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from finsy.proto import p4r

from .rpc_errors import RpcFailure

BUDGET = 64 << 20
"""Bytes of packet-ins that wait for a controller; what comes on top is dropped and counted."""
BATCH = 256
"""Packets that go into one message, where a controller takes many at once."""

_MAY_BE_LOST = ("packet", "digest", "idle_timeout_notification")


Box: TypeAlias = "queue.SimpleQueue[p4r.StreamMessageResponse | None]"


@dataclass(eq=False)
class Controller:
    """One open stream."""

    role: str = ""
    election_id: int | None = None  # None: not asked yet, or never primary
    joined: bool = False
    outbox: queue.Queue[p4r.StreamMessageResponse | RpcFailure | None] = field(
        default_factory=queue.Queue
    )
    lost: int = 0
    """Packets that found no room since the last that did."""
    _packets: Box | None = None
    """Where packets wait instead, while the controller takes them by batches()."""
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: p4r.StreamMessageResponse) -> None:
        """Queue what has to arrive."""
        self.outbox.put(message)

    def send_or_lose(self, message: p4r.StreamMessageResponse) -> bool:
        """Queue what may be lost; False when the controller reads too slowly to take more."""
        size = message.ByteSize()
        with self._lock:
            if self._waiting + size > BUDGET:
                self.lost += 1
                return False
            self._waiting += size
            self.lost = 0
            if self._packets is not None and message.WhichOneof("update") == "packet":
                self._packets.put(message)
            else:
                self.outbox.put(message)
        return True

    def sent(self, message: p4r.StreamMessageResponse) -> None:
        """A message is on its way: there is room again."""
        if message.WhichOneof("update") in _MAY_BE_LOST:
            with self._lock:
                self._waiting -= message.ByteSize()

    def batches(self, box: Box) -> Iterator[list[p4r.PacketIn]]:
        """Packets from now on, each time all that wait; until None is put into the box.

        The first is empty. What nobody takes any more goes to the outbox.
        """
        with self._lock:
            if self._packets is not None:
                self._packets.put(None)
            self._packets = box
        try:
            yield []
            while batch := _all_that_wait(box):
                for message in batch:
                    self.sent(message)
                yield [message.packet for message in batch]
        finally:
            self._leave(box)

    def end_batches(self) -> None:
        """The stream has ended, to which they belong."""
        with self._lock:
            if self._packets is not None:
                self._packets.put(None)

    def _leave(self, box: Box) -> None:
        with self._lock:
            if self._packets is box:
                self._packets = None
            while not box.empty():
                if message := box.get():
                    self.outbox.put(message)


def _all_that_wait(box: Box) -> list[p4r.StreamMessageResponse]:
    """At least one, at most BATCH; none at the end."""
    batch: list[p4r.StreamMessageResponse] = []
    while len(batch) < BATCH and not (batch and box.empty()):
        message = box.get()
        if message is None:
            box.put(None)  # the end, also for whoever asks next
            break
        batch.append(message)
    return batch
