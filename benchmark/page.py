# SPDX-License-Identifier: Apache-2.0
"""The page of results, and the summary for the terminal: text made of records, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from . import figures
from .figures import Kind, Spread
from .records import Record, Results, read


@dataclass(frozen=True)
class Page:
    """One page of results: its name, also of its template and of the directory beside it."""

    name: str
    pictures: tuple[str, ...]
    versions: dict[str, dict[str, str]]
    """For each of its files of records: commands on a node that print versions, by names.

    The first one, MAIN, is what the page is about; of the others it has a section each.
    """


MAIN = "benchmark"
_COMMON = {
    "runc": "runc --version | head -1 | cut -d' ' -f3",
    "criu": "criu --version | head -1 | cut -d' ' -f2",
}
_KUBERNETES = {"Kubernetes": "kubelet --version | cut -d' ' -f2"}
PAGES = {
    page.name: page
    for page in (
        Page(
            "results",
            ("downtime", "phases", "round_trips", "memory", "connections", "switch_updates"),
            {MAIN: {"podman": "podman --version | cut -d' ' -f3", **_COMMON}},
        ),
        Page(
            "results-pods",
            (
                "downtime",
                "after_the_hold",
                "phases",
                "round_trips",
                "connections",
                "memory",
                "memory_phases",
            ),
            {
                MAIN: {
                    **_KUBERNETES,
                    "containerd": "containerd --version | cut -d' ' -f3",
                    **_COMMON,
                    "buildah": "buildah --version | cut -d' ' -f3",
                },
                "crio": {
                    **_KUBERNETES,
                    "CRI-O": "crio --version 2>/dev/null | sed -n 's/^crio version //p'",
                    **_COMMON,
                },
            },
        ),
    )
}


def runs(wanted: Page, directory: Path) -> list[Results]:
    """What the page is about, and then those that there are of the others."""
    main, *others = (directory / f"{name}.jsonl" for name in wanted.versions)
    return [read(main), *(read(file) for file in others if file.exists())]


def summary(results: Results) -> list[str]:
    """A few short lines."""
    lines = [f"{'downtime (ms)':<22}{'moves':>6}{'p50':>9}{'p95':>9}{'p99':>9}{'worst':>9}"]
    for kind, spread in _spreads(results):
        times = (spread.p50, spread.p95, spread.p99, spread.worst)
        row = "".join(f"{ms:>9.1f}" for ms in times)
        lines += [f"{kind.label:<22}{spread.count:>6}{row}", f"  {_verdict(results, kind)}"]
    return [
        *lines,
        *_varied(results, "memory", "megabytes", "MB"),
        *_varied(results, "connections", "connections", "connections"),
        *_updates(results),
        *_steps(results),
        *_gaps(results),
        *_harm(results),
        *(f"NOT MEASURED: {failure['what']}: {failure['why']}" for failure in results.failures),
    ]


def _spreads(results: Results) -> list[tuple[Kind, Spread]]:
    return [
        (kind, Spread.of(figures.downtimes(figures.moves(results, "moves", kind))))
        for kind in figures.kinds(results, "moves")
    ]


def _verdict(results: Results, kind: Kind) -> str:
    """By how much it is better, and what takes the time."""
    medians = figures.phases(figures.moves(results, "moves", kind))
    if kind == Kind("by hand", "pod"):  # its source serves through most of them
        return f"its steps take {sum(medians.values()) / 1000:.1f} s, and connections break"
    name, share = figures.dominant(medians)
    told = f"{share:.0%} of it is {name}"
    times = figures.ratio(results, kind)
    if kind.mover == "flowferry" and times is not None:
        told += f"; by hand clients wait {times:.1f} times as long"
        broken, wrong = figures.harm(results.of("moves", mover="by hand"))
        if broken + wrong:
            told += ", and connections break"
    return told


@dataclass(frozen=True)
class Phases:
    """The median of each phase by what was moved, and which is the longest of the downtime."""

    names: list[str]
    rows: list[tuple[str, dict[str, float], str, float]]


def _phases(results: Results) -> Phases:
    return _table(
        (kind.label, figures.moves(results, "moves", kind))
        for kind in figures.kinds(results, "moves")
    )


def _memory_phases(results: Results) -> Phases:
    """Of Flowferry's moves, by the memory of what was moved, and in which way."""
    groups = []
    for kind in figures.kinds(results, "memory"):
        moves = figures.moves(results, "memory", kind) if kind.mover == "flowferry" else []
        for size, these in figures.grouped(moves, "megabytes").items():
            groups.append((f"{kind.runtime}, {size} MB", these))
    return _table(groups)


def _table(groups: Iterable[tuple[str, list[Record]]]) -> Phases:
    rows = []
    for label, moves in groups:
        medians = figures.phases(moves)
        rows.append((label, medians, *figures.dominant(medians)))
    longest = max((medians for _, medians, _, _ in rows), key=len, default={})
    names = list(longest) + sorted({name for row in rows for name in row[1]} - set(longest))
    return Phases(names, rows)


def _varied(results: Results, series: str, name: str, unit: str) -> list[str]:
    lines = []
    for kind in figures.kinds(results, series):
        grouped = figures.by_value(figures.moves(results, series, kind), name)
        points = [f"{value}: {figures.percentile(ms, 50):.0f}" for value, ms in grouped.items()]
        lines.append(f"{kind.label}, ms by {unit}: {', '.join(points)}")
    return lines


