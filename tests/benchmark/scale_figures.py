# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of a node's data plane says of its figures: a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there is no screen
from matplotlib import pyplot
from matplotlib.axes import Axes

Row = dict[str, Any]
COLUMNS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("until all is in the tables (s)", lambda row: row["converge_s"]),
    ("until a new Service answers (ms)", lambda row: row["new_service_s"] * 1e3),
    ("memory (MB)", lambda row: sum(row["memory"].values()) / 1e6),
    ("round trip p50 (µs)", lambda row: row["service_rtt_p50_us"]),
    ("beside the direct one", lambda row: row["service_rtt_p50_us"] / row["direct_rtt_p50_us"]),
    ("TCP (Gbit/s)", lambda row: row["service_tcp_gbit"]),
)
MARKS = ("o-", "s--")
GREYS = ("0.1", "0.55")


def summary(rows: Sequence[Row]) -> str:
    """A table, as Markdown."""
    titles = ["", "Services", "endpoints", *(title for title, _ in COLUMNS)]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    for row in rows:
        figures = [f"{value(row):.3g}" for _, value in COLUMNS]
        lines.append(_line([row["by"], f"{row['services']:,}", f"{row['endpoints']:,}", *figures]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(rows: Sequence[Row], path: Path) -> None:
    """One small picture for each figure, over the number of endpoints."""
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for place, (title, value) in zip(axes.flat, COLUMNS):
        _curves(place, rows, title, value)
    # Once, and beside the pictures: within one it would lie on a curve.
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _curves(axes: Axes, rows: Sequence[Row], title: str, value: Callable[[Row], float]) -> None:
    names = list(dict.fromkeys(row["by"] for row in rows))
    for name, mark, grey in zip(names, MARKS, GREYS):
        mine = [row for row in rows if row["by"] == name]
        axes.plot(
            [r["endpoints"] for r in mine], [value(r) for r in mine], mark, color=grey, label=name
        )
    axes.set_xscale("log")
    axes.margins(y=0.08)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("endpoints")
    axes.set_title(title)
