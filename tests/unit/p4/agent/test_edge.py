# SPDX-License-Identifier: Apache-2.0
"""Where the switch at the edge leads: to nodes, pods and outside addresses."""

from __future__ import annotations

from flowferry_p4.agent import Tables, cluster
from flowferry_p4.agent.edge import EdgeSettings, find_routes
from flowferry_p4.client import Entry

from tests.unit.p4.agent import kube

EDGE = EdgeSettings("02:ff:00:00:00:01", {"node1": 1, "node2": 2})
NODES = [
    kube.node(f"node{n}", mac=f"02:ff:00:00:00:1{n}", addresses=(f"198.19.0.1{n}",)) for n in (1, 2)
]


def ports(entries: list[Entry]) -> dict[str, int]:
    return {str(entry.match["destination"]): int(entry.params["port"]) for entry in entries}


def test_nodes_and_pods_are_at_their_ports() -> None:
    pods = [kube.pod("a", "node1", "198.19.0.130"), kube.pod("b", "node2", "198.19.0.162")]
    found, problems = find_routes(cluster(pods, NODES), EDGE, Tables())
    assert problems == []
    assert ports(found) == {
        "198.19.0.11/32": 1,
        "198.19.0.12/32": 2,
        "198.19.0.130/32": 1,
        "198.19.0.162/32": 2,
    }
    assert {entry.params["destination_mac"] for entry in found} == {
        "02:ff:00:00:00:11",
        "02:ff:00:00:00:12",
    }


def test_pods_at_home_are_their_nodes_network() -> None:
    nodes = [kube.node("node1", "198.19.1.0/24", mac="02:ff:00:00:00:11"), NODES[1]]
    pods = [kube.pod("home", "node1", "198.19.1.5"), kube.pod("away", "node2", "198.19.1.6")]
    found, _ = find_routes(cluster(pods, nodes), EDGE, Tables())
    assert ports(found) == {"198.19.1.0/24": 1, "198.19.0.12/32": 2, "198.19.1.6/32": 2}


def test_while_two_pods_have_an_address_the_switch_decides() -> None:
    pods = [
        kube.pod("source", "node1", "198.19.0.130", created="1"),
        kube.pod("copy", "node2", "198.19.0.130", created="2"),
    ]
    known = cluster(pods, NODES)
    first, _ = find_routes(known, EDGE, Tables())
    assert ports(first)["198.19.0.130/32"] == 1
    moved = Entry(
        "route",
        {"destination": "198.19.0.130/32"},
        "forward",
        {"port": 2, "source_mac": EDGE.gateway_mac, "destination_mac": "02:ff:00:00:00:12"},
    )
    then, _ = find_routes(known, EDGE, Tables([moved]))
    assert ports(then)["198.19.0.130/32"] == 2


def test_an_outside_address_is_led_to_a_node_that_may_have_it() -> None:
    service = kube.service("web", outside=("203.0.113.80",), externalTrafficPolicy="Local")
    ends = kube.slice_of("web", kube.endpoint("198.19.0.162", "node2"))
    found, _ = find_routes(cluster([], NODES, [service], [ends]), EDGE, Tables())
    assert ports(found)["203.0.113.80/32"] == 2


def test_a_node_that_has_not_said_where_it_is_is_told() -> None:
    found, problems = find_routes(cluster(nodes=[NODES[0]]), EDGE, Tables())
    assert ports(found) == {"198.19.0.11/32": 1}
    assert [(one.code, one.where) for one in problems] == [("no_next_hop", "Node node2")]
