# SPDX-License-Identifier: Apache-2.0
"""A cluster whose data plane are P4 switches: Services without kube-proxy, and pods that move."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import WORKLOAD, left_over
from dataplane import BOTH, MTU, NAMESPACE, OUTSIDE, DataplaneLab
from flowferry_p4.client import P4Error, Session

from demo.kubectl import BUILD_LIMIT
from demo.lab_control import NODES
from demo.traffic import TrafficClient

MOVES = int(os.environ.get("FLOWFERRY_DATAPLANE_MOVES") or "2")
PODS = ("a", "b", "c")  # two on the first node, one on the second
pytestmark = pytest.mark.timeout(BUILD_LIMIT + 900)  # the first test waits for the build


@pytest.fixture(scope="module")
def dataplane() -> Iterator[DataplaneLab]:
    """The lab of FLOWFERRY_DATAPLANE_LAB_ID (6 if unset), which ends before another begins."""
    if os.geteuid() != 0:
        pytest.skip("run: sudo make system")
    number = int(os.environ.get("FLOWFERRY_DATAPLANE_LAB_ID") or "6")
    with tempfile.TemporaryDirectory(prefix="ff-dataplane-") as state:
        running = DataplaneLab(number, Path(state))
        try:
            running.start()
            yield running
        finally:
            running.end()


@pytest.fixture(scope="module")
def pods(dataplane: DataplaneLab) -> DataplaneLab:
    """Pods that answer, by Services of every kind, and one on each node that asks."""
    where = dict(zip(PODS, ("node1", "node1", "node2")))
    local = {**OUTSIDE, "externalTrafficPolicy": "Local"}
    dataplane.apply(
        *(dataplane.answering(name, node, app="web") for name, node in where.items()),
        dataplane.answering("ask1", "node1"),
        dataplane.answering("ask2", "node2", app="alone"),
        dataplane.service("web", 80, 8080, **BOTH),
        dataplane.service("outside", 80, 8081, selector={"app": "web"}, **OUTSIDE, **BOTH),
        dataplane.service("names", 53, 8053, "UDP", selector={"app": "web"}, **BOTH),
        dataplane.service("alone", 80, 8081, **local),
    )
    dataplane.until_ready(*PODS, "ask1", "ask2")
    return dataplane


def test_a_pod_reaches_pods_of_its_node_and_of_the_other(pods: DataplaneLab) -> None:
    """Those that serve no Service at the port: an answer would have the Service's address."""
    for version in (4, 6):
        address = pods.address_of("ask1", version)
        for who in ("a", "c"):
            assert pods.ask(who, "tcp", address, 8080, 3) == {"ask1": 3}
            assert pods.ask(who, "udp", address, 8053, 3) == {"ask1": 3}


def test_pods_reach_a_service_at_its_cluster_address(pods: DataplaneLab) -> None:
    for who in ("ask1", "ask2"):
        for version in (4, 6):
            pods.until_answered(who, "tcp", pods.inside("web", version), 80, *PODS)


def test_a_service_of_datagrams(pods: DataplaneLab) -> None:
    for who in ("ask1", "ask2"):
        for version in (4, 6):
            pods.until_answered(who, "udp", pods.inside("names", version), 53, *PODS)


def test_packets_are_as_large_as_the_network_lets_them_be(pods: DataplaneLab) -> None:
    """To a Service and to an outside address: whole datagrams, and segments of the same size."""
    for version, header in ((4, 20), (6, 40)):
        inside, names = (pods.inside(one, version) for one in ("web", "names"))
        for who in ("ask1", "ask2"):
            (size,) = pods.ask(who, "datagram", names, 53, MTU - header - 8).values()
            assert size == MTU - header - 8, f"{who}, IPv{version}"
            (segment,) = pods.ask(who, "line", inside, 80, 1_000_000).values()
            assert segment == MTU - header - 20 - 12, f"{who}, IPv{version}"
        outside = pods.outside("outside", version)
        (segment,) = pods.ask("client", "line", outside, 80, 1_000_000).values()
        assert segment == MTU - header - 20 - 12, f"client, IPv{version}"


