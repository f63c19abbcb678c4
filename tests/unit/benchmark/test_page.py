# SPDX-License-Identifier: Apache-2.0
"""What people read of a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmark.page import page, summary
from benchmark.pictures import PICTURES, draw
from benchmark.records import Results, read

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_summary_fits_a_terminal_and_begins_with_the_downtime(results: Results) -> None:
    head, first, *_ = lines = summary(results)
    assert head.split() == ["downtime", "(ms)", "moves", "p50", "p95", "p99", "worst"]
    assert first.split() == ["Flowferry,", "podman", "4", "200.0", "218.5", "219.7", "220.0"]
    assert max(len(line) for line in lines) <= 72


def test_the_summary_says_by_how_much_and_what_dominates(results: Results) -> None:
    lines = summary(results)
    assert lines[2] == "  60% of it is restore; by hand clients wait 5.0 times as long"
    assert "Flowferry, podman, ms by MB: 10: 210, 256: 456" in lines
    assert "switch update (one MODIFY): p50 0.60 ms, p99 0.80 ms" in lines
    assert lines[-2:] == [
        "Flowferry: 0 connections broken, 1 wrong answers in 8 moves",
        "by hand: 1 connections broken, 0 wrong answers in 4 moves",
    ]


def test_what_could_not_be_measured_is_said(results: Results) -> None:
    results.failures = [{"what": "memory, podman", "why": "the disk is full"}]
    assert summary(results)[-1] == "NOT MEASURED: memory, podman: the disk is full"
    assert "- memory, podman: the disk is full" in page(results, [])


def test_the_page_says_from_what_it_was_made(results: Results) -> None:
    text = page(results, ["downtime.png"])
    for told in ("`0123456789ab`", "`make bench`", "2026-01-02 03:04 UTC", "A processor, 2 cores"):
        assert told in text
    assert "with changes that are not committed" not in text
    assert text.count("](results/") == 1
    results.run["changed_since"] = True
    assert "with changes that are not committed" in page(results, [])


def test_every_picture_is_drawn(results: Results, tmp_path: Path) -> None:
    names = draw(results, tmp_path)
    assert names == [f"{name}.png" for name in PICTURES]
    for name in names:
        height, width, _ = imread(tmp_path / name).shape
        assert width > 800 and height > 300


def test_what_was_not_measured_is_not_drawn(results: Results, tmp_path: Path) -> None:
    (tmp_path / "memory.png").write_text("of an earlier run")
    results.moves = results.of("moves")
    results.updates = results.traces = []
    assert draw(results, tmp_path) == ["downtime.png", "phases.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["downtime.png", "phases.png"]


def test_the_published_page_is_that_of_its_records() -> None:
    records = DOCS / "results" / "benchmark.jsonl"
    if not records.exists():
        pytest.skip("no results are published")
    pictures = [path.name for path in (DOCS / "results").glob("*.png")]
    assert (DOCS / "results.md").read_text() == page(read(records), pictures), "run make bench"
