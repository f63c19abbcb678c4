# SPDX-License-Identifier: Apache-2.0
"""What a program reports besides packets: digests, log messages, assertions that failed."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable

from .compiler import CompiledProgram, DigestLayout
from .compiler.names import is_wide
from .dataplane import Dataplane

_DIGEST, _LOG, _ASSERTION = range(3)
_WAIT = 100
"""Milliseconds after which the thread looks whether it should end."""

log = logging.getLogger("flowferry_p4.switch.program")


class Events:
    """Receives the events of one data plane in a thread of its own."""

    def __init__(
        self, dataplane: Dataplane, digest: Callable[[str, tuple[int, ...]], None]
    ) -> None:
        self._compiled: CompiledProgram = dataplane.compiled
        self._digest = digest
        self._buffer = dataplane.events(self._receive)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._buffer.poll(_WAIT)

    def _receive(self, record: bytes) -> None:
        kind, number = struct.unpack_from("=II", record)
        values = struct.unpack_from(f"={(len(record) - 8) // 8}Q", record, 8)
        if kind == _DIGEST:
            layout = self._compiled.digests[number]
            self._digest(layout.name, join(layout, values))
            return
        message = self._compiled.messages[number]
        where = f"{message.source}: " if message.source else ""
        if kind == _LOG:
            log.info("%s%s", where, fill(message.text, values))
        else:
            log.warning("%s%s failed", where, message.text)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=2)
        self._buffer.close()


def join(layout: DigestLayout, slots: tuple[int, ...]) -> tuple[int, ...]:
    """The fields of a digest; wide ones take two slots, the upper half first."""
    values = []
    rest = iter(slots)
    for width in layout.widths:
        value = next(rest)
        values.append(value << 64 | next(rest) if is_wide(width) else value)
    return tuple(values)


def fill(text: str, values: tuple[int, ...]) -> str:
    """A message with its values in the place of `{}`."""
    for value in values:
        text = text.replace("{}", str(value), 1)
    return text
