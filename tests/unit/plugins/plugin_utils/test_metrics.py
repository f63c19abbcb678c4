# SPDX-License-Identifier: Apache-2.0
"""What migrations count for Prometheus, from one to the next."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import metrics

MOVED: dict[str, Any] = {
    "event": "result",
    "result": {
        "phases": [{"name": "hold", "ms": 8.0}, {"name": "restore", "ms": 40.0}],
        "hold_ms": 120.0,
        "held_packets": 7,
        "overflow_packets": 1,
        "image_bytes": 3_000_000,
    },
}
FAILED = {"event": "failure", "failure": {"code": "no_image", "message": "there is no image"}}
IN_PLACE = {"event": "result", "result": {"changed": False, "recovered": "", "source": "node2"}}


def lines(path: Path) -> dict[str, float]:
    read = [line.rpartition(" ") for line in path.read_text().splitlines() if line[0] != "#"]
    return {name.removeprefix("flowferry_"): float(value) for name, _, value in read}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which four migrations are counted, one after the other."""
    path = tmp_path / "textfile" / "flowferry.prom"
    for workload, event in (
        ("redis", MOVED),
        ("redis", MOVED),
        ("pod:default/web", FAILED),
        ("redis", IN_PLACE),
    ):
        assert metrics.record(path, {"workload": workload}, event) == ""
    return path


def test_migrations_are_counted_by_how_they_ended(path: Path) -> None:
    counted = lines(path)
    assert counted['migrations_total{runtime="podman",ended="moved",code=""}'] == 2
    assert counted['migrations_total{runtime="pod",ended="failed",code="no_image"}'] == 1
    last = counted['migration_last_timestamp_seconds{runtime="pod",ended="failed",code="no_image"}']
    assert 0 <= time.time() - last < 60
    assert counted['migrations_total{runtime="podman",ended="nothing",code=""}'] == 1


def test_times_add_up(path: Path) -> None:
    counted = lines(path)
    assert counted['migration_hold_seconds_sum{runtime="podman"}'] == pytest.approx(0.24)
    assert counted['migration_hold_seconds_bucket{runtime="podman",le="0.1"}'] == 0
    assert counted['migration_hold_seconds_bucket{runtime="podman",le="0.2"}'] == 2
    assert counted['migration_hold_seconds_bucket{runtime="podman",le="+Inf"}'] == 2
    restore = '{runtime="podman",phase="restore"}'
    assert counted[f"migration_phase_seconds_sum{restore}"] == pytest.approx(0.08)
    assert counted[f"migration_phase_seconds_count{restore}"] == 2
    assert counted['migration_overflow_packets_total{runtime="podman"}'] == 2


def test_each_number_stands_below_its_type(path: Path) -> None:
    family = ""
    for line in path.read_text().splitlines():
        if line.startswith("# TYPE"):
            family = line.split()[2]
        elif not line.startswith("#"):
            assert line.startswith(family), line


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = metrics.record(tmp_path / "file" / "flowferry.prom", {"workload": "redis"}, MOVED)
    assert "the metrics of this migration are not in" in told
