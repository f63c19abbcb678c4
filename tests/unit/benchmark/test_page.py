# SPDX-License-Identifier: Apache-2.0
"""What people read of a benchmark."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmark.page import PAGES, page, runs, summary
from benchmark.pictures import PICTURES, draw
from benchmark.records import Results

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


def test_the_page_has_each_phase_and_what_dominates(results: Results) -> None:
    text = page(results, [])
    table = text[text.index("## Phases") :].split("\n\n")[2]
    head, _, *rows = table.splitlines()
    assert head.startswith("| | ") and head.endswith(" what dominates |")
    assert [row.split(" | ")[0] for row in rows] == ["| Flowferry, podman", "| by hand, podman"]
    assert rows[0].endswith("| restore, 60% |")


def test_moves_are_compared_with_their_longest_step_alone(results: Results) -> None:
    assert "256 MB, podman: 1.14 times the longest step alone" in summary(results)  # 456 of 400
    assert "| 256 | 400 | 80 | 190 | 400 | 456 | 1.14 |" in page(results, [])
    results.moves = results.of("moves")
    assert "| 256 | 400 | 80 | 190 | 400 |\n" in page(results, [])
    results.steps = []
    assert "The steps alone" not in page(results, [])


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_of_a_page_is_drawn_and_shown(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    results = request.getfixturevalue({"results": "results", "results-pods": "pods"}[name])
    wanted = PAGES[name].pictures
    names = draw(results, tmp_path, wanted)
    assert names == [f"{picture}.png" for picture in wanted]
    assert page(results, names, name).count(f"]({name}/") == len(wanted)
    for name in names:
        height, width, _ = imread(tmp_path / name).shape
        assert width > 800 and height > 300


def test_every_picture_is_on_some_page() -> None:
    assert set(PICTURES) == {picture for one in PAGES.values() for picture in one.pictures}


def test_the_page_of_pods_counts_what_broke_and_what_comes_after_the_hold(pods: Results) -> None:
    text = page(pods, [], "results-pods")
    assert "| small, under load | 3 | 20.0 | 20.0 | 20.0 |" in text
    assert "| Flowferry, pod-direct | 1000 | 1 | 90 | 90 |" in text
    assert "| by hand, pod | 100 | 100 | 1 | 3000.0 | 3000.0 | 201 | 0 |" in text
    assert "| Flowferry, pod | 256 | 1 | 2300 | 2300 |" in text
    assert "beyond the hold, 64 MB: p50 9.5, worst 10.0 ms" in summary(pods)


def test_another_runtime_has_a_section_that_says_what_differs(pods: Results) -> None:
    pods.run["versions"] = {"containerd": "v2.1.9"}
    other = copy.deepcopy(pods)
    other.run |= {"versions": {"CRI-O": "1.36.3"}, "commit": "cafe"}
    other.moves = [move for move in other.moves if move["mover"] == "flowferry"]
    # Of moves that went directly nothing is compared.
    for move, ms in zip(other.of("moves"), (80.0, 80.0, 7.0), strict=True):
        move["phases"][0]["ms"] = ms
    text = page(pods, [], "results-pods", [other])
    section = text[text.index("## CRI-O 1.36.3") : text.index("## How it was measured")]
    assert "| | containerd v2.1.9 | CRI-O 1.36.3 | difference |" in section
    assert "| prepare | 50.0 | 80.0 | +30.0 |" in section and "`cafe`" in section
    assert "by hand" not in section.partition("parameters")[0]
    assert "| Flowferry, pod | 256 | 1 | 2300 | 2300 |" in section
    assert "| pod, 64 MB | 50.0 | 10.0 | 60.0 | 120.0 | 10.0 |  | restore, 60% |" in section
    assert "| Flowferry, pod-post-copy | 128 | 140 | 70 times | 3.2 |" in page(
        pods, [], "results-pods"
    )
    other.moves = other.of("moves")
    assert "### Memory" not in page(pods, [], "results-pods", [other])


def test_what_was_not_measured_is_not_drawn(results: Results, tmp_path: Path) -> None:
    (tmp_path / "memory.png").write_text("of an earlier run")
    results.moves = results.of("moves")
    results.updates = results.traces = []
    wanted = PAGES["results"].pictures
    assert draw(results, tmp_path, wanted) == ["downtime.png", "phases.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["downtime.png", "phases.png"]


@pytest.mark.parametrize("name", PAGES)
def test_the_published_page_is_that_of_its_records(name: str) -> None:
    records = DOCS / name / "benchmark.jsonl"
    if not records.exists():
        pytest.skip("no results are published")
    pictures = [path.name for path in (DOCS / name).glob("*.png")]
    published = (DOCS / f"{name}.md").read_text()
    results, *others = runs(PAGES[name], DOCS / name)
    told = page(results, pictures, name, others)
    assert published == told, "run make bench, make bench-pods"
