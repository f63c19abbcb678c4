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
    ask_from,
    size,
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
    cluster.wait_for(DATAGRAMS, *pods[:3], protocol="UDP")
    told = set(ask(pods[4].pod, DATAGRAMS, 53, "udp", count=40))
    assert told == {pod.name for pod in pods[:3]}


def test_nodes_reach_pods_and_pods_reach_nodes(cluster: Cluster, pods: list[RunningPod]) -> None:
    """What the kubelet does."""
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


@pytest.fixture(scope="module")
def many(cluster: Cluster, pods: list[RunningPod]) -> list[RunningPod]:
    first, second = cluster.nodes
    return [(first, second)[n % 2].add(cluster.api, f"s{n}") for n in range(7)]


def test_no_flow_breaks_whose_endpoint_lives(cluster: Cluster, many: list[RunningPod]) -> None:
    """From three endpoints to seven and back, while connections of before each step go on.

    New ones go by their buckets. Those of an endpoint that left are the only ones that break.
    """
    address, few = "203.0.113.95", many[:3]
    service = kube.service("scaled", outside=(address,), port=80)
    cluster.serve(service, *few)
    cluster.wait_for(address, *few)
    early = Connections(cluster.client, address, 80, 100)
    cluster.serve(service, *many)
    cluster.wait_for(address, *many)
    assert early.talk() == early.first
    late = Connections(cluster.client, address, 80, 100)
    for connections, pods in ((early, few), (late, many)):
        assert connections.first == {n: chosen(n, address, pods) for n in connections.first}
    elsewhere = sum(name != chosen(n, address, many) for n, name in early.first.items())
    assert elsewhere > 30, "the buckets of hardly any have changed: it would prove nothing"
    cluster.serve(service, *few)
    cluster.wait_for(address, *few)
    left = {pod.name for pod in few}
    for connections in (early, late):
        heard = connections.talk()
        assert heard == {n: p if p in left else None for n, p in connections.first.items()}
        connections.close()


def test_no_flow_of_a_pod_breaks_whose_endpoint_lives(
    cluster: Cluster, pods: list[RunningPod], many: list[RunningPod]
) -> None:
    """The same for a pod that asks the cluster's address, of both IP versions."""
    addresses, few = ("10.96.0.12", "fd00:96::12"), many[:3]
    service = kube.service("within", *addresses, port=80)
    cluster.serve(service, *few)
    for address in addresses:
        cluster.wait_for(address, *few)
    kept = [Connections(pods[4].pod, address, 80, 50) for address in addresses]
    cluster.serve(service, *many)
    for address in addresses:
        cluster.wait_for(address, *many)
    for connections in kept:
        assert connections.talk() == connections.first
        connections.close()


def test_one_port_serves_two_services_and_itself(cluster: Cluster, pods: list[RunningPod]) -> None:
    """By a cluster's address, by an outside one, by another Service, and by the pod's own."""
    asked = "10.96.0.13", "203.0.113.93", "10.96.0.14"
    both = pods[0], pods[2]  # of either node
    cluster.serve(kube.service("shared", asked[0], outside=(asked[1],), port=80), *both)
    cluster.serve(kube.service("second", asked[2], port=80), *both)
    for address in asked:
        cluster.wait_for(address, *both)
    wanted = {pod.name for pod in both}
    for who in (pods[3].pod, pods[4].pod):
        for address in asked:
            assert set(ask(who, address, 80, count=20)) == wanted, address
        for pod in both:
            assert ask(who, pod.address, count=2) == [pod.name] * 2
            assert ask(who, pod.address6) == [pod.name]
    for node in cluster.nodes:
        for pod in both:
            assert ask(node, pod.address) == [pod.name], "as a kubelet probes it"
    assert set(ask(cluster.client, asked[1], 80, count=20)) == wanted


def test_a_port_of_a_client_may_have_talked_to_another_service(
    cluster: Cluster, pods: list[RunningPod]
) -> None:
    """One connection after another, from one port, to one endpoint by each of its addresses."""
    asked = "10.96.0.19", "203.0.113.97", "10.96.0.20"
    there = pods[0]
    cluster.serve(kube.service("first", asked[0], outside=(asked[1],), port=80), there)
    cluster.serve(kube.service("another", asked[2], port=80), there)
    for address in asked:
        cluster.wait_for(address, there)
    in_turn = [(address, 80) for address in asked] + [(there.address, 8080)]
    for who in (pods[3], pods[4]):
        for source, first in enumerate(in_turn):
            told = ask_from(who.pod, 20000 + source, [first, *in_turn, first])
            assert told == [there.name] * (len(in_turn) + 2), f"{who.node} {first}"


def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, many: list[RunningPod]) -> None:
    addresses, pod = ("10.96.0.15", "fd00:96::15"), many[0]
    cluster.serve(kube.service("itself", *addresses, port=80), pod)
    for address in addresses:
        cluster.wait_for(address, pod)
        assert ask(pod.pod, address, 80, count=5) == [pod.name] * 5