def test_pods_reach_the_api_server_by_its_service(pods: DataplaneLab) -> None:
    asked = "import socket; socket.create_connection(('10.96.0.1', 443), 5); print('reached')"
    for who in ("ask1", "ask2"):
        assert pods.kubectl("exec", who, "--", "python3", "-c", asked) == "reached\n"


def test_names_are_resolved_by_the_dns_of_the_cluster(pods: DataplaneLab) -> None:
    """By UDP and by TCP, of the Service that the switches serve."""
    pods.kubectl(
        "wait", "-n", "kube-system", "deployment/coredns", "--for=condition=Available",
        "--timeout=55s",
    )  # fmt: skip
    wanted = pods.inside("web")
    for who in ("ask1", "ask2"):
        for options in ("", "use-vc"):
            asked = (
                f"import os; os.environ['RES_OPTIONS'] = '{options}'; import socket; "
                "print(socket.gethostbyname('web.default.svc.cluster.local'))"
            )
            assert pods.kubectl("exec", who, "--", "python3", "-c", asked).strip() == wanted


def test_a_client_reaches_an_outside_address(pods: DataplaneLab) -> None:
    address = pods.outside("outside")
    assert address.startswith(f"198.19.{pods.number}.2"), "one of the pool"
    for version in (4, 6):
        pods.until_answered("client", "tcp", pods.outside("outside", version), 80, *PODS)


def test_outside_traffic_stays_on_a_node_that_has_an_endpoint(pods: DataplaneLab) -> None:
    """externalTrafficPolicy: Local. The edge leads to that node, as no other serves the address."""
    pods.until_answered("client", "tcp", pods.outside("alone"), 80, "ask2")
    with pods.session() as session:
        routes = {one.match["destination"]: one.params["port"] for one in session.read("route")}
    assert routes[f"{pods.outside('alone')}/32"] == 2


@pytest.mark.parametrize("program", ["agent", "switch"])
def test_a_program_dies_and_nothing_is_lost(pods: DataplaneLab, program: str) -> None:
    """Neither connections nor a single datagram, by a Service whose address the node balances."""
    address = pods.inside("names")
    pods.until_answered("ask1", "udp", address, 53, *PODS)
    knocking = pods.start_asking("ask1", "knock", address, 53, 12)
    try:
        pods.end_program("node1", program)
    finally:
        told = pods.heard(knocking)
    assert told["sent"] > 500 and told["lost"] == 0, told


def test_a_pod_moves_with_its_connections(pods: DataplaneLab) -> None:
    pods.playbook("demo_pod.yml").must_succeed()
    clients = [TrafficClient(pods, *kind) for kind in (("pingpong", "a"), ("writer", "b"))]
    try:
        before = pods.run_id()
        silences: list[float] = []
        for number in range(MOVES):
            for client in clients:
                client.seen()
            destination = pods.other_node()
            moved = pods.move(destination).must_succeed().outcome
            assert moved["changed"] and not left_over(moved) and moved["overflow_packets"] == 0
            seen = [client.seen() for client in clients]
            assert [one["errors"] for one in seen] == [[], []], f"move {number}"
            assert all(one["answers"] > 0 for one in seen)
            silences.append(seen[0]["longest_ms"])
            print(f"move {number}: silence {silences[-1]} ms, hold {moved['hold_ms']} ms")
            assert pods.pod_node() == destination
        cut = statistics.quantiles(silences, n=100, method="inclusive")
        print(f"silence of {MOVES} moves: p50 {cut[49]:.0f} ms, p99 {cut[98]:.0f} ms")
        assert pods.run_id() == before
        assert pods.traces_everywhere() == {}
    finally:
        for client in clients:
            client.end()


def test_a_pod_moves_directly(pods: DataplaneLab) -> None:
    """Into a placeholder, there and back: the second time from one."""
    pods.apply(pods.answering("direct", "node1"))
    pods.until_ready("direct")
    pods.until_answered("client", "tcp", pods.address_of("direct"), 8080, "direct")
    kept = [
        pods.keep(who, pods.address_of("direct", version), 8080, 20)
        for who in ("client", "ask1", "ask2")
        for version in (4, 6)
    ]
    try:
        for destination in ("node2", "node1"):
            asked = {"destination": destination, "migration_method": "direct"}
            played = pods.playbook("migrate.yml", workload="pod:default/direct", **asked)
            moved = played.must_succeed().outcome
            assert moved["method"] == "direct" and not left_over(moved)
            assert [one.broken() for one in kept] == [0] * 6, f"to {destination}"
            print(f"directly to {destination}: hold {moved['hold_ms']} ms")
    finally:
        for one in kept:
            one.end()
    assert pods.traces_everywhere() == {}


