# SPDX-License-Identifier: Apache-2.0
"""A lab of the tests' own, with Redis in it, and Ansible as people run it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for cluster

from cluster import ClusterLab

from demo.lab_control import Lab, LabError
from demo.traffic import TrafficClient
from tests.system import runtime_table

OUTPUT = Path(__file__).resolve().parents[1] / "output"
"""Where results that are no verdict go."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m pods` chooses what needs a cluster, for which another lab is started.

    With CRI-O runs what is marked each_runtime, unless RUNTIMES asks for the rest.
    """
    chosen = (os.environ.get("RUNTIMES") or "containerd").split(",")
    for item in items:
        runtime = getattr(item, "callspec", None) and item.callspec.params.get("cluster")
        if runtime not in (None, *chosen) and item.get_closest_marker("each_runtime") is None:
            reason = "run: sudo make system RUNTIMES=containerd,crio"
            item.add_marker(pytest.mark.skip(reason=reason))
        if isinstance(item, pytest.Function) and {"cluster", "dataplane"} & {*item.fixturenames}:
            item.add_marker("pods")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed tells how the cluster is; programs of it that have ended run again for the
    tests after it, so that one cause fails one test."""
    report = yield
    used = getattr(item, "funcargs", {})
    running = used.get("cluster") or used.get("dataplane")
    if report.failed and isinstance(running, ClusterLab):
        with suppress(LabError, subprocess.TimeoutExpired):  # it may be too broken to be asked
            report.sections.append(("the cluster", running.condition()))
            if ended := running.ended_daemons():
                report.sections.append(("programs of the cluster that have ended", ended))
                running.playbook("lab.yml", **running.settings)
    return report


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


@pytest.fixture(scope="session", params=["containerd", "crio"])
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterLab]:
    """The Kubernetes lab of FLOWFERRY_CLUSTER_LAB_ID (8 if unset), one after the other for each
    container runtime, beside the lab above."""
    if os.geteuid() != 0:
        pytest.skip("run: sudo make system")
    number = int(os.environ.get("FLOWFERRY_CLUSTER_LAB_ID") or "8")
    with tempfile.TemporaryDirectory(prefix="ff-cluster-") as state:
        running = ClusterLab(number, Path(state), request.param)
        try:
            running.start()
            yield running
        finally:
            running.end()


@pytest.fixture
def clients(cluster: ClusterLab) -> Iterator[list[TrafficClient]]:
    """A ping-pong client, a pipelined writer, and a reader of what the writer writes."""
    kinds = (("pingpong", "a"), ("writer", "b"), ("reader", "b"))
    started = [TrafficClient(cluster, *kind) for kind in kinds]
    for client in started:
        client.seen()
    yield started
    for client in started:
        client.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of test_runtimes.py: what moved how, as far as this run has tried it."""
    found: dict[tuple[str, str], dict[str, str] | str] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            if "test_runtimes.py" not in report.nodeid or report.when == "teardown":
                continue
            runtime, _, strategy = report.nodeid.rpartition("[")[2].rstrip("]").rpartition("-")
            measured = {name: str(text) for name, text in report.user_properties}
            if outcome != "passed":
                found[runtime, strategy] = runtime_table.reason(report.longreprtext)
            elif report.when == "call":
                found[runtime, strategy] = measured
    if found:
        cells = runtime_table.table(found)
        runtime_table.write(cells, OUTPUT)
        terminalreporter.section("runtime, strategy and protocol: no resets, nothing lost")
        for line in runtime_table.as_text(cells):
            terminalreporter.line(line)
