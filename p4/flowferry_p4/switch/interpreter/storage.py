# SPDX-License-Identifier: Apache-2.0
"""What of a program outlives a packet, and actions read and write: counters and registers."""

from __future__ import annotations

from collections import defaultdict

from .state import Json, State


class Storage:
    """The counters and registers of a program."""

    def __init__(self, document: Json) -> None:
        self.counters: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(
            lambda: defaultdict(lambda: [0, 0])
        )
        self.registers = {
            r["name"]: [0] * (r.get("size") or 1) for r in document.get("register_arrays", [])
        }
        self._widths = {r["name"]: r["bitwidth"] for r in document["register_arrays"]}

    def count(self, name: str, index: int, state: State) -> None:
        cell = self.counters[name][index]
        cell[0] += 1
        cell[1] += state.metadata("packet_length")

    def register(self, name: str, index: int) -> int:
        cells = self.registers[name]
        return cells[index] if 0 <= index < len(cells) else 0

    def set_register(self, name: str, index: int, value: int) -> None:
        cells = self.registers[name]
        if 0 <= index < len(cells):
            cells[index] = value & (1 << self._widths[name]) - 1
