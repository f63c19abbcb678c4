# SPDX-License-Identifier: Apache-2.0
"""A lab of the tests' own, with Redis in it, and Ansible as people run it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))  # for lab_control

from lab_control import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab of FLOWFERRY_LAB_ID (7 if unset), started, with the demo's workload on node1."""
    if os.geteuid() != 0:
        pytest.skip("run: sudo make system")
    with tempfile.TemporaryDirectory(prefix="ff-system-") as state:
        running = Lab(int(os.environ.get("FLOWFERRY_LAB_ID") or "7"), Path(state))
        try:
            running.start()
            yield running
        finally:
            running.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of test_runtimes.py: what moved how, as far as this run has tried it."""
    cells = [
        (report.nodeid.rpartition("[")[2].rstrip("]"), protocol, text)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if "test_runtimes.py" in report.nodeid and report.when == "call"
        for protocol, text in report.user_properties or [("all", "FAILED")]
    ]
    if cells:
        terminalreporter.section("runtime, strategy and protocol: no resets, nothing lost")
    for cell, protocol, text in sorted(cells):
        terminalreporter.line(f"{cell:<20} {protocol:<9} {text}")
