# SPDX-License-Identifier: Apache-2.0
"""What an agent remembers from one pass to the next, and for how long it believes that."""

from __future__ import annotations

import time

from flowferry_p4.client import Session

from .record import Record
from .virtual import Expanded

# Reading all of a switch to find what others have changed takes a fiftieth of the time at most.
_PATIENCE = 50


class Memory:
    """A record of the switch. Whatever may have made it untrue ends it.

    That is a pass that fails, another session, a migration, and some time; then the switch is read.
    """

    def __init__(self, every: float = 30.0) -> None:
        """``every`` (seconds): how old a record gets, where reading the switch is quick."""
        self.expanded: Expanded = {}
        self._every = every
        self._record: Record | None = None
        self._session: Session | None = None
        self._until = 0.0

    def take(self, session: Session) -> Record | None:
        """The record, for the pass that begins; who does not put one back has ended it."""
        record, self._record = self._record, None
        if session is not self._session or time.monotonic() >= self._until:
            return None
        return record

    def put(self, session: Session, record: Record | None) -> None:
        self._session, self._record = session, record

    def has_read(self, seconds: float) -> None:
        """The switch was read and compared, which took so long."""
        self._until = time.monotonic() + max(self._every, _PATIENCE * seconds)