def _updates(results: Results) -> list[str]:
    times = [ms for update in results.updates for ms in update["ms"]]
    if not times:
        return []
    spread = Spread.of(times)
    return [f"switch update (one MODIFY): p50 {spread.p50:.2f} ms, p99 {spread.p99:.2f} ms"]


def _steps(results: Results) -> list[str]:
    """Against the longest of the steps taken alone."""
    return [
        f"{steps.megabytes} MB, {runtime}: {ms / steps.longest:.2f} times the longest step alone"
        for steps in figures.steps(results)
        for runtime, ms in steps.downtimes.items()
    ]


def _gaps(results: Results) -> list[str]:
    told = []
    for load, times in figures.gaps(results).items():
        spread = Spread.of(times)
        told.append(f"beyond the hold, {load}: p50 {spread.p50:.1f}, worst {spread.worst:.1f} ms")
    return told


@dataclass(frozen=True)
class Crowd:
    """Moves with many connections open, and what became of those."""

    label: str
    each: int
    downtime: Spread
    broken: int
    wrong: int


def _crowds(results: Results) -> list[Crowd]:
    found = []
    for kind in figures.kinds(results, "crowd"):
        moves = figures.moves(results, "crowd", kind)
        for each, some in figures.grouped(moves, "each").items():
            spread = Spread.of(figures.downtimes(some))
            found.append(Crowd(kind.label, each, spread, *figures.harm(some)))
    return found


def _harm(results: Results) -> list[str]:
    told = []
    for mover, name in figures.MOVER_NAMES.items():
        records = [move for move in results.moves if move["mover"] == mover]
        broken, wrong = figures.harm(records)
        if records:
            what = f"{broken} connections broken, {wrong} wrong answers"
            if figures.lost(records):
                what += f", {figures.lost(records)} acknowledged writes lost"
            told.append(f"{name}: {what} in {len(records)} moves")
    return told


@dataclass(frozen=True)
class Beside:
    """The phases of what Flowferry moves, of two runs: their names, and medians in milliseconds."""

    first: str
    second: str
    rows: list[tuple[str, float, float]]


def _beside(first: Results, second: Results) -> Beside:
    """What differs between two container runtimes when the kubelet's way is taken."""
    own, other = (
        figures.phases(figures.moves(results, "moves", Kind("flowferry", "pod")))
        for results in (first, second)
    )
    rows = [(name, own[name], other[name]) for name in own if name in other]
    return Beside(_runtime(first), _runtime(second), rows)


def _runtime(results: Results) -> str:
    """The container runtime of a run of pods, with its version."""
    versions = results.run["versions"]
    name = next(name for name in ("containerd", "CRI-O") if name in versions)
    return f"{name} {versions[name]}"


def page(
    results: Results,
    pictures: Iterable[str],
    name: str = "results",
    others: Iterable[Results] = (),
) -> str:
    """docs/NAME.md; ``others`` are runs that it has a section about."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template(f"{name}.md.j2").render(
        directory=name,
        pictures=set(pictures),
        phases=_phases(results),
        others=[
            {"beside": _beside(results, other), "runtime": _runtime(other), **_told(other)}
            for other in others
        ],
        **_told(results),
    )


def _told(results: Results) -> dict[str, Any]:
    """What a page, or a section of it, says of one run."""
    return {
        "run": results.run,
        "verdicts": {kind: _verdict(results, kind) for kind, _ in _spreads(results)},
        "spreads": _spreads(results),
        "gaps": {load: Spread.of(times) for load, times in figures.gaps(results).items()},
        "crowds": _crowds(results),
        "memory": _by_value(results, "memory", "megabytes"),
        "followed": _followed(results),
        "connections": _by_value(results, "connections", "connections"),
        "memory_phases": _memory_phases(results),
        "steps": figures.steps(results),
        "harm": _harm(results),
        "failures": results.failures,
    }


@dataclass(frozen=True)
class Followed:
    """Memory that followed copies which ran already: of the moves of one kind, with as much."""

    label: str
    megabytes: int
    faults: float
    """The median of how often a copy touched what it did not have, or was empty."""
    longest_ms: float
    """That a copy waited for some of it, in any of the moves."""
    settle_ms: float
    """The median of the time until it had all."""


def _followed(results: Results) -> list[Followed]:
    found = []
    for kind in figures.kinds(results, "memory"):
        moves = [one for one in figures.moves(results, "memory", kind) if "memory_faults" in one]
        for size, these in figures.grouped(moves, "megabytes").items():
            faults = figures.percentile([one["memory_faults"] for one in these], 50)
            longest = max(one["memory_longest_ms"] for one in these)
            settle = figures.phases(these)["settle"]
            found.append(Followed(kind.label, size, faults, longest, settle))
    return found


def _by_value(results: Results, series: str, name: str) -> list[tuple[str, int, Spread]]:
    """Downtimes of a series for each kind, and each value of what was varied."""
    return [
        (kind.label, value, Spread.of(times))
        for kind in figures.kinds(results, series)
        for value, times in figures.by_value(figures.moves(results, series, kind), name).items()
    ]
