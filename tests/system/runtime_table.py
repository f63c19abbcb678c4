# SPDX-License-Identifier: Apache-2.0
"""The table of what moves how, which test_runtimes.py fills: on the screen and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

RUNTIMES = ("docker", "podman", "podman-pod", "process")
STRATEGIES = ("keep", "rewrite")
PROTOCOLS = ("TCP IPv4", "TCP IPv6", "UDP IPv4", "UDP IPv6")
NOT_TRIED = "not tried in this run"
_REASON_LENGTH = 300


@dataclass(frozen=True)
class Cell:
    """One protocol of a runtime and a strategy, and what came of it."""

    runtime: str
    strategy: str
    protocol: str
    result: str


def table(found: Mapping[tuple[str, str], Mapping[str, str] | str]) -> list[Cell]:
    """Every cell there is; ``found`` has results by protocol, or why none of them works."""
    cells = []
    for runtime in RUNTIMES:
        for strategy in STRATEGIES:
            results = found.get((runtime, strategy), NOT_TRIED)
            for protocol in PROTOCOLS:
                told = results if isinstance(results, str) else results.get(protocol, NOT_TRIED)
                cells.append(Cell(runtime, strategy, protocol, told))
    return cells


def reason(trace: str) -> str:
    """What pytest says of a failure, as one line: the message, without where it was raised."""
    lines = [line[1:].strip() for line in trace.splitlines() if line.startswith("E ")]
    told = " ".join(lines) or trace.strip().splitlines()[-1]
    return f"FAILED: {told[:_REASON_LENGTH]}"


def as_text(cells: Iterable[Cell]) -> list[str]:
    """For the screen."""
    return [
        f"{f'{cell.runtime}-{cell.strategy}':<20} {cell.protocol:<9} {cell.result}"
        for cell in cells
    ]


def write(cells: Iterable[Cell], directory: Path) -> None:
    """``runtimes.json`` and ``runtimes.md``, for the documentation and for whoever compares."""
    cells = list(cells)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "runtimes.json").write_text(json.dumps([asdict(c) for c in cells], indent=1))
    rows = ["| runtime | strategy | " + " | ".join(PROTOCOLS) + " |", "|---" * 6 + "|"]
    for start in range(0, len(cells), len(PROTOCOLS)):
        row = cells[start : start + len(PROTOCOLS)]
        results = [cell.result.replace("|", "\\|") for cell in row]
        rows.append("| " + " | ".join([row[0].runtime, row[0].strategy, *results]) + " |")
    (directory / "runtimes.md").write_text("\n".join(rows) + "\n")
