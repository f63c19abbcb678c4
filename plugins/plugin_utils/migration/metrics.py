# SPDX-License-Identifier: Apache-2.0
"""Migrations as numbers for Prometheus, in a text file that each of them brings up to date.

Node exporter's textfile collector serves such files (`*.prom`). Counters have to outlive the
keeper, and the file itself is where they are kept.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

# Upper bounds in seconds; what clients wait for is asked to stay below 0.6.
HOLD_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.5, 10.0)
_HELP = {
    "migrations_total": ("counter", "Migrations that were asked for, by how they ended."),
    "migration_hold_seconds": ("histogram", "How long the switch held packets."),
    "migration_phase_seconds": ("summary", "How long phases of moves took."),
    "migration_image_bytes_total": ("counter", "Bytes of checkpoints."),
    "migration_held_packets_total": ("counter", "Packets that were held and delivered."),
    "migration_overflow_packets_total": ("counter", "Packets that were dropped, for want of room."),
    "migration_last_timestamp_seconds": ("gauge", "When a migration last ended."),
}
_LINE = re.compile(r"flowferry_([a-z_]+)(\{[^}]*\})? ([0-9.e+-]+)")

Values = Counter[tuple[str, str]]
"""By name, without its prefix, and labels as they are written."""


def record(path: Path, order: dict[str, Any], event: dict[str, Any]) -> str:
    """Count how this order ended; why that was not possible, or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            values = _read(path)
            _count(values, order, event)
            partial = path.with_suffix(".partial")
            partial.write_text(_text(values))
            partial.chmod(0o644)  # the exporter has a user of its own
            partial.replace(path)
    except OSError as error:
        return f"the metrics of this migration are not in {path}: {error.strerror}"
    return ""


def _count(values: Values, order: dict[str, Any], event: dict[str, Any]) -> None:
    kind, _, name = order["workload"].partition(":")
    runtime = kind if name else "podman"
    result = event.get("result", {})
    ended, code = "moved", ""
    if event["event"] == "failure":
        ended, code = "failed", event["failure"]["code"]
    elif "phases" not in result:
        ended = "recovered" if result.get("recovered") else "nothing"
    labels = _labels(runtime=runtime, ended=ended, code=code)
    values["migrations_total", labels] += 1
    # A rule on this one warns of a first failure, too: a counter that begins at one has not grown.
    values["migration_last_timestamp_seconds", labels] = int(time.time())
    if ended == "moved":
        _count_move(values, runtime, result)


def _count_move(values: Values, runtime: str, result: dict[str, Any]) -> None:
    held = result["hold_ms"] / 1000
    for bound in (*HOLD_BOUNDS, "+Inf"):
        fits = bound == "+Inf" or held <= float(bound)
        _add(values, "migration_hold_seconds_bucket", _labels(runtime=runtime, le=bound), int(fits))
    _add(values, "migration_hold_seconds_sum", _labels(runtime=runtime), held)
    _add(values, "migration_hold_seconds_count", _labels(runtime=runtime), 1)
    for phase in result["phases"]:
        labels = _labels(runtime=runtime, phase=phase["name"])
        _add(values, "migration_phase_seconds_sum", labels, phase["ms"] / 1000)
        _add(values, "migration_phase_seconds_count", labels, 1)
    for name in ("image_bytes", "held_packets", "overflow_packets"):
        _add(values, f"migration_{name}_total", _labels(runtime=runtime), result.get(name, 0))


def _add(values: Values, name: str, labels: str, number: float) -> None:
    values[name, labels] += number  # type: ignore[assignment]  # a Counter counts seconds, too


def _labels(**labels: object) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _read(path: Path) -> Values:
    """What is in the file; what is not ours there is dropped."""
    values: Values = Counter()
    if path.exists():
        for line in path.read_text().splitlines():
            if found := _LINE.fullmatch(line):
                _add(values, found[1], found[2] or "", float(found[3]))
    return values


def _text(values: Values) -> str:
    lines = []
    for name, (kind, about) in _HELP.items():
        lines += [f"# HELP flowferry_{name} {about}", f"# TYPE flowferry_{name} {kind}"]
        for (found, labels), value in values.items():
            if re.fullmatch(f"{name}(_bucket|_sum|_count)?", found):
                lines.append(f"flowferry_{found}{labels} {value:.12g}")
    return "\n".join([*lines, ""])
