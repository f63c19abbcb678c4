# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/results.md. Readable in grey: lines differ in dashes and markers, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, before pyplot is imported

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import figures
from .figures import Kind, Spread
from .records import Record, Results

_WIDTH = 7.6
# From dark to light, so that they differ without colour.
_COLOURS = ("#12355b", "#c8553d", "#6b8f71", "#8d6a9f", "#e0a458")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)))
_MARKERS = ("o", "s", "^", "D", "v")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "++", "--", "**")
_OWN = "own code"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "savefig.dpi": 130,
}


def draw(results: Results, directory: Path, wanted: Sequence[str] = ()) -> list[str]:
    """The wanted pictures (all, if none are named) for which something was measured.

    Returns the names of their files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(_STYLE):
        for name in wanted or PICTURES:
            path = directory / f"{name}.png"
            path.unlink(missing_ok=True)
            figure = PICTURES[name](results)
            if figure is not None:
                # No version and no date in the file: the same records make the same picture.
                figure.savefig(path, metadata={"Software": None})
                plt.close(figure)
                drawn.append(path.name)
    return drawn


def _kind(record: Record) -> Kind:
    return Kind(record["mover"], record["runtime"])


def _line(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 1.4,
    }


def downtime(results: Results) -> Figure | None:
    """The distribution of the downtime, with the percentiles marked."""
    kinds = figures.kinds(results, "moves")
    if not kinds:
        return None
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.8), layout="constrained")
    for number, kind in enumerate(kinds):
        values = sorted(figures.downtimes(figures.moves(results, "moves", kind)))
        spread = Spread.of(values)
        shares = [(rank + 1) / len(values) for rank in range(len(values))]
        label = f"{kind.label} (n = {spread.count}): p50 {spread.p50:.0f} ms"
        axes.step([values[0], *values], [0, *shares], where="post", label=label, **_line(number))
        for share, value, marker in (
            (0.50, spread.p50, "o"),
            (0.95, spread.p95, "s"),
            (0.99, spread.p99, "^"),
        ):
            axes.plot(value, share, marker, color=_COLOURS[number], markersize=5, zorder=3)
    for marker, name in (("o", "p50"), ("s", "p95"), ("^", "p99")):
        axes.plot([], [], marker, color="#555555", markersize=5, label=name)
    _milliseconds(axes, "x", "downtime: longest silence of the ping-pong client (ms)")
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("share of the moves")
    axes.set_title("Downtime of a move under load")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _milliseconds(axes: Axes, side: str, label: str) -> None:
    """A logarithmic axis with plain numbers."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    getattr(axes, f"set_{side}scale")("log")
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    low, high = getattr(axes, f"get_{side}lim")()
    if high / low < 30:  # less than a decade and a half has too few marks otherwise
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.set_label_text(label)


def phases(results: Results) -> Figure | None:
    """What a move consists of: all kinds on one scale, and Flowferry's on their own."""
    kinds = figures.kinds(results, "moves")
    if not kinds:
        return None
    bars = [_Bar.of(kind.label, figures.moves(results, "moves", kind)) for kind in kinds]
    own = [bar for bar, kind in zip(bars, kinds) if kind.mover == "flowferry"]
    panels = [panel for panel in (bars, own if own != bars else []) if panel]
    return _stacks(panels, "Phases of a move, medians. In those that are white nobody waits")


@dataclass(frozen=True)
class _Bar:
    """What a move of some kind consists of: the medians of its phases."""

    label: str
    medians: dict[str, float]
    own: dict[str, float]
    """What of them is Flowferry's own code."""
    share: float | None
    """Which is this part of the hold."""

    @classmethod
    def of(cls, label: str, moves: Sequence[Record]) -> _Bar:
        own = figures.phases(moves, "own_ms")
        return cls(label, figures.phases(moves), own, figures.own_share(moves))


