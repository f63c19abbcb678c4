# SPDX-License-Identifier: Apache-2.0
"""Which memory goes past CRIU: the large regions of it, that nobody shares."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SMALLEST = 1 << 22
"""Bytes of a region. What is smaller CRIU brings; it is not worth the trouble."""


class Regions:
    """Those of some processes that stand still; ``pids`` has this node's pid for CRIU's.

    Private anonymous memory that can be read and written. Where another process has some as well it
    may be shared with that page by page since a fork: CRIU restores that as it was.
    """

    def __init__(self, pids: Mapping[int, int]) -> None:
        found = [
            (start, end, pid)
            for pid, here in pids.items()
            for start, end in _large(Path(f"/proc/{here}/maps"))
        ]
        self._of: dict[int, list[tuple[int, int]]] = {}
        for start, end, pid in _alone(found):
            if end - start >= SMALLEST:
                self._of.setdefault(pid, []).append((start, end))

    def has(self, pid: int, start: int, end: int) -> bool:
        """Whether all of that lies in a region."""
        regions = self._of.get(pid, [])
        at = bisect_right(regions, (start, 1 << 64)) - 1
        return at >= 0 and regions[at][0] <= start and end <= regions[at][1]

    def within(self, pid: int, start: int, end: int) -> int:
        """How many bytes between two addresses are in regions."""
        regions = self._of.get(pid, [])
        return sum(max(0, min(end, b) - max(start, a)) for a, b in regions)


def resident(pids: Iterable[int]) -> int:
    """Bytes of such memory that processes have in use, which may run."""
    there = [pid for pid in pids if Path(f"/proc/{pid}/maps").exists()]
    try:
        regions = Regions({pid: pid for pid in there})
        # What is in use of a piece may all be in that part of it which is not in a region.
        return sum(
            max(0, size - (end - start - regions.within(pid, start, end)))
            for pid in there
            for start, end, size in _in_use(pid)
        )
    except OSError:  # one has ended in the meantime
        return 0


def _in_use(pid: int) -> Iterator[tuple[int, int, int]]:
    """Every piece of its memory with the bytes that are its own."""
    start = end = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if words[0] == "Anonymous:":
            yield start, end, int(words[1]) << 10
        elif not words[0].endswith(":"):
            start, end = (int(word, 16) for word in words[0].split("-"))


def _alone(regions: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The parts of regions where only one process has any."""
    ends = [(start, 1, pid) for start, _, pid in regions] + [
        (end, -1, pid) for _, end, pid in regions
    ]
    there: Counter[int] = Counter()
    since = 0
    for at, change, pid in sorted(ends):
        if len(there) == 1 and at > since:
            yield since, at, next(iter(there))
        there[pid] += change
        if there[pid] == 0:
            del there[pid]
        since = at


def _large(maps: Path) -> list[tuple[int, int]]:
    """Adjacent regions are one: the kernel does not merge all that it could."""
    found: list[tuple[int, int]] = []
    for line in maps.read_text().splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else ""
        if fields[1] != "rw-p" or fields[4] != "0" or name not in ("", "[heap]"):
            continue
        start, end = (int(word, 16) for word in fields[0].split("-"))
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return [region for region in found if region[1] - region[0] >= SMALLEST]
