# SPDX-License-Identifier: Apache-2.0
"""Records of a small benchmark, as the series write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.records import Results, read

RUN = {
    "record": "run",
    "started": "2026-01-02 03:04 UTC",
    "command": "make bench",
    "parameters": {"moves": 4},
    "commit": "0123456789ab",
    "changed_since": False,
    "machine": {
        "processor": "A processor",
        "cores": 2,
        "memory_gb": 8.0,
        "kernel": "6.12",
        "load_at_start": 0.1,
    },
    "versions": {"podman": "5.4.2", "criu": "4.2.1"},
}
PHASES = {"prepare": 50.0, "hold": 10.0, "checkpoint": 60.0, "restore": 120.0, "release": 10.0}
BY_HAND = {"checkpoint": 500.0, "transfer": 200.0, "restore": 300.0, "redirect": 10.0}


def move(series: str, mover: str, downtime: float, **more: Any) -> dict[str, Any]:
    phases = PHASES if mover == "flowferry" else BY_HAND
    return {
        "record": "move",
        "series": series,
        "mover": mover,
        "runtime": "podman",
        "number": 0,
        "downtime_ms": downtime,
        "phases": [{"name": name, "ms": ms} for name, ms in phases.items()],
        "errors": [],
        **more,
    }


def trace(mover: str) -> dict[str, Any]:
    kind = {"series": "moves", "mover": mover, "runtime": "podman"}
    return {"record": "trace", **kind, "points": [[-1.0, 0.2], [200.0, 200.0], [201.0, 0.2]]}


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """One of everything; the medians are 200 ms with Flowferry, and 1000 by hand."""
    crowd = {"errors": ["ValueError: 7 came after 5"]}
    return [
        RUN,
        *(move("moves", "flowferry", ms) for ms in (180.0, 190.0, 210.0, 220.0)),
        *(move("moves", "by hand", ms) for ms in (900.0, 1000.0, 1100.0)),
        *(move("memory", "flowferry", 200.0 + size, megabytes=size) for size in (10, 256)),
        move("memory", "by hand", 5000.0, megabytes=10, errors=["ConnectionResetError: reset"]),
        move("connections", "flowferry", 220.0, connections=1),
        move("connections", "flowferry", 240.0, connections=100, crowd=crowd),
        trace("flowferry"),
        trace("by hand"),
        {"record": "steps", "megabytes": 256, "ms": {"dump": 300, "transfer": 80, "restore": 190}},
        {"record": "steps", "megabytes": 256, "ms": {"dump": 500, "transfer": 80, "restore": 190}},
        {"record": "updates", "connections": 1, "ms": [0.5, 0.6, 0.7]},
        {"record": "updates", "connections": 100, "ms": [0.5, 0.6, 0.8]},
    ]


@pytest.fixture
def file(tmp_path: Path, records: list[dict[str, Any]]) -> Path:
    path = tmp_path / "benchmark.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def results(file: Path) -> Results:
    return read(file)


@pytest.fixture
def pods(tmp_path: Path) -> Results:
    """One of everything of the benchmark of pods."""

    def pod(series: str, mover: str, downtime: float, **more: Any) -> dict[str, Any]:
        return {**move(series, mover, downtime, **more), "runtime": "pod"}

    broken = {"errors": ["ConnectionResetError: reset"] * 200}
    records = [
        RUN,
        pod("moves", "flowferry", 400.0, hold_ms=390.0),
        pod("moves", "flowferry", 420.0, hold_ms=400.0),
        pod("moves", "by hand", 3000.0),
        pod("memory", "flowferry", 910.0, hold_ms=900.0, megabytes=64),
        pod("memory", "flowferry", 2300.0, hold_ms=2290.0, megabytes=256),
        pod("memory", "by hand", 9000.0, megabytes=64),
        pod("crowd", "flowferry", 450.0, hold_ms=440.0, each=100, crowd={"errors": []}),
        pod("crowd", "by hand", 3000.0, each=100, crowd=broken, errors=["reset"]),
        {**pod("moves", "flowferry", 80.0, hold_ms=60.0), "runtime": "pod-direct"},
        {**pod("memory", "flowferry", 99.0, hold_ms=90.0, megabytes=64), "runtime": "pod-direct"},
        {
            **pod("memory", "flowferry", 99.0, hold_ms=90.0, megabytes=128),
            "runtime": "pod-post-copy",
            "memory_bytes": 128_000_000,
            "memory_faults": 70,
            "memory_longest_ms": 3.25,
            "phases": [{"name": "hold", "ms": 90.0}, {"name": "settle", "ms": 140.0}],
        },
        {**pod("connections", "flowferry", 90.0, connections=1000), "runtime": "pod-direct"},
        {**trace("flowferry"), "runtime": "pod"},
    ]
    path = tmp_path / "pods.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read(path)