def _stacks(rows: list[list[_Bar]], title: str) -> Figure:
    """Panels of bars, each panel with a scale of its own, and one legend."""
    heights = [len(row) for row in rows]
    figure, panels = plt.subplots(
        len(rows),
        figsize=(_WIDTH, 1.9 + 0.55 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    names = list(dict.fromkeys(name for row in rows for bar in row for name in bar.medians))
    for axes, row in zip(panels[:, 0], rows):
        _stack(axes, row, names)
    panels[0, 0].set_title(title)
    panels[-1, 0].set_xlabel("time (ms)")
    unique = {
        label: handle
        for axes in panels[:, 0]
        for handle, label in zip(*axes.get_legend_handles_labels())
    }
    labels = [*names, *([_OWN] if _OWN in unique else [])]
    figure.legend(
        [unique[name] for name in labels],
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 7),
        columnspacing=1.0,
        handlelength=1.6,
    )
    return figure


def _stack(axes: Axes, bars: list[_Bar], names: list[str]) -> None:
    """One below the other. What clients do not wait for is white."""
    for row, bar in enumerate(bars):
        held = figures.held(bar.medians)
        left = 0.0
        for name, ms in bar.medians.items():
            number = names.index(name)
            shade = matplotlib.colormaps["viridis"](0.25 + 0.75 * number / len(names))
            axes.barh(
                row,
                ms,
                left=left,
                height=0.62,
                label=name,
                color=shade if name in held else "white",
                hatch=_HATCHES[number % len(_HATCHES)],
                edgecolor="#333333",
                linewidth=0.6,
            )
            if name in held and name in bar.own:
                _own_part(axes, row, left, bar.own[name])
            left += ms
        share = "" if bar.share is None else f", of the hold {bar.share:.0%} {_OWN}"
        axes.text(left, row, f" {left:.0f} ms{share}", va="center")
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.margins(x=0.12 if all(bar.share is None for bar in bars) else 0.7)
    axes.grid(visible=False, axis="y")


def _own_part(axes: Axes, row: int, left: float, ms: float) -> None:
    """Of a phase in which clients wait, on its lower edge."""
    axes.barh(row + 0.25, ms, left=left, height=0.12, label=_OWN, color="black")


def memory_phases(results: Results) -> Figure | None:
    """What a move consists of when there is memory: Flowferry's and by hand, each on its scale."""
    panels = []
    for kind in figures.kinds(results, "memory"):
        moves = figures.moves(results, "memory", kind)
        sizes = figures.grouped(moves, "megabytes").items()
        panels.append([_Bar.of(f"{kind.label}, {size} MB", some) for size, some in sizes])
    return _stacks(panels, "Phases of a move by memory, medians") if panels else None


def after_the_hold(results: Results) -> Figure | None:
    """By how much the client's silence is longer than the hold, move by move."""
    rows = figures.gaps(results)
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(_WIDTH, 1.2 + 0.45 * len(rows)), layout="constrained")
    for row, times in enumerate(rows.values()):
        offsets = [row + 0.4 * ((rank + 0.5) / len(times) - 0.5) for rank in range(len(times))]
        axes.plot(times, offsets, "o", markersize=3.5, color=_COLOURS[0], alpha=0.6)
        axes.vlines(median(times), row - 0.35, row + 0.35, color=_COLOURS[1], linewidth=2)
    axes.set_yticks(range(len(rows)), [f"{label} (n = {len(t)})" for label, t in rows.items()])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("longest silence of the ping-pong client, minus the hold (ms)")
    axes.set_title("What a move costs beyond its hold: each move, and the median")
    return figure


def round_trips(results: Results) -> Figure | None:
    """What the ping-pong client sees around one move of each kind."""
    if not results.traces:
        return None
    figure, panels = plt.subplots(
        len(results.traces),
        figsize=(_WIDTH, 1.1 + 1.35 * len(results.traces)),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axes, trace in zip(panels[:, 0], results.traces):
        at, rtt = zip(*trace["points"])
        axes.axvspan(0, max(rtt), color="#e8e8e8", zorder=0)
        axes.plot(at, rtt, ".", markersize=2.5, color=_COLOURS[0])
        axes.set_title(f"{_kind(trace).label}: one request waits for {max(rtt):.0f} ms")
        _milliseconds(axes, "y", "")
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    figure.supylabel("round trip (ms)", fontsize=9)
    panels[-1, 0].set_xlabel("when the answer came (ms after the request that waits was sent)")
    return figure


def memory(results: Results) -> Figure | None:
    """Downtime against what Redis holds."""
    return _against(
        results,
        "memory",
        "megabytes",
        "incompressible data in Redis (MB)",
        "Downtime grows with the memory",
    )


def connections(results: Results) -> Figure | None:
    """Downtime against the number of connections."""
    return _against(
        results, "connections", "connections", "connections", "Downtime and connections"
    )


def _against(results: Results, series: str, name: str, label: str, title: str) -> Figure | None:
    kinds = figures.kinds(results, series)
    if not kinds:
        return None
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.6), layout="constrained")
    values: list[int] = []
    for number, kind in enumerate(kinds):
        grouped = figures.by_value(figures.moves(results, series, kind), name)
        values += grouped
        medians = [median(times) for times in grouped.values()]
        look = _line(number) | {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 5}
        axes.plot(list(grouped), medians, label=kind.label, **look)
        for value, times in grouped.items():
            axes.plot([value] * len(times), times, "_", color=_COLOURS[number], markersize=7)
    axes.set_xscale("log")
    _milliseconds(axes, "y", "downtime (ms)")
    axes.set_xticks(sorted(set(values)), [f"{value:,}" for value in sorted(set(values))])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel(label)
    axes.set_title(f"{title}: median, and each move")
    axes.legend()
    return figure


def switch_updates(results: Results) -> Figure | None:
    """The time of one route update, with so many connections open."""
    if not results.updates:
        return None
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.0), layout="constrained")
    counts = sorted({update["connections"] for update in results.updates})
    for number, count in enumerate(counts):
        times = [
            ms
            for update in results.updates
            if update["connections"] == count
            for ms in update["ms"]
        ]
        spread = Spread.of(times)
        offsets = [number + 0.3 * (rank / len(times) - 0.5) for rank in range(len(times))]
        axes.plot(offsets, times, ".", markersize=3, color="#999999")
        axes.hlines(spread.p50, number - 0.25, number + 0.25, color=_COLOURS[0], linewidth=2)
        axes.annotate(
            f"p50 {spread.p50:.2f}\np99 {spread.p99:.2f}",
            (number + 0.27, spread.p50),
            va="center",
        )
    axes.set_xlim(-0.5, len(counts) - 0.2)
    axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    axes.set_xlabel("open connections")
    _milliseconds(axes, "y", "one MODIFY, acknowledged (ms)")
    axes.set_title("One update of the route at the switch: each, and the median")
    return figure


PICTURES: dict[str, Callable[[Results], Figure | None]] = {
    "downtime": downtime,
    "phases": phases,
    "round_trips": round_trips,
    "memory": memory,
    "memory_phases": memory_phases,
    "after_the_hold": after_the_hold,
    "connections": connections,
    "switch_updates": switch_updates,
}
"""By the names of their files."""
