# SPDX-License-Identifier: Apache-2.0
"""The figures that records come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .records import Record, Results

MOVER_NAMES = {"flowferry": "Flowferry", "by hand": "by hand"}


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks, as numpy does it."""
    if not values:
        raise ValueError("no values, no percentile")
    ranked = sorted(values)
    rank = (len(ranked) - 1) * percent / 100
    below, above = math.floor(rank), math.ceil(rank)
    return ranked[below] + (ranked[above] - ranked[below]) * (rank - below)


@dataclass(frozen=True)
class Spread:
    """How a figure is spread over the moves of a kind."""

    count: int
    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        p50, p95, p99 = (percentile(values, percent) for percent in (50, 95, 99))
        return cls(len(values), p50, p95, p99, max(values))


@dataclass(frozen=True)
class Kind:
    """What moved how."""

    mover: str
    runtime: str

    @property
    def label(self) -> str:
        """For people."""
        return f"{MOVER_NAMES[self.mover]}, {self.runtime}"


def kinds(results: Results, series: str) -> list[Kind]:
    """Those of a series, in the order in which they were measured."""
    found = [Kind(move["mover"], move["runtime"]) for move in results.of(series)]
    return list(dict.fromkeys(found))


def moves(results: Results, series: str, kind: Kind) -> list[Record]:
    """The moves of one kind."""
    return results.of(series, mover=kind.mover, runtime=kind.runtime)


def downtimes(records: Sequence[Record]) -> list[float]:
    """Milliseconds."""
    return [move["downtime_ms"] for move in records]


def phases(records: Sequence[Record], key: str = "ms") -> dict[str, float]:
    """The median of each phase, in their order, in milliseconds; of what they have by this key."""
    times: dict[str, list[float]] = {}
    for move in records:
        for phase in move["phases"]:
            if key in phase:
                times.setdefault(phase["name"], []).append(phase[key])
    return {name: statistics.median(values) for name, values in times.items()}


def own_share(records: Sequence[Record]) -> float | None:
    """The median share of the hold that is Flowferry's own code; None where nobody measured it."""
    shares = [move["own_ms"] / move["hold_ms"] for move in records if "own_ms" in move]
    return statistics.median(shares) if shares else None


def gaps(results: Results) -> dict[str, list[float]]:
    """What clients wait beyond the hold, by what was moved (milliseconds); none by hand.

    Of thousands of connections many get their packets long before a hold has sent the last.
    """
    found: dict[str, list[float]] = {}
    for move in results.moves:
        if "hold_ms" in move and move["series"] != "connections":
            load = {
                "memory": f"{move.get('megabytes')} MB",
                "crowd": f"{move.get('each')} busy, {move.get('each')} idle connections",
            }.get(move["series"], "small, under load")
            found.setdefault(load, []).append(move["downtime_ms"] - move["hold_ms"])
    return found


def held(medians: dict[str, float]) -> dict[str, float]:
    """The phases in which clients wait.

    The endpoint is held from one phase to another. By hand the checkpoint freezes the source for
    good, or, when the image goes by a registry, it serves until the route is changed.
    """
    names = list(medians)
    first, last = names[0], names[-1]
    if "hold" in names and "release" in names:
        first, last = "hold", "release"
    elif "push" in names and "redirect" in names:
        first = "redirect"
    return {name: medians[name] for name in names[names.index(first) : names.index(last) + 1]}


def dominant(medians: dict[str, float]) -> tuple[str, float]:
    """The longest phase of the downtime, and its share of it."""
    longest = held(medians)
    name = max(longest, key=lambda one: longest[one])
    return name, longest[name] / sum(longest.values())


def ratio(results: Results, kind: Kind) -> float | None:
    """How many times longer clients wait when it is done by hand, by the medians of one run."""
    reference = results.of("moves", mover="by hand")
    own = moves(results, "moves", kind)
    if not reference or not own:
        return None
    return percentile(downtimes(reference), 50) / percentile(downtimes(own), 50)


def grouped(records: Sequence[Record], name: str) -> dict[int, list[Record]]:
    """The moves for each value that was varied, in ascending order."""
    found: dict[int, list[Record]] = {}
    for move in records:
        found.setdefault(move[name], []).append(move)
    return dict(sorted(found.items()))


def by_value(records: Sequence[Record], name: str) -> dict[int, list[float]]:
    """Their downtimes."""
    return {value: downtimes(some) for value, some in grouped(records, name).items()}


@dataclass(frozen=True)
class Steps:
    """The steps of a move of so much memory taken alone, and Flowferry's moves of as much."""

    megabytes: int
    alone: dict[str, float]
    """The median of each step (milliseconds)."""
    downtimes: dict[str, float]
    """Medians by runtime (milliseconds)."""

    @property
    def longest(self) -> float:
        """Of the steps (milliseconds)."""
        return max(self.alone.values())


def steps(results: Results) -> list[Steps]:
    """By memory, in ascending order."""
    found = []
    for size in sorted({record["megabytes"] for record in results.steps}):
        taken = [record["ms"] for record in results.steps if record["megabytes"] == size]
        alone = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
        moved: dict[str, list[float]] = {}
        for move in results.of("memory", mover="flowferry", megabytes=size):
            moved.setdefault(move["runtime"], []).append(move["downtime_ms"])
        medians = {runtime: statistics.median(times) for runtime, times in moved.items()}
        found.append(Steps(size, alone, medians))
    return found


def harm(records: Sequence[Record]) -> tuple[int, int]:
    """Broken connections, and answers that were lost or came twice, of all clients."""
    told = [error for move in records for error in _errors(move)]
    wrong = sum("came after" in error for error in told)
    return len(told) - wrong, wrong


def lost(records: Sequence[Record]) -> int:
    """Increments that were acknowledged and that the copy did not know of, of all clients."""
    told = [error.split(" came after ") for move in records for error in _errors(move)]
    steps = [(int(pair[0].split()[-1]), int(pair[1])) for pair in told if len(pair) == 2]
    return sum(before - value + 1 for value, before in steps if value <= before)


def _errors(move: Record) -> list[str]:
    crowd: list[str] = move.get("crowd", {}).get("errors", [])
    errors: list[str] = move["errors"]
    return errors + crowd
