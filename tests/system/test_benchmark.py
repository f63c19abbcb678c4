# SPDX-License-Identifier: Apache-2.0
"""The benchmark from end to end, as small as it gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import ClusterLab

from benchmark.records import read
from demo.kubectl import BUILD_LIMIT
from demo.lab_control import ROOT, Lab


def test_a_small_benchmark_writes_records_page_and_pictures(lab: Lab, tmp_path: Path) -> None:
    sizes = {"benchmark_moves": 1, "benchmark_moves_by_hand": 1}
    played = lab.playbook(
        "benchmark.yml",
        benchmark_output=str(tmp_path),
        benchmark_memory=[],
        benchmark_connections=[],
        benchmark_steps=[16],
        benchmark_moves_each=1,
        benchmark_kinds=[
            {"mover": "flowferry", "runtime": "podman"},
            {"mover": "by hand", "runtime": "podman"},
        ],
        benchmark_more_kinds=[],
        **sizes,
    ).must_succeed()
    results = read(tmp_path / "results" / "benchmark.jsonl")
    own, by_hand = results.moves
    assert results.failures == []
    assert (own["mover"], by_hand["mover"]) == ("flowferry", "by hand")
    assert own["errors"] == [] and own["downtime_ms"] > 0
    assert [phase["name"] for phase in own["phases"]][1:3] == ["hold", "checkpoint"]
    assert by_hand["downtime_ms"] > 0 and by_hand["destination"] in ("node1", "node2")
    (alone,) = results.steps
    assert alone["megabytes"] == 16 and min(alone["ms"].values()) > 0
    assert list(alone["ms"]) == ["dump", "transfer", "restore"]
    assert results.run["parameters"]["moves"] == 1
    assert results.run["versions"]["criu"] in (tmp_path / "results.md").read_text()
    pictures = sorted(path.name for path in (tmp_path / "results").glob("*.png"))
    assert pictures == ["downtime.png", "phases.png", "round_trips.png"]
    assert any("by hand clients wait" in line for line in played.task("Summary")["msg"])


def test_it_leaves_the_lab_as_it_was(lab: Lab) -> None:
    """After the benchmark above: no workload, no namespace, no route, CRIU's settings."""
    for node in ("node1", "node2"):
        assert "bench" not in lab.run(node, "podman ps --all; ip netns")
        assert "network-lock skip" in lab.run(node, "cat /etc/criu/runc.conf")
        assert "kept" not in lab.run(node, "ls /etc/criu")
    with lab.session() as session:
        assert session.read("route", {"destination": f"{lab.data_network}.101/32"}) == []


@pytest.mark.timeout(BUILD_LIMIT + 300)
def test_a_small_benchmark_of_pods(cluster: ClusterLab, tmp_path: Path) -> None:
    """Flowferry breaks nothing; the reference procedure breaks what is connected."""
    if cluster.crio:
        pytest.skip("the reference procedure of the benchmark is containerd's")
    played = cluster.playbook(
        "benchmark.yml",
        benchmark_lab="kubernetes",
        benchmark_output=str(tmp_path),
        benchmark_moves=1,
        benchmark_moves_by_hand=1,
        benchmark_memory=[],
        benchmark_steps=[],
        benchmark_crowd=[],
        benchmark_more_kinds=[{"mover": "flowferry", "runtime": "pod-direct"}],
    ).must_succeed()
    own, by_hand, direct = read(tmp_path / "results-pods" / "benchmark.jsonl").moves
    movers = [(move["mover"], move["runtime"]) for move in (own, by_hand, direct)]
    assert movers == [("flowferry", "pod"), ("by hand", "pod"), ("flowferry", "pod-direct")]
    for move in (own, direct):
        assert move["errors"] == [] and move["downtime_ms"] >= move["hold_ms"] / 2
    steps = ["checkpoint", "image", "push", "apply", "wait", "redirect", "delete"]
    assert [phase["name"] for phase in by_hand["phases"]] == steps
    assert by_hand["errors"] != []
    pictures = sorted(path.name for path in (tmp_path / "results-pods").glob("*.png"))
    assert pictures == ["after_the_hold.png", "downtime.png", "phases.png", "round_trips.png"]
    assert "results-pods/phases.png" in (tmp_path / "results-pods.md").read_text()
    assert any("beyond the hold" in line for line in played.task("Summary")["msg"])
    assert cluster.pods("bench") == []
    assert cluster.leftovers() == {}


def test_a_small_benchmark_of_pods_in_crio(cluster: ClusterLab, tmp_path: Path) -> None:
    """It adds a section to the page that is there."""
    if not cluster.crio:
        pytest.skip("the page of the runtime that is there is another test")
    shutil.copytree(ROOT / "docs" / "results-pods", tmp_path / "results-pods")
    played = cluster.playbook(
        "benchmark.yml",
        benchmark_lab="crio",
        benchmark_output=str(tmp_path),
        benchmark_moves=1,
        benchmark_memory=[],
        benchmark_crowd=[],
    ).must_succeed()
    results = read(tmp_path / "results-pods" / "crio.jsonl")
    assert [move["mover"] for move in results.moves] == ["flowferry"]
    assert results.moves[0]["errors"] == [] and results.failures == []
    page = (tmp_path / "results-pods.md").read_text()
    assert f"## CRI-O {results.run['versions']['CRI-O']}" in page
    assert any("beyond the hold" in line for line in played.task("Summary")["msg"])
    assert cluster.pods("bench") == []
    assert cluster.leftovers() == {}


@pytest.mark.parametrize(
    "program", [("benchmark", "--output", "out", "begin", "--command", "x"), ("demo.run",)]
)
def test_without_a_lab_it_says_how_to_start_one(program: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "FLOWFERRY_LAB_ID": "99", "PYTHONPATH": f"{ROOT}:{ROOT}/p4"}
    done = subprocess.run(
        [sys.executable, "-m", *program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "lab 99 does not run; start it with `FLOWFERRY_LAB_ID=99 make lab`" in done.stderr
    assert "Traceback" not in done.stderr
