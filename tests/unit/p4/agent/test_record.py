# SPDX-License-Identifier: Apache-2.0
"""Passes that go by a record of the switch: they leave what a pass that reads all of it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from flowferry_p4.agent import Cluster, Result, Settings, Uplink, cluster, reconcile
from flowferry_p4.agent.memory import Memory
from flowferry_p4.agent.tables import BUCKETS
from flowferry_p4.client import Entry, P4Error, Session, Update
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.p4.agent import kube
from tests.unit.p4.agent.memory_switch import SCHEMA, MemorySwitch

HERE = Settings("node1", uplink=Uplink(1, "02:ff:00:00:00:11", "02:ff:00:00:00:99"))
NODES = [kube.node("node1"), kube.node("node2")]
VIRTUAL = "10.96.0.1"


class MemorySession:
    """What a pass needs of a session; ``check`` is made after every update."""

    schema = SCHEMA

    def __init__(self, switch: MemorySwitch) -> None:
        self.switch = switch
        self.asked: set[str] = set()
        self.fails_after = -1

    def read(self, names: Sequence[str]) -> list[Entry]:
        self.asked |= set(names)
        return list(self.switch.tables.of(*names))

    def write(self, updates: Sequence[Update]) -> None:
        for update in updates:
            if self.fails_after == 0:
                raise P4Error("the switch is gone")
            self.fails_after -= 1
            self.switch.apply(update)
            self.switch.check()

    def send_packets(self, packets: Any) -> None:
        list(packets)

    def flush(self) -> None: ...


def run(session: MemorySession, known: Cluster, memory: Memory | None) -> Result:
    session.asked.clear()
    return reconcile(cast("Session", session), known, lambda: [], HERE, memory=memory)


def web(*ends: int) -> Cluster:
    found = [kube.endpoint(f"198.19.1.{n}") for n in ends]
    return cluster([], NODES, [kube.service("web", VIRTUAL)], [kube.slice_of("web", *found)])


def read_all(session: MemorySession) -> bool:
    return set(BUCKETS) <= session.asked


def test_a_pass_after_a_change_reads_no_buckets() -> None:
    session, memory = MemorySession(MemorySwitch()), Memory(every=3600)
    run(session, web(1, 2), memory)
    assert read_all(session)
    assert run(session, web(1, 2, 3), memory).writes > 1
    assert not read_all(session)
    assert run(session, web(1, 2, 3), memory).writes == 0
    result = run(session, web(1, 2, 3), None)
    assert (result.writes, result.entries) == (0, len(session.switch.tables))


def lose_a_write(session: MemorySession, memory: Memory) -> None:
    session.fails_after = 5
    with pytest.raises(P4Error):
        run(session, web(1, 2, 3), memory)
    session.fails_after = -1


def lose_everything(session: MemorySession, memory: Memory) -> None:
    session.switch.tables = MemorySwitch().tables


def migrate(session: MemorySession, memory: Memory) -> None:
    """Only the end of it is seen: what was written meanwhile is read with the next pass."""
    hold = Entry("hold_to", {"address": "198.19.1.1"}, "buffer")
    session.switch.tables.add(hold)
    run(session, web(1, 2), memory)
    session.switch.tables.replace(hold, None)


def grow_old(session: MemorySession, memory: Memory) -> None:
    memory._until = 0.0


@pytest.mark.parametrize("happens", [lose_a_write, lose_everything, migrate, grow_old])
def test_all_is_read_where_the_record_may_not_hold(
    happens: Callable[[MemorySession, Memory], None],
) -> None:
    session, memory = MemorySession(MemorySwitch()), Memory(every=3600)
    run(session, web(1, 2), memory)
    happens(session, memory)
    run(session, web(1, 2), memory)
    assert read_all(session)
    assert run(session, web(1, 2), None).writes == 0


def test_another_session_reads_all() -> None:
    memory, switch = Memory(every=3600), MemorySwitch()
    run(MemorySession(switch), web(1), memory)
    later = MemorySession(switch)
    run(later, web(1), memory)
    assert read_all(later)


def test_a_switch_that_takes_long_to_read_is_read_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("flowferry_p4.agent.memory.time.monotonic", lambda: now)
    session, memory = MemorySession(MemorySwitch()), Memory(every=30)
    run(session, web(1), memory)
    memory.has_read(10.0)
    now += 499
    run(session, web(1), memory)
    assert not read_all(session)
    now += 2
    run(session, web(1), memory)
    assert read_all(session)


def test_a_service_that_has_no_room_is_read_for_each_time() -> None:
    session, memory = MemorySession(MemorySwitch()), Memory(every=3600)
    small = {name: replace(table, size=300) for name, table in SCHEMA.tables.items()}
    session.schema = cast("Any", type("Small", (), {"tables": small}))
    both = cluster(
        [],
        NODES,
        [kube.service("web", VIRTUAL), kube.service("more", "10.96.0.2")],
        [kube.slice_of(name, kube.endpoint("198.19.1.1")) for name in ("web", "more")],
    )
    for _ in range(2):
        assert [p.code for p in run(session, both, memory).problems] == ["table_full"]
        assert read_all(session)


ENDS = st.dictionaries(st.integers(1, 5), st.booleans(), max_size=4)
SERVICE = st.fixed_dictionaries(
    {
        "ends": ENDS,
        "created": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        "address": st.sampled_from(["10.96.0.1", "10.96.0.2", "198.19.1.1"]),
        "outside": st.booleans(),
        "port": st.sampled_from([80, 8080]),
        "protocol": st.sampled_from(["TCP", "UDP"]),
        "buckets": st.sampled_from(["5", "7"]),
    }
)
STATES = st.lists(st.dictionaries(st.sampled_from("abc"), SERVICE), min_size=2, max_size=6)


def made_of(state: dict[str, dict[str, Any]]) -> Cluster:
    services, slices = [], []
    for name, one in state.items():
        outside = (f"203.0.113.{ord(name)}",) if one["outside"] else ()
        item = kube.service(name, one["address"], outside=outside, port=one["port"],
                            protocol=one["protocol"], created=one["created"])  # fmt: skip
        item["metadata"]["annotations"] = {"flowferry.dev/buckets": one["buckets"]}
        services.append(item)
        found = [kube.endpoint(f"198.19.1.{n}", ready=ready) for n, ready in one["ends"].items()]
        slices.append(kube.slice_of(name, *found, protocol=one["protocol"]))
    return cluster([], NODES, services, slices)


@settings(max_examples=30, deadline=None)
@given(states=STATES)
def test_whatever_happens_a_pass_over_all_of_it_has_nothing_to_write(
    states: list[dict[str, dict[str, Any]]],
) -> None:
    session, memory = MemorySession(MemorySwitch()), Memory(every=3600)
    for number, state in enumerate(states):
        known = made_of(state)
        by_record = run(session, known, memory)
        assert read_all(session) == (number == 0)
        over_all = run(session, known, None)
        assert over_all.writes == 0
        assert by_record.entries == over_all.entries == len(session.switch.tables)
        assert by_record.problems == over_all.problems
