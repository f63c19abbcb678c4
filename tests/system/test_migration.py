# SPDX-License-Identifier: Apache-2.0
"""The main promise: a live Redis moves under load and its clients never notice."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.lab_control import ROOT, Lab
from demo.traffic import TrafficClient

MOVES = 20


@pytest.fixture
def clients(lab: Lab) -> Iterator[list[TrafficClient]]:
    """A ping-pong client, a pipelined writer, and a reader of what the writer writes."""
    started = [
        TrafficClient(lab, *kind) for kind in (("pingpong", "a"), ("writer", "b"), ("reader", "b"))
    ]
    yield started
    for client in started:
        client.end()


@pytest.fixture
def ends(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """A capture at the client of every segment that ends a connection of the traffic clients."""
    condition = "tcp port 6379 and tcp[tcpflags] & (tcp-fin|tcp-rst) != 0"
    capture = lab.popen("client", f"exec tcpdump -l -n -i data0 {shlex.quote(condition)} 2>&1")
    assert capture.stdout is not None
    for line in capture.stdout:
        if "listening on" in line:
            break
    yield capture
    capture.kill()
    capture.wait()
    lab.run("client", "pkill -x tcpdump", check=False)


@pytest.mark.timeout(600)  # twenty playbook runs
def test_many_moves_under_load_harm_nothing(
    lab: Lab, clients: list[TrafficClient], ends: subprocess.Popen[str]
) -> None:
    before = lab.run_id()
    ports = {client.seen()["local_port"] for client in clients}
    surplus = []
    for number in range(MOVES):
        for client in clients:
            client.seen()
        played = lab.migrate(lab.elsewhere())
        played.must_succeed()
        moved = played.outcome
        assert moved["changed"] and moved["overflow_packets"] == 0
        seen = [client.seen() for client in clients]
        assert [one["errors"] for one in seen] == [[], [], []], f"move {number}"
        assert all(one["answers"] > 0 for one in seen)
        surplus.append(seen[0]["longest_ms"] - moved["hold_ms"])
        print(f"move {number}: silence {seen[0]['longest_ms']} ms, hold {moved['hold_ms']} ms")
    assert lab.run_id() == before
    assert {client.seen()["local_port"] for client in clients} == ports
    assert statistics.median(surplus) <= 20.0, surplus
    lab.run("client", "pkill -INT -x tcpdump")
    assert ends.stdout is not None
    captured = ends.stdout.read()
    harmed = [line for line in captured.splitlines() if any(f".{port}" in line for port in ports)]
    assert harmed == []


def test_a_command_shows_the_phases_and_the_move_is_counted(lab: Lab, tmp_path: Path) -> None:
    """By ansible-runner, as a user has it who does not want to read what Ansible says."""
    destination, counted = lab.elsewhere(), tmp_path / "flowferry.prom"
    played = subprocess.run(
        [sys.executable, "deploy/flowferry-play", "migrate", "-i", "inventories/lab"]
        + ["-e", "workload=redis", "-e", f"destination={destination}"]
        + ["-e", f"migration_metrics={counted}"],
        cwd=ROOT,
        env={**os.environ, "FLOWFERRY_LAB_ID": str(lab.number)},
        capture_output=True,
        text=True,
        timeout=lab.playbook_limit,
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert lab.location() == destination
    lines = [line.strip() for line in played.stdout.splitlines()]
    assert "Move the workload" in lines and "Migration (1 changed)" in lines
    shown = [line for line in lines if line in ("hold", "checkpoint", "restore", "redirect")]
    assert shown == ["hold", "checkpoint", "restore", "redirect"]
    moved = 'flowferry_migrations_total{runtime="podman",ended="moved",code=""} 1'
    assert moved in counted.read_text().splitlines()


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    where = lab.location()
    again = lab.migrate(where)
    again.must_succeed()
    assert again.outcome["changed"] is False
    assert lab.location() == where


def test_check_mode_plans_and_touches_nothing(lab: Lab) -> None:
    where, destination = lab.location(), lab.elsewhere()
    checked = lab.migrate(destination, "--check")
    checked.must_succeed()
    plan = checked.outcome["plan"]
    assert plan["source"]["name"] == where
    assert plan["destination"]["name"] == destination
    assert plan["endpoint"]["address"] == lab.address
    assert lab.location() == where
    assert lab.traces() == [] and lab.journals() == []


def test_the_result_tells_the_phases(lab: Lab) -> None:
    moved = lab.migrate(lab.elsewhere())
    moved.must_succeed()
    phases = [phase["name"] for phase in moved.outcome["phases"]]
    expected = [
        "prepare",
        "hold",
        "checkpoint",
        "transfer",
        "restore",
        "redirect",
        "release",
        "clean",
    ]
    assert phases == expected
    assert moved.outcome["image_bytes"] > 100_000
    assert lab.traces() == [] and lab.journals() == [] and lab.helpers() == []
