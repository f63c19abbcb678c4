# SPDX-License-Identifier: Apache-2.0
"""What a series does with its test bed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmark.methods import Moved
from benchmark.records import read
from benchmark.series import MOVERS, SERIES
from demo.lab_control import LabError

HAND = {"series": "crowd", "runtime": "pod", "mover": "by hand"}


class Client:
    def seen(self, question: str = "") -> dict[str, Any]:
        return {"longest_ms": 1.0, "errors": []}


class FullBed:
    """Of a Redis that takes so many connections, and never hears that one has ended."""

    lab = runtime = None

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.connections = 0

    def location(self) -> str:
        return "node1"

    def end_connections(self) -> None:
        self.connections = 0

    @contextmanager
    def load(self) -> Iterator[Client]:
        yield self._connect(2)

    @contextmanager
    def crowd(self, count: int, idle: int = 0) -> Iterator[Client]:
        yield self._connect(count + idle)

    def _connect(self, count: int) -> Client:
        self.connections += count
        if self.connections > self.limit:
            raise LabError("-ERR max number of clients reached")
        return Client()


def test_connections_that_moves_have_broken_do_not_fill_redis(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOVERS, "by hand", lambda *_: Moved(1.0, []))
    SERIES["crowd"](file, FullBed(300), HAND, 4, 100)
    assert [move["number"] for move in read(file).of("crowd", each=100)] == [0, 1, 2, 3]
