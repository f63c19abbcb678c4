# SPDX-License-Identifier: Apache-2.0
"""Only the time in which a thread works counts, and not that in which it waits."""

from __future__ import annotations

import threading
import time

from ansible_collections.flowferry.core.plugins.module_utils.own_time import OwnTime


def work(own: OwnTime, ms: float) -> None:
    """So much processor time, however busy the machine is."""
    with own.counted():
        end = time.thread_time() + ms / 1000
        while time.thread_time() < end:
            pass


def test_work_counts_and_waiting_does_not() -> None:
    own = OwnTime()
    work(own, 20)
    beside = threading.Thread(target=work, args=(own, 30))
    beside.start()
    with own.counted():
        beside.join()
    assert 50 <= own.take_ms() < 65
    assert own.take_ms() == 0
