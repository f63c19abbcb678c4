# SPDX-License-Identifier: Apache-2.0
"""Routes and answers: who is where, and who decides it while a pod is moving."""

from __future__ import annotations

from flowferry_p4.agent import Attachment, HostPort, Settings, Uplink, cluster
from flowferry_p4.agent.links import owner
from flowferry_p4.client import Entry

from tests.unit.p4.agent import kube
from tests.unit.p4.agent.memory_switch import MemorySwitch

UPLINK = Uplink(1, "02:ff:00:00:00:11")
HERE = Settings("node1", uplink=UPLINK)
POD_MAC = "02:ff:c6:13:09:15"
NODES = [kube.node("node1", "198.19.1.0/24", mac=UPLINK.mac), kube.node(
    "node2", "198.19.2.0/24", "2001:2:0:2::/64", mac="02:ff:00:00:00:12",
    addresses=("198.19.0.12",),
)]  # fmt: skip


def test_a_pod_of_this_node_is_reached_before_the_api_knows_it() -> None:
    switch = MemorySwitch()
    switch.pass_over(cluster(), [Attachment(5, POD_MAC, ("198.19.1.21", "2001:2::15"))], HERE)
    assert switch.port_of("198.19.1.21") == 5
    assert switch.port_of("2001:2::15") == 5
    answers = {entry.match["target"]: entry.params["mac"] for entry in switch.tables.of("arp")}
    assert answers == {"169.254.1.1/32": "02:ff:00:00:00:01", "198.19.1.21/32": UPLINK.mac}
    answers = {entry.match["target"]: entry.params["mac"] for entry in switch.tables.of("ndp")}
    assert answers == {"fe80::1/128": "02:ff:00:00:00:01", "2001:2::15/128": UPLINK.mac}


def test_another_node_is_one_route_for_each_of_its_networks() -> None:
    switch = MemorySwitch()
    pods = [kube.pod(f"p{n}", "node2", f"198.19.2.{n}") for n in range(1, 50)]
    _, wanted = switch.pass_over(cluster(pods, NODES), [], HERE)
    assert not wanted.problems
    routes = {entry.match["destination"]: entry.params for entry in switch.tables.of("route")}
    assert sorted(routes) == ["198.19.0.12/32", "198.19.2.0/24"]
    assert routes["198.19.2.0/24"] == {
        "port": 1,
        "source_mac": UPLINK.mac,
        "destination_mac": "02:ff:00:00:00:12",
    }
    assert switch.port_of("2001:2:0:2::7") == 1


def test_a_pod_away_from_its_network_has_a_route_of_its_own() -> None:
    switch = MemorySwitch()
    switch.pass_over(cluster([kube.pod("moved", "node2", "198.19.1.40")], NODES), [], HERE)
    assert switch.port_of("198.19.1.40") == 1


def test_a_node_whose_link_address_is_not_known_is_told() -> None:
    nodes = [kube.node("node2", "198.19.2.0/24")]
    _, wanted = MemorySwitch().pass_over(cluster(nodes=nodes), [], HERE)
    assert [problem.code for problem in wanted.problems] == ["no_next_hop"]
    assert "Node node2" in str(wanted.problems[0])


def test_the_way_out_of_the_cluster_is_the_router() -> None:
    router = "02:ff:00:00:00:99"
    nodes = [NODES[1], kube.node("node3", "198.19.3.0/24")]
    for routed, direct in ((False, "02:ff:00:00:00:12"), (True, router)):
        uplink = Uplink(1, UPLINK.mac, router, routed)
        switch = MemorySwitch()
        _, wanted = switch.pass_over(cluster(nodes=nodes), [], Settings("node1", uplink=uplink))
        assert not wanted.problems
        ways = {
            e.match["destination"]: e.params["destination_mac"] for e in switch.tables.of("route")
        }
        assert ways["0.0.0.0/0"] == router
        assert ways["198.19.2.0/24"] == direct
        assert ways["198.19.3.0/24"] == router, "a node that has not said where it is"
        assert switch.port_of("2001:db8::1") == 1


def test_the_node_itself_is_behind_a_port() -> None:
    host = HostPort(2, "02:ff:00:00:00:21", ("198.19.0.11/32", "198.18.0.0/24"))
    switch = MemorySwitch()
    switch.pass_over(cluster(), [], Settings("node1", uplink=UPLINK, host=host))
    assert switch.port_of("198.18.0.7") == 2
    assert switch.port_of("198.19.0.11") == 2


