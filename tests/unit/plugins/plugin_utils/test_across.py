# SPDX-License-Identifier: Apache-2.0
"""A redirect at three switches: whichever of them fails, and whenever, one copy is reached."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import across
from flowferry_p4.client import Entry, SwitchUnreachable, Update

ADDRESS, GATEWAY = "198.19.0.100", "02:ff:00:00:00:01"
MACS = {"node1": "02:ff:00:00:00:0b", "node2": "02:ff:00:00:00:0c"}
POD_MAC = "02:ff:c6:13:00:64"


def route(address: str, port: int, source: str, destination: str) -> Entry:
    params = {"port": port, "source_mac": source, "destination_mac": destination}
    return Entry("route", {"destination": f"{address}/32"}, "forward", params)


class Session:
    """A switch; ``fails`` is how many writes it still takes before it is away."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {entry.key: entry for entry in entries}
        self.closed = threading.Event()
        self.fails: int | None = None
        self.is_away = False

    def read(
        self, tables: str | Sequence[str], match: Mapping[str, Any] | None = None
    ) -> list[Any]:
        self._answer()
        names = [tables] if isinstance(tables, str) else tables
        return [
            entry
            for entry in self.entries.values()
            if entry.table in names and (match is None or entry.match == match)
        ]

    def write(self, updates: Sequence[Update]) -> None:
        if self.fails is not None:
            self.is_away = self.is_away or self.fails == 0
            self.fails -= 1
        self._answer()
        for update in updates:
            if update.kind == "DELETE":
                self.entries.pop(update.entry.key, None)
            else:
                self.entries[update.entry.key] = update.entry

    def _answer(self) -> None:
        if self.is_away:
            raise SwitchUnreachable("away")

    def on_packet(self, callback: object) -> None:
        """Nothing comes."""

    def send_packets(self, packets: object) -> None:
        """Nothing was held."""

    def flush(self) -> None: ...

    def leads(self) -> tuple[int, str]:
        routes = [entry for entry in self.entries.values() if entry.table == "route"]
        (found,) = (one for one in routes if one.match["destination"] == f"{ADDRESS}/32")
        return found.params["port"], found.params["destination_mac"]

    def traces(self) -> list[str]:
        return [entry.table for entry in self.entries.values() if entry.table != "route"]


class Rig:
    """The pod is at port 8 of node1, its copy at port 9 of node2; the edge has them at 1 and 2."""

    def __init__(self) -> None:
        up1, up2 = (MACS[name] for name in ("node1", "node2"))
        node1 = [
            route(ADDRESS, 8, GATEWAY, POD_MAC),
            route("198.19.0.11", 2, GATEWAY, "02:00:00:00:00:01"),
            route("198.19.0.12", 1, up1, GATEWAY),
        ]
        node2 = [
            route(ADDRESS, 1, up2, GATEWAY),
            route("198.19.0.12", 2, GATEWAY, "02:00:00:00:00:02"),
            route("198.19.0.11", 1, up2, GATEWAY),
        ]
        self.sessions = {
            "s1": Session(*node1),
            "s2": Session(*node2),
            "edge": Session(route(ADDRESS, 1, GATEWAY, up1)),
        }
        endpoint = {"namespace": "pod-1", "address": ADDRESS, "mac": "", "others": []}
        self.plan: dict[str, Any] = {
            "strategy": "keep",
            "about": {
                "attachment": {"port": 8, "mac": POD_MAC},
                "copy_attachment": {"port": 9, "mac": POD_MAC},
            },
            "endpoint": endpoint,
            "destination_endpoint": endpoint,
            "switch": {"hold": "buffer", "at": {"address": "edge", "device_id": 1}},
            "source": self._node(1),
            "destination": self._node(2),
        }

    def _node(self, number: int) -> dict[str, Any]:
        return {
            "name": f"node{number}",
            "switch_port": number,
            "mac": MACS[f"node{number}"],
            "data_address": f"198.19.0.1{number}",
            "switch": {"address": f"s{number}"},
        }

    def get(self, switch: Mapping[str, Any]) -> Session:
        return self.sessions[switch["address"]]

    def strategy(self) -> across.KeepAcross:
        """As a keeper has it that begins, or that finds the journal of another one."""
        self.plan = json.loads(json.dumps(self.plan))
        return across.KeepAcross(self.sessions["edge"], self.plan, self)  # type: ignore[arg-type]

    def held(self) -> across.KeepAcross:
        """All that comes before the redirect."""
        made = self.strategy()
        made.check()
        made.traffic.hold_ingress()
        made.traffic.hold_egress()
        made.guard("source")
        made.look()
        return made

    def leads(self) -> dict[str, tuple[int, str]]:
        return {name: session.leads() for name, session in self.sessions.items()}


