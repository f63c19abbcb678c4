# SPDX-License-Identifier: Apache-2.0
"""The series of the benchmark: each writes records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from demo.lab_control import NODES, Lab, LabError
from demo.traffic import TrafficClient

from . import pods, steps, switch
from .bed import Bed
from .methods import RUNTIMES, Moved, Mover, Runtime, by_hand, with_flowferry
from .records import Record, append


def _by_hand(lab: Lab, runtime: Runtime, source: str, destination: str) -> Moved:
    """Each runtime has a way of its own."""
    mover = pods.by_hand if runtime.is_kubernetes else by_hand
    return mover(lab, runtime, source, destination)


MOVERS: dict[str, Mover] = {"flowferry": with_flowferry, "by hand": _by_hand}
# Round trips are kept from this long before the silence to this long after it (milliseconds).
_AROUND = 1000.0


def measure(
    output: Path,
    lab: Lab,
    *,
    series: str,
    runtime: str,
    mover: str,
    moves: int,
    values: list[int],
) -> None:
    """So many moves for each value of what the series varies, alternating between the nodes."""
    moved = RUNTIMES[runtime]
    bed = (pods.PodBed if moved.is_kubernetes else Bed)(lab, moved)
    facts = {"series": series, "runtime": runtime, "mover": mover}
    bed.start()
    try:
        for value in values:
            SERIES[series](output, bed, facts, moves, value)
    except LabError:
        bed.recover()
        raise
    finally:
        bed.remove()


def _plain(output: Path, bed: Bed, facts: Record, moves: int, value: int) -> None:
    with bed.load() as pingpong:
        for number in range(moves):
            moved = _move(bed, facts, pingpong, traced=number == 0)
            trace = moved.pop("trace", None)
            append(output, "move", **facts, number=number, **moved)
            if trace:
                append(output, "trace", **facts, points=trace)


def _memory(output: Path, bed: Bed, facts: Record, moves: int, megabytes: int) -> None:
    bed.fill(megabytes)
    with bed.load() as pingpong:
        for number in range(moves):
            moved = _move(bed, facts, pingpong)
            append(output, "move", **facts, number=number, megabytes=megabytes, **moved)


def _steps(output: Path, bed: Bed, facts: Record, moves: int, megabytes: int) -> None:
    """Without clients: nothing is moved but the memory."""
    bed.fill(megabytes)
    for number in range(moves):
        source = bed.location()
        destination = next(node for node in NODES if node != source)
        took = steps.take(bed.lab, source, destination)
        append(output, "steps", **facts, number=number, megabytes=megabytes, ms=took)


def _connections(output: Path, bed: Bed, facts: Record, moves: int, count: int) -> None:
    """The ping-pong client's is one of them."""
    with bed.load() as pingpong, bed.crowd(count - 1) as crowd:
        for number in range(moves):
            moved = _move(bed, facts, pingpong) | {"crowd": crowd.seen()}
            append(output, "move", **facts, number=number, connections=count, **moved)
        times = switch.time_updates(bed.lab, 100)
        append(output, "updates", **facts, connections=count, ms=times)


def _crowd(output: Path, bed: Bed, facts: Record, moves: int, count: int) -> None:
    """So many connections that are busy, and as many that are idle; new ones for each move.

    Of those that a move has broken Redis would keep its ends, until it takes no more.
    """
    for number in range(moves):
        bed.end_connections()
        with bed.load() as pingpong, bed.crowd(count, idle=count) as crowd:
            moved = _move(bed, facts, pingpong) | {"crowd": crowd.seen()}
        append(output, "move", **facts, number=number, each=count, **moved)


Series = Callable[[Path, Bed, Record, int, int], None]
SERIES: dict[str, Series] = {
    "moves": _plain,
    "memory": _memory,
    "connections": _connections,
    "crowd": _crowd,
    "steps": _steps,
}


def _move(bed: Bed, facts: Record, pingpong: TrafficClient, traced: bool = False) -> Record:
    """One move, as the mover tells it and as the client saw it."""
    source = bed.location()
    destination = next(node for node in NODES if node != source)
    known = len(pingpong.seen()["errors"])
    moved = MOVERS[facts["mover"]](bed.lab, bed.runtime, source, destination)
    seen = pingpong.seen("trace" if traced else "")
    told = {
        "destination": destination,
        "downtime_ms": seen["longest_ms"],
        "total_ms": round(moved.total_ms, 1),
        "phases": moved.phases,
        "errors": seen["errors"][known:],
        **moved.more,
    }
    return {**told, "trace": around_silence(seen["trace"])} if traced else told


def around_silence(points: list[list[float]]) -> list[list[float]]:
    """Round trips near the longest one, with time counted from where that one began."""
    ended, took = max(points, key=lambda point: point[1])
    began = ended - took
    return [
        [round(at - began, 2), rtt]
        for at, rtt in points
        if began - _AROUND <= at <= ended + _AROUND
    ]
