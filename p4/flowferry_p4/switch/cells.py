# SPDX-License-Identifier: Apache-2.0
"""Arrays that the data plane works on: counters, the rates of meters, registers."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from . import libbpf

_COUNTER = struct.Struct("=QQ")
_RATES = struct.Struct("=4Q2I")


def _key(index: int) -> bytes:
    return struct.pack("=I", index)


@dataclass(frozen=True)
class Counts:
    packets: int = 0
    bytes: int = 0


class CounterMap:
    """A per-CPU array of packet and byte counts."""

    def __init__(self, counters: libbpf.Map) -> None:
        self._map = counters
        self._size = _COUNTER.size * libbpf.possible_cpus()

    def read(self, index: int) -> Counts:
        raw = self._map.lookup(_key(index), self._size)
        pairs = list(_COUNTER.iter_unpack(raw))
        return Counts(sum(p for p, _ in pairs), sum(b for _, b in pairs))

    def write(self, index: int, counts: Counts = Counts()) -> None:
        """Set the total: the first CPU carries it, the others start at zero."""
        value = _COUNTER.pack(counts.packets, counts.bytes).ljust(self._size, b"\0")
        self._map.update(_key(index), value)


@dataclass(frozen=True)
class Rates:
    """A meter's rates by the second, with the bursts that they allow."""

    committed: int
    committed_burst: int
    peak: int
    peak_burst: int


class MeterMap:
    """The rates of an array of meters; None where every packet is green."""

    def __init__(self, rates: libbpf.Map) -> None:
        self._map = rates

    def read(self, index: int) -> Rates | None:
        rates, configured, _ = self._read(index)
        return rates if configured else None

    def _read(self, index: int) -> tuple[Rates, int, int]:
        *rates, configured, generation = _RATES.unpack(self._map.lookup(_key(index), _RATES.size))
        return Rates(*rates), configured, generation

    def write(self, index: int, rates: Rates | None) -> None:
        """New rates begin with full buckets, also where they are the old ones."""
        _, _, generation = self._read(index)
        after = (generation + 1) & 0xFFFFFFFF
        given = rates or Rates(0, 0, 0, 0)
        value = _RATES.pack(
            given.committed, given.committed_burst, given.peak, given.peak_burst,
            1 if rates else 0, after,
        )  # fmt: skip
        self._map.update(_key(index), value)


class RegisterMap:
    """An array of numbers."""

    def __init__(self, cells: libbpf.Map, width: int) -> None:
        self._map = cells
        self.width = width
        self._size = 16 if width > 64 else 8

    def read(self, index: int) -> int:
        return int.from_bytes(self._map.lookup(_key(index), self._size), sys.byteorder)

    def write(self, index: int, value: int) -> None:
        self._map.update(_key(index), value.to_bytes(self._size, sys.byteorder))


class TimeMap:
    """When each entry was last hit, in nanoseconds of the monotonic clock."""

    def __init__(self, times: libbpf.Map) -> None:
        self._map = times

    def read(self, index: int) -> int:
        return int.from_bytes(self._map.lookup(_key(index), 8), sys.byteorder)

    def write(self, index: int, nanoseconds: int) -> None:
        self._map.update(_key(index), nanoseconds.to_bytes(8, sys.byteorder))
