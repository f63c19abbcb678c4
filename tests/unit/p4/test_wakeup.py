# SPDX-License-Identifier: Apache-2.0
"""What may wake a thread, and when."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from flowferry_p4.wakeup import Wakeup

ROOT = Path(__file__).resolve().parents[3]

# Each of the signals comes while the main thread is somewhere in `wait`: with a lock that the
# handler takes as well, that ends within the first thousand.
STORM = """
import signal, time
from flowferry_p4.wakeup import Wakeup

wakeup, handled = Wakeup(), 0

def handler(*_):
    global handled
    handled += 1
    wakeup.give()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while handled < 3000:
    wakeup.wait(0.00001)
signal.setitimer(signal.ITIMER_REAL, 0)
print("done")
"""


def test_a_signal_may_come_at_any_moment() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STORM],
        env={"PYTHONPATH": str(ROOT / "p4")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stdout == "done\n", ended.stderr


def test_what_was_given_before_ends_the_next_wait_once() -> None:
    wakeup = Wakeup()
    wakeup.give()
    wakeup.give()
    wakeup.wait(0.00001)
    begin = time.monotonic()
    wakeup.wait(0.05)
    assert time.monotonic() - begin >= 0.05


def test_what_was_given_can_be_forgotten() -> None:
    wakeup = Wakeup()
    wakeup.give()
    wakeup.clear()
    begin = time.monotonic()
    wakeup.wait(0.05)
    assert time.monotonic() - begin >= 0.05


def test_it_wakes_from_a_wait_without_end() -> None:
    wakeup = Wakeup()
    thread = threading.Thread(target=wakeup.wait)
    thread.start()
    wakeup.give()
    thread.join(10)
    assert not thread.is_alive()


def test_a_signal_ends_a_wait_without_end() -> None:
    wakeup = Wakeup()
    before = signal.signal(signal.SIGALRM, lambda *_: wakeup.give())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        wakeup.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