BEFORE = {"s1": (8, POD_MAC), "s2": (1, GATEWAY), "edge": (1, MACS["node1"])}
AFTER = {"s1": (1, GATEWAY), "s2": (9, POD_MAC), "edge": (2, MACS["node2"])}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "PATIENCE", dict.fromkeys(across.PATIENCE, 0.0))


def test_all_three_lead_to_the_copy_and_nothing_is_left() -> None:
    rig = Rig()
    made = rig.held()
    assert not made.is_redirected()
    made.redirect()
    assert made.is_redirected() and rig.leads() == AFTER
    made.release({"source": 1.0, "destination": 2.0})
    made.unguard("source")
    assert [session.traces() for session in rig.sessions.values()] == [[], [], []]


def test_held_at_both_nodes_and_the_edge_before_any_leads_elsewhere() -> None:
    rig = Rig()
    rig.held()
    assert {name: sorted(s.traces()) for name, s in rig.sessions.items()} == {
        "s1": ["guard", "hold_from", "hold_to"],
        "s2": ["hold_from", "hold_to"],
        "edge": ["hold_to"],
    }


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["edge", "s1", "s2"])
def test_a_switch_that_fails_in_the_redirect_is_led_back(name: str, again: bool) -> None:
    """By the same keeper, or by the next one, which has the journal alone."""
    rig = Rig()
    made = rig.held()
    rig.sessions[name].fails = 0
    with pytest.raises(SwitchUnreachable):
        made.redirect()
    rig.sessions[name].fails, rig.sessions[name].is_away = None, False
    made = rig.strategy() if again else made
    assert not made.is_redirected()
    made.lead_back()
    assert rig.leads() == BEFORE
    made.unguard("source")
    made.release({"source": 1.0})
    assert [session.traces() for session in rig.sessions.values()] == [[], [], []]


def test_an_edge_that_stays_away_does_not_keep_the_source_from_going_on() -> None:
    rig = Rig()
    made = rig.held()
    rig.sessions["edge"].is_away = True
    with pytest.raises(SwitchUnreachable):
        made.redirect()
    made.lead_back()
    made.unguard("source")
    with pytest.raises(SwitchUnreachable):  # the journal stays, for the next run
        made.release({"source": 1.0})
    assert (rig.sessions["s1"].traces(), rig.sessions["s2"].traces()) == ([], [])
    rig.sessions["edge"].is_away = False
    then = rig.strategy()
    then.lead_back()
    then.release({"source": 1.0})
    assert rig.leads() == BEFORE and rig.sessions["edge"].traces() == []


def test_a_node_without_a_route_of_the_address_gets_one_and_loses_it_again() -> None:
    rig = Rig()
    entries = rig.sessions["s2"].entries
    gone = next(k for k, e in entries.items() if e.match["destination"] == f"{ADDRESS}/32")
    del entries[gone]
    made = rig.held()
    made.redirect()
    assert rig.leads() == AFTER
    made.lead_back()
    assert gone not in entries


def test_a_source_that_the_switches_do_not_lead_to_is_refused() -> None:
    for name in ("s1", "edge"):
        rig = Rig()
        (key,) = (
            k
            for k, e in rig.sessions[name].entries.items()
            if e.match["destination"] == f"{ADDRESS}/32"
        )
        entry = copy.deepcopy(rig.sessions[name].entries[key])
        entry.params["port"] = 7
        rig.sessions[name].entries[key] = entry
        with pytest.raises(FlowferryError, match="leads to port"):
            rig.strategy().check()


def test_a_copy_at_no_port_is_a_failure_before_anything_is_redirected() -> None:
    rig = Rig()
    rig.plan["about"]["copy_attachment"] = {}
    made = rig.strategy()
    made.check()
    with pytest.raises(FlowferryError, match="no port"):
        made.look()
    assert rig.leads() == BEFORE
