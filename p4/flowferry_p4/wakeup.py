# SPDX-License-Identifier: Apache-2.0
"""A wake-up that the handler of a signal may give.

A handler runs between two steps of the main thread. threading.Event takes a lock in `set` that the
main thread may have just taken in `wait`: both would then wait for ever. SimpleQueue's `put` is
documented to be reentrant.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue


class Wakeup:
    """What wakes the one thread that waits for it, now or when it waits next."""

    def __init__(self) -> None:
        self._given: SimpleQueue[None] = SimpleQueue()

    def give(self) -> None:
        """From any thread, and from the handler of a signal."""
        self._given.put(None)

    def clear(self) -> None:
        """Forget what was given until now."""
        with suppress(Empty):
            while True:
                self._given.get_nowait()

    def wait(self, seconds: float | None = None) -> None:
        """Until it is given, or ``seconds`` have passed. Several that came are one."""
        with suppress(Empty):
            self._given.get(timeout=seconds)
            self.clear()
