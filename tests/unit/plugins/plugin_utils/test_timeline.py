# SPDX-License-Identifier: Apache-2.0
"""A migration's events become lines that a person can read."""

from __future__ import annotations

from typing import Any

from ansible_collections.flowferry.core.plugins.plugin_utils.migration.timeline import Timeline

ORDER = {"event": "order", "workload": "redis", "destination": "node2"}
PHASES = {"prepare": 50.0, "hold": 10.0, "checkpoint": 100.0, "release": 40.0, "clean": 200.0}
RESULT = {
    "source": "node1",
    "changed": True,
    "phases": [],
    "hold_ms": 150.25,
    "own_ms": 7.5,
    "held_packets": 12,
    "overflow_packets": 0,
    "image_bytes": 3_300_000,
}


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(*events: dict[str, Any], clock: Clock | None = None) -> Timeline:
    timeline = Timeline(clock or Clock())
    for event in events:
        timeline.note(event)
    return timeline


def whole_move() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [ORDER]
    for name, ms in PHASES.items():
        events += [{"event": "begin", "name": name}, {"event": "phase", "name": name, "ms": ms}]
    return [*events, {"event": "result", "result": RESULT}]


def bar(line: str) -> tuple[int, int, str]:
    """Where a line's bar begins and ends, and what it is drawn with."""
    drawn = line[line.index(" ms  ") + 5 :]
    start = len(drawn) - len(drawn.lstrip())
    return start, len(drawn), drawn.strip()[0]


def test_a_finished_move_tells_everything_in_eighty_columns() -> None:
    lines = told(*whole_move()).lines(79)
    assert lines[0] == "redis: node1 -> node2"
    assert [line.split()[0] for line in lines[1:-1]] == list(PHASES)
    assert [float(line.split()[1]) for line in lines[1:-1]] == list(PHASES.values())
    assert lines[-1] == "  held for 150.2 ms (█; own code 7.5), 12 packets kept; checkpoint 3.3 MB"
    assert max(len(line) for line in lines) <= 79


def test_volumes_have_a_line_of_their_own() -> None:
    events = whole_move()
    events[-1] = {
        "event": "result",
        "result": {**RESULT, "volume_bytes": 12_340_000, "volume_bytes_held": 160_000},
    }
    lines = told(*events).lines(79)
    assert lines[-1] == "  volumes 12.3 MB, 0.2 MB of them while held"
    assert lines[-2].startswith("  held for")


def test_memory_that_followed_has_a_line_of_its_own() -> None:
    events = whole_move()
    figures = {"memory_bytes": 268_435_456, "memory_faults": 70, "memory_longest_ms": 2.46}
    events[-1] = {"event": "result", "result": {**RESULT, **figures}}
    lines = told(*events).lines(79)
    wanted = "  memory 268.4 MB followed; the copy waited for it 2.5 ms at most"
    assert lines[-1] == wanted


def test_bars_follow_one_another_to_scale() -> None:
    bars = [bar(line) for line in told(*whole_move()).lines(79)[1:-1]]
    for (_, end, _), (start, _, _) in zip(bars, bars[1:]):
        assert abs(start - end) <= 1
    checkpoint, clean = (end - start for start, end, _ in (bars[2], bars[4]))
    assert abs(clean - 2 * checkpoint) <= 2


def test_what_is_held_is_drawn_solid_from_hold_to_release() -> None:
    marks = [bar(line)[2] for line in told(*whole_move()).lines(79)[1:-1]]
    assert marks == ["░", "█", "█", "█", "░"]


def test_a_short_phase_is_seen_and_a_long_one_stays_in_its_columns() -> None:
    events = [ORDER]
    for name, ms in (("hold", 90000.0), ("checkpoint", 0.01), ("release", 0.01)):
        events += [{"event": "begin", "name": name}, {"event": "phase", "name": name, "ms": ms}]
    lines = told(*events).lines(60)
    assert max(len(line) for line in lines) <= 60
    assert all("█" in line for line in lines[1:])


def test_a_phase_that_runs_grows() -> None:
    clock = Clock()
    timeline = told(ORDER, {"event": "begin", "name": "checkpoint"}, clock=clock)
    clock.now += 1.5
    assert timeline.lines(79)[0] == "redis -> node2"
    assert "1500.0 ms" in timeline.lines(79)[1]


def test_a_failure_names_its_code_and_shows_the_way_back() -> None:
    clock = Clock()
    timeline = told(ORDER, {"event": "begin", "name": "hold"}, clock=clock)
    clock.now += 0.3
    timeline.note({"event": "rollback"})
    clock.now += 0.1
    timeline.note({"event": "failure", "failure": {"code": "disk_full", "message": "..."}})
    clock.now += 5.0
    lines = timeline.lines(79)
    assert lines[0] == "redis -> node2: disk_full"
    assert [line.split()[:2] for line in lines[1:]] == [["hold", "300.0"], ["rollback", "100.0"]]


def test_nothing_to_do_is_one_line() -> None:
    result = {"source": "node2", "changed": False, "recovered": ""}
    assert told(ORDER, {"event": "result", "result": result}).lines(79) == [
        "redis is on node2: nothing to do"
    ]


def test_check_mode_says_that_it_was_a_plan() -> None:
    result = {"source": "node1", "changed": True, "plan": {}}
    assert told(ORDER, {"event": "result", "result": result}).lines(79) == [
        "redis: node1 -> node2, planned and not done"
    ]


def test_an_earlier_migration_is_mentioned() -> None:
    result = {"source": "node2", "changed": True, "recovered": "finished"}
    lines = told(
        ORDER, {"event": "recover", "phase": "release"}, {"event": "result", "result": result}
    ).lines(79)
    assert lines == [
        "redis is on node2: the earlier migration is finished",
        "  an earlier migration ended in phase release",
    ]
