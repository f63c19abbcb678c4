# SPDX-License-Identifier: Apache-2.0
"""Which memory goes past CRIU: of real processes, which have it mapped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.memory.regions import (
    SMALLEST,
    Regions,
    resident,
)

from .test_memory_stream import PLACE, SIZE, Holder


@pytest.fixture
def holder() -> Iterator[Callable[[], Holder]]:
    """Starts processes that have SIZE bytes at PLACE."""
    started: list[Holder] = []

    def start() -> Holder:
        started.append(Holder("empty"))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_large_memory_of_one_process_goes_apart(holder: Callable[[], Holder]) -> None:
    regions = Regions({7: holder().pid})
    assert regions.has(7, PLACE, PLACE + SIZE)
    assert regions.has(7, PLACE + 4096, PLACE + 8192)
    assert not regions.has(7, PLACE + SIZE - 4096, PLACE + SIZE + 4096), "not beyond its end"
    assert not regions.has(7, PLACE - 4096, PLACE + 4096), "not before its beginning"
    assert not regions.has(8, PLACE, PLACE + SIZE), "not of somebody else"


def test_what_is_in_use_of_it_is_counted(holder: Callable[[], Holder]) -> None:
    assert resident([holder().pid]) == 0, "nothing was written to it"
    full = Holder("full")
    try:
        assert 0 <= resident([full.pid]) - SIZE < SIZE // 2, "and what the program itself has"
        assert resident([1 << 30]) == 0, "one that has ended"
    finally:
        full.end()


ABOVE = 2 * SIZE


def test_what_is_beside_shared_memory_goes_apart(holder: Callable[[], Holder]) -> None:
    """One process has more above what both have, and the kernel makes one mapping of it."""
    larger = Holder("full", SIZE + ABOVE)
    try:
        relative = holder().pid
        regions = Regions({7: larger.pid, 8: relative})
        assert regions.has(7, PLACE + SIZE, PLACE + SIZE + ABOVE)
        assert not regions.has(7, PLACE + SIZE - 4096, PLACE + SIZE + 4096)
        assert not regions.has(8, PLACE, PLACE + SIZE)
        assert 0 <= resident([larger.pid, relative]) - ABOVE < SIZE // 2
    finally:
        larger.end()


def test_what_relatives_may_share_stays(holder: Callable[[], Holder]) -> None:
    regions = Regions({7: holder().pid, 8: holder().pid})
    assert not regions.has(7, PLACE, PLACE + SIZE)
    assert not regions.has(8, PLACE, PLACE + SIZE)


def test_stacks_files_and_small_memory_stay() -> None:
    mine = Regions({7: os.getpid()})
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - nothing is mapped meanwhile
        for line in maps:
            area, access, *_ = fields = line.split()
            start, end = (int(word, 16) for word in area.split("-"))
            if fields[-1] == "[stack]" or access[:2] != "rw" or access[3] == "s":
                assert not mine.has(7, start, end), line
    assert SMALLEST > 1 << 20
