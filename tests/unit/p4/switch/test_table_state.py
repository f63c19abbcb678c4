# SPDX-License-Identifier: Apache-2.0
"""The cell that spares packets the look-up in an empty table."""

from __future__ import annotations

import struct
from typing import cast

from flowferry_p4.switch.entries import TableState
from flowferry_p4.switch.libbpf import Map


class Cells:
    """A map that knows what was written to it."""

    def __init__(self) -> None:
        self.values = {struct.pack("=I", n): bytes(8) for n in range(2)}
        self.writes: list[bytes] = []

    def lookup(self, key: bytes, size: int) -> bytes:
        assert len(self.values[key]) == size
        return self.values[key]

    def update(self, key: bytes, value: bytes) -> None:
        self.values[key] = value
        self.writes.append(value)


def state(cells: Cells, number: int = 0) -> TableState:
    return TableState(cast(Map, cells), number)


def test_only_changes_are_written() -> None:
    cells = Cells()
    table = state(cells)
    table.set(filled=False, defaulted=False)
    table.set(filled=True)
    table.set(filled=True)
    table.set(defaulted=True)
    table.set(filled=False)
    assert cells.writes == [struct.pack("=2I", *pair) for pair in ((1, 0), (1, 1), (0, 1))]


def test_it_is_known_to_the_next_process() -> None:
    cells = Cells()
    state(cells, 1).set(filled=True)
    assert state(cells, 1).filled and not state(cells, 1).defaulted
    assert not state(cells, 0).filled
