# SPDX-License-Identifier: Apache-2.0
"""How much of the time that clients wait is spent in code of this project.

It is the processor time of the threads that they wait for: of the one that serves the keeper, and
of those that it waits for itself. All the rest of the time CRIU works, the kernel, the network or
the switch. What is done beside those, as to send memory while it is dumped, is not counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class OwnTime:
    """Of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What this thread does here."""
        started = time.thread_time()
        try:
            yield
        finally:
            with self._lock:
                self._seconds += time.thread_time() - started

    def take_ms(self) -> float:
        """Milliseconds since this was asked last."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return round(seconds * 1000, 3)


OWN = OwnTime()
