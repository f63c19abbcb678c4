# SPDX-License-Identifier: Apache-2.0
"""The rules of a linearly searched table, in the order in which they are tried."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import libbpf
from .compiler import TableLayout
from .encoding import Key, decode_rule, encode_rule, rule_size

_ZERO = struct.pack("=I", 0)


class Scan:
    """A linearly searched table: rules in order of priority, in two banks."""

    def __init__(self, layout: TableLayout, maps: libbpf.Maps) -> None:
        self.layout = layout
        self._rules = maps.map(f"table_{layout.ident}")
        self._bank = maps.map(f"bank_of_{layout.ident}")
        self._rows: dict[Key, _Row] = {}
        self._arrivals = 0
        self._active = 0
        self._changed = False

    def put(self, key: Key, value: bytes) -> None:
        known = self._rows.get(key)
        self._arrivals += 1
        arrival = known.arrival if known else self._arrivals
        self._rows[key] = _Row(-key.priority, arrival, encode_rule(self.layout, key) + value)
        self._changed = True

    def remove(self, key: Key) -> None:
        del self._rows[key]
        self._changed = True

    def publish(self) -> None:
        if not self._changed:
            return
        bank = 1 - self._active
        first = bank * self.layout.size
        rows = sorted(self._rows.values())
        self._rules.update_many(first, [row.data for row in rows])
        self._bank.update(_ZERO, struct.pack("=Q", first << 32 | len(rows)))
        self._active = bank
        self._changed = False

    def recall(self) -> Iterator[tuple[Key, bytes]]:
        """Read the active bank of a table that was filled before: keys and values."""
        (bank,) = struct.unpack("=Q", self._bank.lookup(_ZERO, 8))
        first, count = bank >> 32, bank & 0xFFFFFFFF
        self._active = first // self.layout.size
        front = rule_size(self.layout)
        size = front + 8 + 8 * self.layout.arguments
        for index in range(first, first + count):
            data = self._rules.lookup(struct.pack("=I", index), size)
            key = decode_rule(self.layout, data)
            self._arrivals += 1
            self._rows[key] = _Row(-key.priority, self._arrivals, data)
            yield key, data[front:]


@dataclass(frozen=True, order=True)
class _Row:
    """A rule where it stands: the highest priority first, then the oldest."""

    rank: int
    arrival: int
    data: bytes
