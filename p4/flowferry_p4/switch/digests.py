# SPDX-License-Identifier: Apache-2.0
"""Digests on their way to the primary: collected, told once, and told again when nobody
acknowledges them (P4Runtime 1.5, section 9.8).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finsy.proto import p4i, p4r, p4t

from .entities.data import to_data
from .entities.handler import DELETE, INSERT, MODIFY, Undo
from .entries import EntryExists, EntryMissing
from .notebook import Notebook
from .rpc_errors import invalid, not_found
from .schema import Schema

_LARGEST = 1024
"""Digests of a list whose size the controller leaves open."""
_TICK = 0.01


@dataclass
class _Digest:
    """One digest instance that is enabled."""

    info: p4i.Digest
    config: p4r.DigestEntry.Config
    buffer: dict[tuple[int, ...], None] = field(default_factory=dict)
    """What waits to be sent, each once, in the order of its arrival."""
    since: float = 0.0
    sent: dict[int, tuple[float, frozenset[tuple[int, ...]]]] = field(default_factory=dict)
    """Lists that are not acknowledged, with the time they left."""

    def is_known(self, values: tuple[int, ...]) -> bool:
        return values in self.buffer or any(values in told for _, told in self.sent.values())

    @property
    def is_due(self) -> bool:
        """Whether the buffer has to be sent at this moment."""
        if not self.buffer:
            return False
        waited = time.monotonic() - self.since
        most = self.config.max_list_size or _LARGEST
        return len(self.buffer) >= most or waited * 1e9 >= self.config.max_timeout_ns

    def forget(self) -> None:
        """Lists that are too old count no longer."""
        limit = time.monotonic() - self.config.ack_timeout_ns / 1e9
        for number in [n for n, (left, _) in self.sent.items() if left <= limit]:
            del self.sent[number]


class Digests:
    """The digests of one pipeline; an entity of it, and the way to the controller."""

    def __init__(
        self,
        schema: Schema,
        send: Callable[[p4r.StreamMessageResponse], object],
        notes: Notebook,
    ) -> None:
        self._schema = schema
        self._types: p4t.P4TypeInfo = schema.p4info.type_info
        self._send = send
        self._enabled: dict[int, _Digest] = {}
        self._ids = {d.preamble.name: number for number, d in schema.digests.items()}
        self._lock = threading.Lock()
        self._lists = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._notes = notes
        self._recall()

    def _recall(self) -> None:
        """Lists that a process before this one had enabled: nothing but the notes has them."""
        for _, number in list(self._notes.found_at("digest")):
            line = next(self._notes.candidates(("digest", number)))
            if line is not None and isinstance(number, int):
                self._set(number, p4r.DigestEntry.Config.FromString(bytes.fromhex(line)))

    # the entity
    def write(self, kind: int, message: p4r.DigestEntry) -> Undo:
        number = message.digest_id
        if number not in self._schema.digests:
            raise not_found(f"the pipeline has no digest {number}")
        if kind not in (INSERT, MODIFY, DELETE):
            raise invalid("an update is INSERT, MODIFY or DELETE")
        name = self._schema.digests[number].preamble.name
        before = self._enabled.get(number)
        if kind == INSERT and before:
            raise EntryExists(f"digest {name} is enabled already")
        if kind != INSERT and not before:
            raise EntryMissing(f"digest {name} is not enabled")
        config = p4r.DigestEntry.Config()
        config.CopyFrom(message.config)
        old = before.config if before else None
        self._set(number, None if kind == DELETE else config)
        return lambda: self._set(number, old)

    def _set(self, number: int, config: p4r.DigestEntry.Config | None) -> None:
        note = None if config is None else config.SerializeToString().hex()
        self._notes.write(("digest", number), note)
        with self._lock:
            known = self._enabled.get(number)
            if config is None:
                self._enabled.pop(number, None)
            elif known:
                known.config = config
            else:
                self._enabled[number] = _Digest(self._schema.digests[number], config)
        if self._enabled and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="digests", daemon=True)
            self._thread.start()

    def read(self, message: p4r.DigestEntry) -> list[p4r.Entity]:
        number = message.digest_id
        if number and number not in self._schema.digests:
            raise not_found(f"the pipeline has no digest {number}")
        numbers = [number] if number else list(self._enabled)
        return [
            p4r.Entity(digest_entry=p4r.DigestEntry(digest_id=n, config=self._enabled[n].config))
            for n in numbers
            if n in self._enabled
        ]

    # the way to the controller
    def report(self, name: str, values: tuple[int, ...]) -> None:
        """Take what the program reports."""
        number = self._ids.get(name)
        with self._lock:
            digest = self._enabled.get(number) if number is not None else None
            if digest is None:
                return
            digest.forget()
            if digest.is_known(values):
                return
            if not digest.buffer:
                digest.since = time.monotonic()
            digest.buffer[values] = None
            if digest.is_due:
                self._send_list(number or 0, digest)

    def acknowledge(self, message: p4r.DigestListAck) -> None:
        if message.digest_id not in self._schema.digests:
            raise invalid(f"the pipeline has no digest {message.digest_id}")
        with self._lock:
            digest = self._enabled.get(message.digest_id)
            if digest:
                digest.sent.pop(message.list_id, None)

    def _run(self) -> None:
        while not self._stopping.wait(_TICK):
            with self._lock:
                for number, digest in self._enabled.items():
                    if digest.is_due:
                        self._send_list(number, digest)

    def _send_list(self, number: int, digest: _Digest) -> None:
        self._lists += 1
        response = p4r.StreamMessageResponse()
        told = response.digest
        told.digest_id, told.list_id, told.timestamp = number, self._lists, time.time_ns()
        for values in digest.buffer:
            told.data.append(to_data(digest.info.type_spec, iter(values), self._types))
        if digest.config.ack_timeout_ns:
            digest.sent[self._lists] = (time.monotonic(), frozenset(digest.buffer))
        digest.buffer.clear()
        self._send(response)

    def close(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join(timeout=2)