def test_a_client_stays_with_its_endpoint(
    cluster: Cluster, pods: list[RunningPod], many: list[RunningPod]
) -> None:
    """sessionAffinity: ClientIP, while endpoints come; and by another one when its own is gone."""
    address = "10.96.0.16"
    service = kube.service("sticky", address, port=80, sessionAffinity="ClientIP")
    cluster.serve(service, *many[:3])
    cluster.wait_for(address, *many[:3])
    told = {who.name: set(ask(who.pod, address, 80, count=5)) for who in pods[3:]}
    assert all(len(names) == 1 for names in told.values()), told
    cluster.serve(service, *many)
    cluster.wait_for(address, *many)
    for who in pods[3:]:
        assert set(ask(who.pod, address, 80, count=10)) == told[who.name]
    gone = told[pods[3].name].pop()
    others = [pod for pod in many if pod.name != gone]
    cluster.serve(service, *others)
    cluster.wait_for(address, *others)
    (name,) = set(ask(pods[3].pod, address, 80, count=5))
    assert name != gone


def test_affinity_is_switched_on_and_off(
    cluster: Cluster, pods: list[RunningPod], many: list[RunningPod]
) -> None:
    """Connections that are there go on each time; new ones follow what the Service says then."""
    address, who = "10.96.0.17", pods[3].pod
    affinities = ("None", "ClientIP", "None")
    kept: list[Connections] = []
    try:
        for affinity in affinities:
            service = kube.service("switched", address, port=80, sessionAffinity=affinity)
            cluster.serve(service, *many[:3])
            cluster.wait_for(address, *many[:3])
            remembers = affinity == "ClientIP"
            wait_until(
                f"sessionAffinity is {affinity}",
                lambda wanted=remembers: all(
                    node.is_for_clients(address) == wanted for node in cluster.nodes
                ),
            )
            told = set(ask(who, address, 80, count=20))
            assert len(told) == (1 if remembers else 3), f"{affinity}: {told}"
            kept.append(Connections(who, address, 80, 10))
            assert [one.talk() for one in kept] == [one.first for one in kept], affinity
    finally:
        for one in kept:
            one.close()


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


def test_flows_are_still_known_after_both_were_started_again(
    cluster: Cluster, pods: list[RunningPod], many: list[RunningPod]
) -> None:
    """Their buckets lead elsewhere by then, so that only the cells can say where they go."""
    address, few = "10.96.0.18", many[:2]
    service = kube.service("lasting", address, port=80)
    cluster.serve(service, *few)
    cluster.wait_for(address, *few)
    kept = Connections(pods[3].pod, address, 80, 60)
    cluster.serve(service, *many)
    cluster.wait_for(address, *many)
    first = cluster.nodes[0]
    first.agent.kill()
    first.restart_switch()
    first.restart_agent()
    cluster.wait_for(address, *many)
    late = first.add(cluster.api, "late")  # the new agent writes to the new switch
    assert set(ask(late.pod, address, 80, count=80)) == {pod.name for pod in many}
    assert kept.talk() == kept.first
    kept.close()


SIZES = (1500, 9000)


@pytest.mark.parametrize("mtu", SIZES)
@pytest.mark.parametrize("version", [4, 6])
def test_packets_as_large_as_the_pods_mtu(cluster: Cluster, mtu: int, version: int) -> None:
    """Pods of two sizes beside each other; segments and datagrams of a full packet, and no less.

    From the other node and by a Service, by datagrams that may not be fragmented.
    """
    first, second = cluster.nodes
    asking, answering = (node.add(cluster.api, f"m{mtu}", mtu) for node in (first, second))
    address = f"10.96.1.{mtu // 100}" if version == 4 else f"fd00:96::{mtu}"
    for protocol in ("TCP", "UDP"):
        service = kube.service("sized", address, port=80, protocol=protocol)
        cluster.serve(service, answering)
        cluster.wait_for(address, answering, protocol=protocol)
        own = answering.address if version == 4 else answering.address6
        header = 20 if version == 4 else 40
        for host, port in ((own, 8080), (address, 80)):
            told = size(asking.pod, host, port, protocol, mtu - header - 8)
            if protocol == "TCP":
                assert told == mtu - header - 20 - 12, "timestamps take 12 bytes"
            else:
                assert told == mtu - header - 8


def test_what_happened_while_the_api_server_was_away(
    cluster: Cluster, served: list[RunningPod]
) -> None:
    cluster.api.stop()
    cluster.serve(kube.service("inside", INSIDE, INSIDE6, port=80), *served[:2])
    assert set(ask(served[4].pod, INSIDE, 80, count=40)) == {pod.name for pod in served[:3]}
    cluster.fabric.again(cluster.api)
    cluster.wait_for(INSIDE, *served[:2])
    assert set(ask(served[4].pod, INSIDE, 80, count=40)) == {pod.name for pod in served[:2]}
