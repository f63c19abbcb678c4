# SPDX-License-Identifier: Apache-2.0
"""The statistics of the benchmark."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import figures
from benchmark.figures import Kind, Spread
from benchmark.records import Results
from benchmark.series import around_silence

PODMAN = Kind("flowferry", "podman")
TIMES = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=50)


@given(TIMES, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert figures.percentile(values, percent) == pytest.approx(numpy.percentile(values, percent))


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        figures.percentile([], 50)


@given(TIMES)
def test_a_spread_is_in_order(values: list[float]) -> None:
    spread = Spread.of(values)
    ranked = [spread.p50, spread.p95, spread.p99, spread.worst]
    assert ranked == pytest.approx(sorted(ranked)) and spread.count == len(values)


def test_the_ratio_is_that_of_the_medians(results: Results) -> None:
    assert figures.ratio(results, PODMAN) == pytest.approx(1000 / 200)


def test_without_a_move_by_hand_there_is_no_ratio(results: Results) -> None:
    results.moves = [move for move in results.moves if move["mover"] == "flowferry"]
    assert figures.ratio(results, PODMAN) is None


def test_the_dominant_phase_is_one_of_those_that_clients_wait_for() -> None:
    medians = {"prepare": 900.0, "hold": 10.0, "restore": 80.0, "release": 10.0, "clean": 500.0}
    assert figures.dominant(medians) == ("restore", 0.8)


def test_by_hand_every_phase_counts() -> None:
    assert figures.dominant({"checkpoint": 300.0, "restore": 100.0}) == ("checkpoint", 0.75)


def test_phases_are_medians_in_their_order(results: Results) -> None:
    moves = figures.moves(results, "moves", PODMAN)
    moves[0]["phases"][1]["ms"] = 1000.0
    medians = figures.phases(moves)
    assert list(medians) == ["prepare", "hold", "checkpoint", "restore", "release"]
    assert medians["hold"] == 10.0


def test_downtimes_are_grouped_by_value_in_ascending_order(results: Results) -> None:
    moves = results.of("memory", mover="flowferry")
    assert figures.by_value(moves[::-1], "megabytes") == {10: [210.0], 256: [456.0]}


def test_harm_tells_broken_connections_from_wrong_answers(results: Results) -> None:
    assert figures.harm(results.of("moves")) == (0, 0)
    assert figures.harm(results.of("memory")) == (1, 0)
    assert figures.harm(results.of("connections")) == (0, 1)


def test_a_trace_begins_where_the_longest_wait_began() -> None:
    points = [[1000.0, 0.1], [4000.0, 0.1], [5000.0, 500.0], [5001.0, 0.2], [9000.0, 0.1]]
    assert around_silence(points) == [[-500.0, 0.1], [500.0, 500.0], [501.0, 0.2]]


def test_clients_of_the_reference_procedure_wait_from_the_redirect_on() -> None:
    phases = {"checkpoint": 5.0, "image": 5.0, "push": 5.0, "redirect": 1.0, "delete": 2.0}
    assert figures.held(phases) == {"redirect": 1.0, "delete": 2.0}


def test_what_was_acknowledged_and_is_gone_is_counted() -> None:
    """7 after 9: 8 and 9 were acknowledged, and 7, before its increment was made anew."""
    move = {"errors": ["7 came after 9", "ConnectionError: the server closed the connection"]}
    crowd = {"errors": [], "crowd": {"errors": ["ValueError: 5 came after 5", "9 came after 5"]}}
    assert figures.lost([move, crowd]) == 3 + 1
