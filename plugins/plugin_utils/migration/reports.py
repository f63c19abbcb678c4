# SPDX-License-Identifier: Apache-2.0
"""What a move says while it goes on, but not while clients wait: to draw it takes a processor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Report = Callable[[dict[str, Any]], None]


class Reports:
    """Events on their way to whoever watches, in order; they can be kept back for a while."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._kept: list[dict[str, Any]] = []
        self._keeps = False
        self._lock = threading.Lock()

    def __call__(self, event: dict[str, Any]) -> None:
        with self._lock:
            if self._keeps:
                self._kept.append(event)
            else:
                self._report(event)

    def keep_back(self, limit: float) -> None:
        """Until tell() is called, or for so many seconds: then a person wants to see progress."""
        self._keeps = True
        timer = threading.Timer(limit, self.tell)
        timer.daemon = True
        timer.start()

    def tell(self) -> None:
        """What was kept back, and from now on everything at once."""
        with self._lock:
            self._keeps = False
            for event in self._kept:
                self._report(event)
            self._kept.clear()
