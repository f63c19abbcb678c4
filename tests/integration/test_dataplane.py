# SPDX-License-Identifier: Apache-2.0
"""Two nodes as a data plane: pods, Services and outside addresses, by real connections."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from socket import inet_aton
from zlib import crc32

import pytest
from flowferry_p4.agent.maglev import fill

from tests.integration.switch_bench import wait_until
from tests.integration.two_nodes import (
    CLIENT,
    Cluster,
    Connections,
    RunningPod,
    ask,
    two_nodes,
)
from tests.unit.p4.agent import kube

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

INSIDE, INSIDE6, OUTSIDE, OUTSIDE6 = "10.96.0.10", "fd00:96::10", "203.0.113.80", "2001:db8::80"
DATAGRAMS, LOCAL = "10.96.0.11", "203.0.113.81"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="ffdp-") as directory,
        two_nodes(Path(directory)) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> list[RunningPod]:
    """Two on the first node and one on the second are asked; one on each asks."""
    first, second = cluster.nodes
    return [node.add(cluster.api) for node in (first, first, second, first, second)]


@pytest.fixture(scope="module")
def served(cluster: Cluster, pods: list[RunningPod]) -> list[RunningPod]:
    cluster.serve(kube.service("inside", INSIDE, INSIDE6, port=80), *pods[:3])
    cluster.wait_for(INSIDE, *pods[:3])
    return pods


def test_nodes_tell_each_other_where_they_are(cluster: Cluster, pods: list[RunningPod]) -> None:
    first, second = cluster.nodes
    wait_until(
        "a route to the other node",
        lambda: (
            second.mac
            in [
                r["destination_mac"]
                for r in first.entries("route")
                if r["destination"] == f"{second.address}/32"
            ]
        ),
    )


def test_pods_of_one_node_and_of_two(cluster: Cluster, pods: list[RunningPod]) -> None:
    first, _, third, asking, away = pods
    for one, other in ((asking, away), (away, asking)):
        wait_until(
            "routes between the nodes",
            lambda one=one, other=other: ask(one.pod, other.address) == [other.name],
        )
        assert ask(one.pod, other.address6) == [other.name]
    assert first.node != third.node


def test_a_service_from_pods(cluster: Cluster, served: list[RunningPod]) -> None:
    wanted = {pod.name for pod in served[:3]}
    for asking in served[3:]:
        for address in (INSIDE, INSIDE6):
            told = Counter(ask(asking.pod, address, 80, count=60))
            assert set(told) == wanted, f"{asking.node} {address}"


def test_a_service_of_datagrams(cluster: Cluster, pods: list[RunningPod]) -> None:
    cluster.serve(kube.service("datagrams", DATAGRAMS, port=53, protocol="UDP"), *pods[:3])
    cluster.wait_for(DATAGRAMS, *pods[:3])
    told = set(ask(pods[4].pod, DATAGRAMS, 53, "udp", count=40))
    assert told == {pod.name for pod in pods[:3]}


def test_nodes_reach_pods_and_pods_reach_nodes(cluster: Cluster, pods: list[RunningPod]) -> None:
    """What the kubelet does; the answer of the port of a Service is the Service's, though."""
    first, second = cluster.nodes
    assert ask(first, pods[3].address) == [pods[3].name]
    assert ask(first, pods[4].address) == [pods[4].name]
    server = second.python(
        "import socket; s = socket.create_server(('', 7)); print('up', flush=True)\n"
        "while True: s.accept()[0].sendall(b'node')"
    )
    assert server.stdout is not None and server.stdout.readline() == "up\n"
    for pod in pods[3:]:
        assert ask(pod.pod, second.address, 7) == ["node"]


def test_a_client_outside(cluster: Cluster, pods: list[RunningPod]) -> None:
    """By whichever node announces the address, to pods on both."""
    first, second = cluster.nodes
    others = [node.add(cluster.api, "out") for node in (first, second, second)]
    outside = (OUTSIDE, OUTSIDE6)
    cluster.serve(kube.service("outside", outside=outside, port=80), *others)
    cluster.wait_for(OUTSIDE, *others)
    for address in outside:
        told = set(ask(cluster.client, address, 80, count=60))
        assert told == {pod.name for pod in others}
    assert ask(cluster.client, pods[3].address) == [pods[3].name], "a pod by its own address"


