# SPDX-License-Identifier: Apache-2.0
"""Idle timeouts: entries that no packet hit for as long as their controller allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from finsy.proto import p4r

from .encoding import Key
from .entities.tables import Tables, entry_message
from .schema import TableSchema

INTERVAL = 0.1
"""Seconds between two looks; a timeout that is shorter is told that much later."""


class IdleTimeouts:
    """Looks at the tables with idle timeouts from time to time."""

    def __init__(
        self,
        tables: Tables,
        lock: threading.RLock,
        send: Callable[[p4r.StreamMessageResponse], object],
    ) -> None:
        self._tables = tables
        self._lock = lock
        self._send = send
        self._told: dict[tuple[int, Key], int] = {}
        """When an entry was last reported: its time counts from there again."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._timed = [t for t in tables.schema.tables.values() if t.idle_timeout]
        if self._timed:
            self._thread = threading.Thread(target=self._run, name="idle", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            for table in self._timed:
                with self._lock:
                    idle = self._idle(table)
                if idle:
                    response = p4r.StreamMessageResponse()
                    response.idle_timeout_notification.timestamp = time.time_ns()
                    response.idle_timeout_notification.table_entry.extend(idle)
                    self._send(response)

    def _idle(self, table: TableSchema) -> list[p4r.TableEntry]:
        store = self._tables.store(table)
        if store.times is None:
            return []
        now = time.monotonic_ns()
        found = []
        for entry in store:
            if not entry.note.idle_timeout_ns:
                continue
            place = (table.id, entry.key)
            since = max(store.times.read(entry.slot), self._told.get(place, 0))
            if now - since >= entry.note.idle_timeout_ns:
                self._told[place] = now
                found.append(entry_message(table, entry))
        return found

    def close(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join(timeout=2)
