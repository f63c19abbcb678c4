# SPDX-License-Identifier: Apache-2.0
"""The table of runtimes is complete, whatever a run has tried."""

from __future__ import annotations

import json
from pathlib import Path

from tests.system.runtime_table import NOT_TRIED, PROTOCOLS, as_text, reason, table, write
from tests.system.test_runtimes import ROWS, RUNTIMES

MEASURED = {protocol: f"{protocol} moved" for protocol in PROTOCOLS}
TRACE = """
    def test_ten_moves():
>       site.move()
E       lab_control.LabError: Migration: node1: container "table": it has
E           a reason
"""


def test_every_runtime_has_its_rows() -> None:
    assert set(RUNTIMES) == set(ROWS)


def test_what_was_not_tried_is_no_success() -> None:
    cells = table({("podman", "keep"): MEASURED, ("docker", "keep"): {"TCP IPv4": "moved"}})
    assert len(cells) == 4 * 2 * len(PROTOCOLS)
    results = {(cell.runtime, cell.strategy, cell.protocol): cell.result for cell in cells}
    assert results["podman", "keep", "UDP IPv6"] == "UDP IPv6 moved"
    assert results["docker", "keep", "TCP IPv6"] == NOT_TRIED
    assert results["process", "rewrite", "TCP IPv4"] == NOT_TRIED


def test_what_cannot_work_says_why() -> None:
    told = reason(TRACE)
    assert told == (
        'FAILED: lab_control.LabError: Migration: node1: container "table": it has a reason'
    )
    cells = table({("podman", "rewrite"): told})
    assert [cell.result for cell in cells].count(told) == len(PROTOCOLS)
    assert f"podman-rewrite       TCP IPv4  {told}" in as_text(cells)


def test_it_is_written_for_people_and_programs(tmp_path: Path) -> None:
    write(table({("podman", "keep"): {**MEASURED, "TCP IPv4": "a|b"}}), tmp_path / "output")
    rows = (tmp_path / "output" / "runtimes.md").read_text().splitlines()
    assert len(rows) == 2 + 8 and rows[0].count("|") == rows[1].count("|") == 7
    assert "| podman | keep | a\\|b | TCP IPv6 moved | UDP IPv4 moved | UDP IPv6 moved |" in rows
    assert json.loads((tmp_path / "output" / "runtimes.json").read_text())[0] == {
        "runtime": "docker",
        "strategy": "keep",
        "protocol": "TCP IPv4",
        "result": NOT_TRIED,
    }
