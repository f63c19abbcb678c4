# SPDX-License-Identifier: Apache-2.0
"""Memory that comes after the process that it belongs to: post-copy, the source's end.

What is named while the process is dumped is sent once its copy runs, and before that what the copy
asks for. The process stands still here until the copy has all of it.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Collection

from ..errors import FlowferryError
from ..transfer import connect
from .buffers import PATIENCE, PIECE
from .requests import ALL_HAS_COME, REQUEST, REQUESTS, START, notice_lost_peer
from .stream import HEAD_ROOM, PURPOSE, Batch, Sender, exactly

# While the copy asks for something, it is not to wait behind what it does not need yet (seconds).
_QUIET = 0.005


class PostCopySender(Sender):
    """Named memory waits until the destination wants it."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, port, context, timeout)
        # One for each direction: a TLS connection is not to be read and written by two threads.
        self._asked = connect(host, port, context, REQUESTS, timeout)
        self._answers = connect(host, port, context, PURPOSE, timeout)
        notice_lost_peer(self._asked.connection)  # a copy that is not there yet asks for nothing
        self._answers.connection.settimeout(PATIENCE)
        self._named: list[tuple[int, int, int]] = []
        self._has_started = False
        self._quiet_from = 0.0
        self._over = threading.Event()
        self._server: threading.Thread | None = None

    def begin(self) -> None:
        self._server = threading.Thread(target=self._serve, daemon=True)
        self._server.start()

    def _name(self, key: int, start: int, size: int) -> None:
        self._named.append((key, start, size))  # clients wait meanwhile

    def finish(self) -> None:
        """What is named is sent once the copy runs."""

    def _may_send(self) -> None:
        while (left := self._quiet_from - time.monotonic()) > 0:
            time.sleep(left)

    def named(self, keys: Collection[int]) -> dict[int, list[tuple[int, int]]]:
        """What will be missing of these processes: the address and the size of each range."""
        ranges: dict[int, list[tuple[int, int]]] = {}
        for key, start, size in self._named:
            if key in keys:
                ranges.setdefault(key, []).append((start, size))
        return ranges

    @property
    def is_under_way(self) -> bool:
        return self._has_started and not self._over.is_set()

    def close(self) -> None:
        """A copy that runs gets what it lacks first."""
        if self._has_started:
            self._over.wait()
        for lines in (self._asked, self._answers):
            lines.shut_down()
        if self._server is not None:
            self._server.join(10.0)
        for lines in (self._asked, self._answers):
            lines.close()
        super().close()

    def _serve(self) -> None:
        try:
            self._answer_all()
        except (OSError, FlowferryError):
            self._answers.shut_down()  # the destination notices, and says so
        finally:
            self._over.set()

    def _answer_all(self) -> None:
        buffer = bytearray(HEAD_ROOM + PIECE)
        while True:
            key, start, size = REQUEST.unpack(exactly(self._asked, REQUEST.size))
            if key == ALL_HAS_COME:
                return
            if key == START:
                self._has_started = True
                threading.Thread(target=self._send_named, daemon=True).start()
            else:
                self._answer(buffer, key, start, size)
            self._quiet_from = time.monotonic() + _QUIET

    def _send_named(self) -> None:
        super().begin()
        for one in self._named:
            self._may_send()
            with self._naming:
                super()._name(*one)
        super().finish()

    def _answer(self, buffer: bytearray, key: int, start: int, size: int) -> None:
        batch = Batch(key)
        if key not in self._pids or batch.add(start, size) != size:
            raise FlowferryError(
                "transfer_failed", f"{size} bytes of the unknown process {key} are wanted"
            )
        self._send_batch(self._answers, buffer, batch)