def test_only_the_redirect_decides_while_two_pods_have_an_address() -> None:
    """The whole of a move that keeps the address, as node1, node2 and a third one see it."""
    address = "198.19.1.21"
    source = kube.pod("redis", "node1", address, created="2026-01-01T00:00:00Z")
    copy = kube.pod("redis-moved", "node2", address, created="2026-01-02T00:00:00Z")
    nodes = [*NODES, kube.node("node3", "198.19.3.0/24", mac="02:ff:00:00:00:13")]
    on_source = [Attachment(5, POD_MAC, (address,), "uid-redis")]
    on_copy = [Attachment(7, POD_MAC, (address,), "uid-redis-moved")]
    first, second, third = MemorySwitch(), MemorySwitch(), MemorySwitch()
    uplink2, uplink3 = Uplink(1, "02:ff:00:00:00:12"), Uplink(1, "02:ff:00:00:00:13")

    def everywhere(*pods: kube.Object, source_there: bool, copy_there: bool) -> None:
        known = cluster(pods, nodes)
        first.pass_over(known, on_source if source_there else [], HERE)
        second.pass_over(known, on_copy if copy_there else [], Settings("node2", uplink=uplink2))
        third.pass_over(known, [], Settings("node3", uplink=uplink3))

    def answering() -> list[bool]:
        """Which of the two nodes says on the link that it has the address."""
        asked = [{e.match["target"] for e in s.tables.of("arp")} for s in (first, second)]
        return [f"{address}/32" in targets for targets in asked]

    def leads() -> tuple[int | None, int | None, str]:
        (way,) = [
            e.params["destination_mac"]
            for e in third.tables.of("route")
            if e.match["destination"] in (f"{address}/32", "198.19.1.0/24")
        ][-1:]
        return first.port_of(address), second.port_of(address), way

    everywhere(source, source_there=True, copy_there=False)
    assert leads() == (5, 1, UPLINK.mac)
    everywhere(source, copy, source_there=True, copy_there=True)
    assert leads() == (5, 1, UPLINK.mac), "the copy is heard before the redirect"
    assert answering() == [True, False]
    # The redirect, at both nodes.
    params = {"port": 1, "source_mac": UPLINK.mac, "destination_mac": "02:ff:00:00:00:12"}
    first.tables.add(Entry("route", {"destination": f"{address}/32"}, "forward", params))
    params = {"port": 7, "source_mac": HERE.gateway_mac, "destination_mac": POD_MAC}
    second.tables.add(Entry("route", {"destination": f"{address}/32"}, "forward", params))
    everywhere(source, copy, source_there=True, copy_there=True)
    assert leads()[:2] == (1, 7), "the redirect was undone while the source is still there"
    assert answering() == [False, True]
    everywhere(copy, source_there=False, copy_there=True)
    assert leads() == (1, 7, "02:ff:00:00:00:12")


def test_what_is_held_is_not_touched() -> None:
    address = "198.19.1.21"
    elsewhere = {"port": 3, "source_mac": UPLINK.mac, "destination_mac": "02:00:00:00:00:03"}
    route = Entry("route", {"destination": f"{address}/32"}, "forward", elsewhere)
    attached = [Attachment(5, POD_MAC, (address,))]
    for held in (
        Entry("hold_to", {"address": address}, "buffer"),
        Entry("hold_from", {"address": address}, "buffer"),
        Entry("guard", {"ingress_port": 5, "source": address}, "drop"),
    ):
        switch = MemorySwitch(route, held)
        switch.pass_over(cluster(), attached, HERE)
        assert switch.port_of(address) == 3
        switch.tables.replace(held, None)
        switch.pass_over(cluster(), attached, HERE)
        assert switch.port_of(address) == 5, "after the move the API counts again"


def test_a_held_address_without_a_route_gets_none() -> None:
    """A move that gives another address writes its route itself."""
    switch = MemorySwitch(Entry("hold_to", {"address": "198.19.1.21"}, "buffer"))
    switch.pass_over(cluster(), [Attachment(5, POD_MAC, ("198.19.1.21",))], HERE)
    assert switch.port_of("198.19.1.21") is None


def test_what_nobody_wants_goes() -> None:
    params = {"port": 3, "source_mac": UPLINK.mac, "destination_mac": POD_MAC}
    stale = Entry("route", {"destination": "203.0.113.0/24"}, "forward", params)
    switch = MemorySwitch(stale)
    switch.pass_over(cluster(), [], HERE)
    assert switch.port_of("203.0.113.7") is None


def test_an_outside_address_has_one_owner_and_moves_only_when_it_goes() -> None:
    nodes = {f"node{n}" for n in range(5)}
    addresses = [f"203.0.113.{n}" for n in range(100)]
    before = {address: owner(address, nodes) for address in addresses}
    assert set(before.values()) == nodes
    after = {address: owner(address, nodes - {"node2"}) for address in addresses}
    assert all(after[a] == before[a] for a in addresses if before[a] != "node2")


def test_an_outside_address_is_announced_by_its_owner_alone() -> None:
    service = kube.service("web", outside=("203.0.113.7",))
    known = cluster([], NODES, [service], [kube.slice_of("web", kube.endpoint("198.19.1.21"))])
    asked = {}
    for name in ("node1", "node2"):
        switch = MemorySwitch()
        attached = [Attachment(5, POD_MAC, ("198.19.1.21",))] if name == "node1" else []
        switch.pass_over(known, attached, Settings(name, uplink=UPLINK))
        asked[name] = {entry.match["target"] for entry in switch.tables.of("arp")}
    assert [n for n in asked if "203.0.113.7/32" in asked[n]] == [
        owner("203.0.113.7", {"node1", "node2"})
    ]
    switch = MemorySwitch()
    switch.pass_over(known, [], Settings("node2", uplink=UPLINK, announce=False))
    assert {entry.match["target"] for entry in switch.tables.of("arp")} == {"169.254.1.1/32"}
