# SPDX-License-Identifier: Apache-2.0
"""Writes of a pass, one batch after the other, while the next ones are computed.

The switch is another process, which works on a batch as long as it takes to compute one.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from flowferry_p4.client import Session, Update

from .announce import announce
from .links import Uplink


class Writer:
    """Of one pass. What fails is raised by the next write() or wait(), and nothing follows it."""

    def __init__(self, session: Session, uplink: Uplink | None) -> None:
        self.written = 0
        """Updates that the switch has taken or is about to."""
        self._session = session
        self._uplink = uplink
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._last: Future[None] | None = None

    def write(self, batches: Iterable[list[Update]]) -> None:
        """Have batches written in this order, behind those before them."""
        for batch in batches:
            self.wait()
            self._last = self._thread.submit(self._put, batch)
            self.written += len(batch)

    def wait(self) -> None:
        """Until the switch has all of them."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def _put(self, batch: list[Update]) -> None:
        self._session.write(batch)
        if self._uplink:
            announce(self._session, batch, self._uplink)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
