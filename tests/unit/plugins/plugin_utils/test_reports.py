# SPDX-License-Identifier: Apache-2.0
"""Events are kept back, told in their order, and never for long."""

from __future__ import annotations

import threading
from typing import Any

from ansible_collections.flowferry.core.plugins.plugin_utils.migration.reports import Reports


def test_events_are_told_in_order_when_clients_do_not_wait_any_more() -> None:
    told: list[dict[str, Any]] = []
    reports = Reports(told.append)
    reports({"event": 1})
    reports.keep_back(60.0)
    reports({"event": 2})
    reports({"event": 3})
    assert told == [{"event": 1}]
    reports.tell()
    reports({"event": 4})
    assert told == [{"event": number} for number in (1, 2, 3, 4)]


def test_a_long_hold_is_told_of_while_it_lasts() -> None:
    told = threading.Event()
    reports = Reports(lambda event: told.set())
    reports.keep_back(0.05)
    reports({"event": 1})
    assert told.wait(10)
