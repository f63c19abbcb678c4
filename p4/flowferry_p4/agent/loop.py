# SPDX-License-Identifier: Apache-2.0
"""When passes are made: after every change, after a failure, and now and then for nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flowferry_p4.client import P4Error
from flowferry_p4.switch.errors import PortError
from flowferry_p4.wakeup import Wakeup

from .metrics import Metrics
from .problems import Problem
from .reconcile import Result

log = logging.getLogger(__name__)

# A pass that fails costs little, and a switch that is started takes seconds to serve: pods wait for
# it, and for no longer than this (seconds) beyond that.
_LONGEST = 2.0


class Loop:
    """Makes one pass at a time; whoever wakes it meanwhile gets another one afterwards."""

    def __init__(
        self, one_pass: Callable[[], tuple[Result, int]], metrics: Metrics, every: float = 30.0
    ) -> None:
        self._one_pass = one_pass
        self._metrics = metrics
        self._every = every
        self._woken = Wakeup()
        self._ended = False
        self._told: set[Problem] = set()

    def wake(self) -> None:
        self._woken.give()

    def end(self) -> None:
        """From any thread, and from the handler of a signal."""
        self._ended = True
        self._woken.give()

    def run(self) -> None:
        """Until ``end``. After failures it waits longer and longer, up to some seconds."""
        pause = 0.5
        while not self._ended:
            self._woken.clear()
            if self.once():
                pause = 0.5
                self._woken.wait(self._every)
            else:
                self._woken.wait(min(pause, self._every))
                pause = min(2 * pause, _LONGEST)

    def once(self) -> bool:
        begin = time.monotonic()
        try:
            result, pods = self._one_pass()
        except (P4Error, PortError, OSError) as error:
            log.warning("the switch is not as it should be: %s", error)
            self._metrics.failed(str(error))
            return False
        seconds = time.monotonic() - begin
        self._metrics.passed(result, pods, seconds)
        if result.writes:
            log.info("%d writes, %d entries, %.3f s", result.writes, result.entries, seconds)
        self._tell(result.problems)
        return True

    def _tell(self, problems: list[Problem]) -> None:
        """Each problem once, when it comes and when it is gone."""
        now = set(problems)
        for problem in sorted(now - self._told, key=str):
            log.warning("%s", problem)
        for problem in sorted(self._told - now, key=str):
            log.info("no more: %s", problem)
        self._told = now