def test_outside_traffic_that_stays_on_its_node(cluster: Cluster, pods: list[RunningPod]) -> None:
    """externalTrafficPolicy: Local. One node has an endpoint: it announces, and serves."""
    (away,) = [cluster.nodes[1].add(cluster.api, "local")]
    service = kube.service("local", outside=(LOCAL,), port=80, externalTrafficPolicy="Local")
    cluster.serve(service, away)
    cluster.wait_for(LOCAL, away)
    asked = [[a["target"] for a in node.entries("arp")] for node in cluster.nodes]
    assert [f"{LOCAL}/32" in targets for targets in asked] == [False, True]
    assert set(ask(cluster.client, LOCAL, 80, count=5)) == {away.name}


def chosen(client_port: int, address: str, pods: list[RunningPod]) -> str:
    """The pod that Maglev hashing says a flow of the client goes to, computed beside the switch."""
    flow = inet_aton(CLIENT) + inet_aton(address) + bytes([6])
    flow += client_port.to_bytes(2, "big") + (80).to_bytes(2, "big")
    names = {f"{pod.address} 8080": pod.name for pod in pods}
    return names[fill(names, 251)[crc32(flow) % 251]]


def test_what_breaks_when_endpoints_come_and_go_is_known_beforehand(
    cluster: Cluster, pods: list[RunningPod]
) -> None:
    """Exactly the flows whose bucket leads to another pod; all others go on, and none is mixed."""
    address = "203.0.113.95"
    first, second = cluster.nodes
    many = [(first, second)[n % 2].add(cluster.api, f"s{n}") for n in range(7)]
    few = many[:3]
    service = kube.service("scaled", outside=(address,), port=80)
    for before, after in ((few, many), (many, few)):
        cluster.serve(service, *before)
        cluster.wait_for(address, *before)
        connections = Connections(cluster.client, address, 80, 100)
        assert connections.first == {n: chosen(n, address, before) for n in connections.first}
        cluster.serve(service, *after)
        cluster.wait_for(address, *after)
        heard = connections.talk()
        stays = {n: name == chosen(n, address, after) for n, name in connections.first.items()}
        assert heard == {n: connections.first[n] if stays[n] else None for n in heard}
        connections.close()
        left = {pod.name for pod in after}
        lived = [n for n, name in connections.first.items() if name in left]
        torn = sum(not stays[n] for n in lived)
        print(f"\n{len(before)} to {len(after)}: {torn} of {len(lived)} flows break "
              "whose pod lives")  # fmt: skip


def test_another_node_takes_an_outside_address_over(
    cluster: Cluster, pods: list[RunningPod]
) -> None:
    """The client has learned who has it; what it remembers is corrected by the announcement."""
    address = "203.0.113.90"
    (pod,) = [cluster.nodes[0].add(cluster.api, "taken")]
    cluster.serve(kube.service("taken", outside=(address,), port=80), pod)
    cluster.wait_for(address, pod)
    assert ask(cluster.client, address, 80) == [pod.name]
    macs = {node.mac: node for node in cluster.nodes}
    first = macs[cluster.neighbour(address)]
    (other,) = [node for node in cluster.nodes if node is not first]
    try:
        cluster.ready(first, False)
        wait_until("the client knows better", lambda: cluster.neighbour(address) == other.mac)
        assert ask(cluster.client, address, 80) == [pod.name]
    finally:
        cluster.ready(first, True)
    wait_until("it goes back", lambda: cluster.neighbour(address) == first.mac)


def test_the_agent_is_started_again_and_no_packet_is_lost(
    cluster: Cluster, pods: list[RunningPod]
) -> None:
    knocking = pods[3].pod.knock(CLIENT, 4)
    for node in cluster.nodes:
        node.restart_agent()
    assert pods[3].pod.answered(knocking, 4)


def test_the_switch_is_started_again_and_no_packet_is_lost(
    cluster: Cluster, served: list[RunningPod]
) -> None:
    knocking = served[3].pod.knock(CLIENT, 6)
    cluster.nodes[0].restart_switch()
    assert served[3].pod.answered(knocking, 6)
    # The agent opens a session with the new process by itself, and writes again.
    late = cluster.nodes[0].add(cluster.api, "late")
    assert ask(late.pod, INSIDE, 80)


def test_what_happened_while_the_api_server_was_away(
    cluster: Cluster, served: list[RunningPod]
) -> None:
    cluster.api.stop()
    cluster.serve(kube.service("inside", INSIDE, INSIDE6, port=80), *served[:2])
    assert set(ask(served[4].pod, INSIDE, 80, count=40)) == {pod.name for pod in served[:3]}
    cluster.fabric.again(cluster.api)
    cluster.wait_for(INSIDE, *served[:2])
    assert set(ask(served[4].pod, INSIDE, 80, count=40)) == {pod.name for pod in served[:2]}
