# SPDX-License-Identifier: Apache-2.0
"""Which memory of a process has not come yet, and what that is called where it comes from.

The process runs meanwhile. It may move memory (mremap), give it back, and fork.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """Memory that has come and is missing."""

    start: int
    size: int
    offset: int
    """Of its content in what has come."""


class Intervals:
    """Sets of addresses that are adjacent: [start, end), none touching another."""

    def __init__(self, of: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in of:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, end: int) -> None:
        """Take these in, too."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        """Those of them that are between two addresses."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        return [
            (max(start, a), min(end, b))
            for a, b in zip(self._starts[first:last], self._ends[first:last])
        ]

    def cut(self, start: int, end: int) -> None:
        """Without what is between two addresses."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return
        before, after = (self._starts[first], start), (end, self._ends[last - 1])
        rest = [(a, b) for a, b in (before, after) if a < b]
        self._starts[first:last] = [a for a, _ in rest]
        self._ends[first:last] = [b for _, b in rest]


class Missing:
    """Of one process. An address of the source plus a distance is the address that it has here."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """``ranges`` have the start and the size of each, at the source."""
        self._by_distance = {0: Intervals((start, start + size) for start, size in ranges)}

    def __bool__(self) -> bool:
        return any(self._by_distance.values())

    def copy(self) -> Missing:
        """That of a child, at the moment of its birth."""
        child = Missing()
        child._by_distance = {key: Intervals(found) for key, found in self._by_distance.items()}
        return child

    def pieces(self, start: int, size: int) -> list[Piece]:
        """Where that belongs which is so called at the source, as far as it is missing."""
        return [
            Piece(a, b - a, a - distance - start)
            for distance, found in self._by_distance.items()
            for a, b in found.within(start + distance, start + size + distance)
        ]

    def cut(self, start: int, size: int) -> None:
        """This has come, or nobody needs it any more."""
        for found in self._by_distance.values():
            found.cut(start, start + size)

    def at_source(self, start: int, size: int) -> tuple[int, int] | None:
        """What to ask the source for: the first of it that is missing, with its size."""
        asked = [
            (a, b - a, distance)
            for distance, found in self._by_distance.items()
            for a, b in found.within(start, start + size)
        ]
        if not asked:
            return None
        here, length, distance = min(asked)
        return here - distance, length

    def move(self, old: int, new: int, size: int) -> None:
        """The process has given that another address."""
        moved = [
            (a - old + new, b - old + new, distance - old + new)
            for distance, found in self._by_distance.items()
            for a, b in found.within(old, old + size)
        ]
        self.cut(old, size)
        self.cut(new, size)
        for start, end, distance in moved:
            self._by_distance.setdefault(distance, Intervals()).add(start, end)

    def is_in(self, start: int, end: int) -> bool:
        """Whether something between two addresses is missing."""
        return any(found.within(start, end) for found in self._by_distance.values())