def test_what_cannot_move_between_such_nodes_is_refused_in_the_plan(pods: DataplaneLab) -> None:
    """With the reason, and nothing has happened: a StatefulSet's pod, and another address."""
    pods.apply(pods.controlled("StatefulSet", "stateful", 1))
    try:
        pods.kubectl("rollout", "status", "statefulset/stateful", "--timeout=55s")
        (member,) = pods.pods("stateful")
        refused = pods.move(pods.elsewhere_of(member), "pod:default/stateful-0").failure
        assert refused["code"] == "across_unsupported" and "it keeps its name" in refused["message"]
        assert pods.pods("stateful") == [member]
    finally:
        pods.kubectl("delete", "statefulset", "stateful", "--wait=false")
    before = pods.pod()
    asked = {"destination": pods.elsewhere_of(before), "address_strategy": "rewrite"}
    refused = pods.playbook("migrate.yml", workload=WORKLOAD, **asked).failure
    assert refused["code"] == "across_unsupported" and "rewrite" in refused["message"]
    assert pods.pod()["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_pod_behind_an_outside_address_moves_with_its_connections(pods: DataplaneLab) -> None:
    """Of a client by the Service, and of pods on both nodes by the pod's own address.

    Of both IP versions.
    """
    pods.apply(
        pods.answering("mover", "node1", app="mover"),
        pods.service("mover", 80, 8081, **OUTSIDE, **BOTH),
    )
    pods.until_ready("mover")
    kept = []
    for version in (4, 6):
        own, outside = pods.address_of("mover", version), pods.outside("mover", version)
        pods.until_answered("client", "tcp", outside, 80, "mover")
        kept.append(pods.keep("client", outside, 80, 30))
        kept += [pods.keep(who, own, 8080, 10) for who in ("ask1", "ask2")]
    try:
        for destination in ("node2", "node1"):
            moved = pods.move(destination, "pod:default/mover").must_succeed().outcome
            assert moved["changed"] and not left_over(moved)
            assert [one.broken() for one in kept] == [0] * 6, f"to {destination}"
            for version in (4, 6):
                asked = pods.outside("mover", version)
                assert pods.ask("client", "tcp", asked, 80, 3) == {"mover": 3}
    finally:
        for one in kept:
            one.end()
    assert pods.traces_everywhere() == {}


def test_connections_outlive_a_deployment_that_scales_and_a_move(pods: DataplaneLab) -> None:
    """500 of a client outside: from three pods to seven, a move of one, and to three again.

    Two of the first three stay, one of which has moved; only flows of the third one break.
    """
    pods.apply(
        pods.controlled("Deployment", "scaled", 3), pods.service("scaled", 80, 8081, **OUTSIDE)
    )
    address = pods.outside("scaled")
    few = pods.until_several_answer("client", "tcp", address, 80, 3)
    first = [one["status"]["podIP"] for one in pods.pods("scaled")]
    kept = pods.keep("client", address, 80, 500)
    try:
        pods.scale("scaled", 7)
        assert few < pods.until_several_answer("client", "tcp", address, 80, 7)
        assert kept.lost() == {}
        moved = pods.move_away(pods.pod_at("scaled", first[0]))
        assert kept.lost() == {}
        # Which of pods that cost the same are deleted is up to the controller.
        for pod_ip, cost in zip(first, (9, 9, -9), strict=True):
            name = pods.pod_at("scaled", pod_ip)["metadata"]["name"]
            told = f"controller.kubernetes.io/pod-deletion-cost={cost}"
            pods.kubectl("annotate", "pod", name, told, "--overwrite")
        pods.scale("scaled", 3)
        left = pods.until_several_answer("client", "tcp", address, 80, 3)
        lost = kept.lost()
        assert len(few & left) == 2 and set(lost) == few - left, f"{lost} of {few}, now {left}"
        print(f"hold {moved['hold_ms']} ms; {moved['phases']}; {lost} of {kept.count} ended")
    finally:
        kept.end()
        pods.kubectl("delete", "deployment/scaled", "service/scaled", "--wait=false")
    assert pods.traces_everywhere() == {}


def test_a_nodes_switch_talks_only_with_whom_its_authority_knows(pods: DataplaneLab) -> None:
    address, own = pods.node_switch("node1"), pods.tls
    for stranger in (None, replace(own, cert=None, key=None)):
        with (
            pytest.raises(P4Error),
            Session.open(address, primary=False, tls=stranger, timeout=5) as session,
        ):
            session.read(["route"])
    with Session.open(address, primary=False, tls=own) as session:
        assert session.read(["route"]), "the agent, whom it knows, has filled its tables"


def test_a_switch_that_is_away_at_the_redirect_is_a_failure_and_is_rolled_back(
    pods: DataplaneLab,
) -> None:
    """The edge's process stands still when it is to redirect; the source goes on, unharmed."""
    node, before = pods.pod_node(), pods.run_id()
    stop = pods.ssh("switch", "kill -STOP $(cat /run/flowferry-switch.pid)")
    go_on = pods.ssh("switch", "kill -CONT $(cat /run/flowferry-switch.pid)")
    client = TrafficClient(pods, "pingpong", "a")
    try:
        client.seen()
        fault = " ".join(f"'{word}'" for word in stop)
        played = pods.move(pods.other_node(), WORKLOAD, FLOWFERRY_FAULT=f"restore:{fault}")
        assert played.failure["code"] == "switch_unreachable", played.failure
    finally:
        subprocess.run(go_on, check=True, timeout=30)
    assert pods.pod_node() == node
    recovered = pods.move(node).must_succeed().outcome
    assert recovered["recovered"] == "rolled back"
    assert client.seen()["errors"] == []
    assert (client.end(), pods.run_id())[1] == before
    assert pods.traces_everywhere() == {}


@pytest.mark.parametrize("switch", ["embedded", "bmv2"])
def test_the_api_server_knows_every_field_of_the_manifest(
    pods: DataplaneLab, tmp_path: Path, switch: str
) -> None:
    """It would else be silent about those that it does not know."""
    manifest, playbook = tmp_path / "manifest.yaml", tmp_path / "render.yml"
    role = {"name": "flowferry.core.p4_dataplane", "tasks_from": "manifest"}
    asked = {"p4_dataplane_switch": switch, "p4_dataplane_bmv2_image": "bmv2"}
    asked["p4_dataplane_file"] = str(manifest)
    task = {"ansible.builtin.include_role": role, "vars": asked}
    play = {"hosts": "control_planes", "gather_facts": False, "tasks": [task]}
    playbook.write_text(json.dumps([play]))
    pods.playbook(str(playbook)).must_succeed()
    dry = ("--dry-run=server", "--validate=strict")
    told = pods.kubectl("apply", *dry, "-f", str(manifest))
    assert "daemonset.apps/flowferry-dataplane" in told


def test_the_role_changes_nothing_twice_and_takes_back_what_it_made(pods: DataplaneLab) -> None:
    """The last test: pods are without a network afterwards."""
    again = pods.playbook("dataplane.yml").must_succeed()
    assert [task for task, _, result in again.results if result.get("changed")] == []
    checked = pods.playbook("dataplane.yml", "--check").must_succeed()
    assert [task for task, _, result in checked.results if result.get("changed")] == []
    pods.kubectl("delete", "deployment", "-n", "kube-system", "coredns")
    for namespace in ("default", "kube-system"):
        pods.kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=1")
    pods.playbook("dataplane.yml", p4_dataplane_state="absent").must_succeed()
    looked = """
ls -d /usr/lib/cni/flowferry* /etc/cni/net.d/*flowferry* /sys/fs/bpf/flowferry/* 2>/dev/null
ip -brief link | grep -E '^ff'
tc filter show dev data0 ingress
ip -brief address show data0 | grep -q '198.19.' || echo 'no address'
true"""
    assert {node: pods.run(node, looked) for node in NODES} == dict.fromkeys(NODES, "")
    left = pods.kubectl("get", "clusterroles,clusterrolebindings,namespaces", "-o", "name")
    assert [one for one in left.split() if "flowferry-dataplane" in one or NAMESPACE in one] == []
