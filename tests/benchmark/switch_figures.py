# SPDX-License-Identifier: Apache-2.0
"""What the switch's benchmark says of its figures: ratios, requirements, pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there is no screen
from matplotlib import pyplot
from matplotlib.axes import Axes


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """What can be compared, since it was measured in one run."""
    rows = list(result["embedded"]["entries"].values())
    few, many, beside = rows[0], rows[-1], result["bridge"]
    added = _added(result)
    said = {
        "tcp_to_bridge": _ratio(few, beside, "tcp_gbit"),
        "packets_to_bridge": _ratio(few, beside, "packets"),
        "added_rtt_to_bridge": added["switch"] / added["bridge"],
        "tcp_many_to_few_entries": _ratio(many, few, "tcp_gbit"),
        "packets_many_to_few_entries": _ratio(many, few, "packets"),
    }
    if "bmv2" in result:
        said["tcp_to_bmv2"] = few["tcp_gbit"] / result["bmv2"]["tcp_gbit"]
    return said


def _ratio(row: dict[str, Any], to: dict[str, Any], key: str) -> float:
    """Of the ratios within each turn the median: both of a turn met the same machine."""
    pairs = zip(row["turns"][key], to["turns"][key], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def _added(result: dict[str, Any]) -> dict[str, float]:
    """Microseconds (p50) that round trips take longer than over a wire alone."""
    measured = dict(result["round_trips"])
    wire = measured.pop("wire")["rtt_p50_us"]
    if "bmv2" in result:  # by itself, but it is far away from the others
        measured["BMv2"] = result["bmv2"]
    return {name: row["rtt_p50_us"] - wire for name, row in measured.items()}


def requirements(result: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What is required: its name, the figure, the limit, and whether it is met."""
    said, ours, hold = result["ratios"], result["embedded"], result["hold"]
    overflow = hold["overflow"]
    uncounted = overflow["sent"] - overflow["kept"] - overflow["counted"]
    least: list[tuple[str, float, float]] = [
        ("TCP throughput to the bridge's", said["tcp_to_bridge"], 0.8),
        ("TCP throughput, most entries to fewest", said["tcp_many_to_few_entries"], 0.9),
        ("packet rate, most entries to fewest", said["packets_many_to_few_entries"], 0.9),
        ("entry writes a second in batches", ours["writes_per_s"], 10_000),
        ("bytes held", hold["bytes"], 64 << 20),
    ]
    if "tcp_to_bmv2" in said:
        least.append(("TCP throughput to BMv2's", said["tcp_to_bmv2"], 20))
    most: list[tuple[str, float, float]] = [
        ("added round-trip time (p50) to the bridge's", said["added_rtt_to_bridge"], 1),
        ("seconds to load a pipeline", ours["load_s"], 2),
        ("ms from the call of a MODIFY to its effect (p50)", ours["modify_ms"], 1),
        ("held packets lost", hold["lost"], 0),
        ("held packets out of order", hold["reordered"], 0),
        ("packets beyond the hold's budget, not counted", uncounted, 0),
    ]
    return [
        *((name, value, f">= {limit:g}", value >= limit) for name, value, limit in least),
        *((name, value, f"<= {limit:g}", value <= limit) for name, value, limit in most),
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Paths side by side above; below what entries and the control plane cost."""
    rows = {"wire": result["wire"], "bridge": result["bridge"]}
    rows |= {f"{int(n):,} entries": row for n, row in result["embedded"]["entries"].items()}
    if "bmv2" in result:
        rows["BMv2"] = result["bmv2"]
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
    _bars(axes[0][0], rows, "TCP, Gbit/s", lambda row: row["tcp_gbit"])
    _bars(axes[0][1], rows, "64-byte packets, thousands/s", lambda row: row["packets"] / 1e3)
    _bars(axes[0][2], _added(result), "added round trip p50, µs", float)
    _by_entries(axes[1][0], result)
    _limits(axes[1][1], result)
    _hold(axes[1][2], result["hold"])
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _bars(axis: Axes, rows: dict[str, Any], title: str, value: Callable[[Any], float]) -> None:
    axis.barh(list(rows), [value(row) for row in rows.values()])
    axis.invert_yaxis()
    axis.set_title(title)


def _by_entries(axis: Axes, result: dict[str, Any]) -> None:
    """Lines that should be flat."""
    rows = result["embedded"]["entries"]
    counts = [int(n) for n in rows]
    for key, title in (("tcp_gbit", "TCP"), ("packets", "64-byte packets")):
        first = next(iter(rows.values()))[key]
        axis.plot(counts, [row[key] / first for row in rows.values()], marker="o", label=title)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.legend()
    axis.set_title("rate by entries, to that with one")


def _limits(axis: Axes, result: dict[str, Any]) -> None:
    """The control plane's figures as parts of what is allowed, or asked for."""
    ours = result["embedded"]
    shares = {
        f"load {ours['load_s']:.2f} s of 2 s": ours["load_s"] / 2,
        f"MODIFY {ours['modify_ms']:.2f} ms of 1 ms": ours["modify_ms"],
        f"10,000 of {ours['writes_per_s']:,.0f} writes/s": 10_000 / ours["writes_per_s"],
    }
    axis.barh(list(shares), list(shares.values()))
    axis.axvline(1, color="black", linewidth=1)
    axis.invert_yaxis()
    axis.set_title("control plane: left of the line is met")


def _hold(axis: Axes, hold: dict[str, Any]) -> None:
    names = ("sent", "kept", "delivered", "lost", "reordered")
    axis.barh(names, [hold[name] for name in names])
    axis.invert_yaxis()
    axis.set_title(f"hold of {hold['bytes'] / (1 << 20):.0f} MiB, packets")
