# SPDX-License-Identifier: Apache-2.0
"""A pod gets another address where it goes; who knows it by a virtual one never notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster import ClusterLab, left_over
from controlled import Workload
from flowferry_p4.client import Entry, Update
from flowferry_p4.client.traffic import Address
from test_runtimes import service

from demo.kubectl import BUILD_LIMIT
from demo.lab_control import NODES, Played, wait_for
from demo.traffic import TrafficClient

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster(cluster: ClusterLab) -> Iterator[ClusterLab]:
    """The cluster's Redis has a virtual address before it, and a Service of Kubernetes."""
    own = cluster.address
    cluster.address = f"{cluster.data_network}.90"
    entries = service(Address(cluster.address), Address(own), 6, 6379, 90)
    try:
        with cluster.session(primary=True) as session:
            session.write([Update("INSERT", entry) for entry in entries])
        cluster.kubectl("create", "service", "clusterip", "redis", "--tcp=6379")
        yield cluster
    finally:
        cluster.address = own
        cluster.kubectl("delete", "service", "redis", "--ignore-not-found")
        cluster.start_afresh()


@contextmanager
def at_switch(cluster: ClusterLab, entries: list[Entry]) -> Iterator[None]:
    """Entries that are there until the end of the block, whatever they say by then."""
    with cluster.session(primary=True) as session:
        session.write([Update("INSERT", entry) for entry in entries])
    try:
        yield
    finally:
        with cluster.session(primary=True) as session:
            session.write([Update("DELETE", entry) for entry in entries])


def rewrite(cluster: ClusterLab, destination: str, *options: str, **more: Any) -> Played:
    """Move Redis to another address; with what is given beside."""
    fault = more.pop("fault", "")
    return cluster.playbook(
        "migrate.yml",
        *options,
        environment={"FLOWFERRY_FAULT": fault},
        **{
            "workload": "pod:default/redis",
            "destination": destination,
            "migration_method": "kubelet",
            **more,
        },
        address_strategy="rewrite",
    )


def chosen(cluster: ClusterLab, node: str, number: int = 0) -> str:
    """An address of those that a node chooses from; it takes the first that is free."""
    return f"{cluster.data_network}.{128 + 32 * (NODES[node] - 1) + number}"


def reserved(cluster: ClusterLab) -> dict[str, list[str]]:
    """Addresses of Redis that the nodes have given away, or keep for a pod that moved.

    Its first one and those that nodes choose; what pods of other tests had may be kept as well.
    """
    of_redis = {f"{cluster.data_network}.100"}
    of_redis |= {chosen(cluster, node, number) for node in NODES for number in range(32)}
    found = {node: cluster.run(node, "ls /var/lib/cni/flowferry").split() for node in NODES}
    return {node: [one for one in found[node] if one in of_redis] for node in NODES}


def entries_of(cluster: ClusterLab, address: str) -> list[str]:
    """The tables of the switch that know an address as an endpoint's."""
    with cluster.session() as session:
        found = [
            (table, entry)
            for table in ("route", "reply", "backend", "hold_to", "hold_from", "guard")
            for entry in session.read(table)
        ]
    return [
        table
        for table, entry in found
        if address in {str(v).partition("/")[0] for v in entry.match.values()}
        or (table == "backend" and entry.params.get("address") == address)
    ]


def served(cluster: ClusterLab) -> list[str]:
    """The addresses that the Service leads to."""
    select = ("-l", "kubernetes.io/service-name=redis", "-o", "json")
    slices = json.loads(cluster.kubectl("get", "endpointslices", *select))["items"]
    return [
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if endpoint["conditions"].get("ready")
        for address in endpoint["addresses"]
    ]


def assert_only_at(cluster: ClusterLab, address: str, node: str) -> None:
    """The pod, its entries and its reservation are there, and nothing of it is elsewhere."""
    pod = cluster.pod()
    assert (pod["spec"]["nodeName"], pod["status"]["podIP"]) == (node, address)
    assert cluster.processes() == {one: int(one == node) for one in NODES}
    assert sorted(entries_of(cluster, address)) == ["backend", "reply", "route"]
    with cluster.session() as session:
        own = [e for e in session.read("backend") if int(e.match["backend_id"]) == 90]
    assert own[0].params["address"] == address
    expected = {one: [address] if one == node else [] for one in NODES}
    wait_for(lambda: reserved(cluster) == expected, f"reserved is {expected}", 20)
    wait_for(lambda: served(cluster) == [address], f"the Service leads to {address}", 20)
    assert cluster.traces() == [] and cluster.leftovers() == {}


@pytest.mark.timeout(BUILD_LIMIT + 900)  # the first test waits for the build
def test_there_and_back_under_load(cluster: ClusterLab, clients: list[TrafficClient]) -> None:
    """To an address that the node chooses, and to one that is asked for."""
    before = cluster.run_id()
    for number in range(2):
        destination, old = cluster.other_node(), cluster.pod()["status"]["podIP"]
        wanted = chosen(cluster, destination, 2 * number)
        more = {"destination_address": wanted} if number else {}
        for client in clients:
            client.seen()
        moved = rewrite(cluster, destination, **more).must_succeed().outcome
        assert not left_over(moved) and moved["overflow_packets"] == 0
        assert (moved["way"], "hold" in moved["why"]) == ("waiting", True)
        seen = [client.seen() for client in clients]
        assert [one["errors"] for one in seen] == [[], [], []], f"move {number}"
        assert all(one["answers"] > 0 for one in seen)
        print(f"move {number}: silence {seen[0]['longest_ms']} ms, hold {moved['hold_ms']} ms")
        new = cluster.pod()["status"]["podIP"]
        assert new == wanted
        assert_only_at(cluster, new, destination)
        assert entries_of(cluster, old) == []
    assert cluster.run_id() == before


def test_a_failed_restore_leaves_the_source_its_address(
    cluster: ClusterLab, clients: list[TrafficClient]
) -> None:
    node, destination, before = cluster.pod_node(), cluster.other_node(), cluster.run_id()
    pod = cluster.pod()
    cluster.run(destination, "mv /etc/criu/runc.conf /etc/criu/runc.conf.away")
    try:
        played = rewrite(cluster, destination)
    finally:
        cluster.run(destination, "mv /etc/criu/runc.conf.away /etc/criu/runc.conf")
    assert played.failure["code"] == "restore_failed"
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    assert cluster.run_id() == before
    assert cluster.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert_only_at(cluster, pod["status"]["podIP"], node)
    assert cluster.journals() == []


@pytest.mark.parametrize(
    ("phase", "recovered"), [("prepare", "rolled back"), ("redirect", "finished")]
)
def test_after_the_death_of_the_keeper_another_run_ends_it(
    cluster: ClusterLab, clients: list[TrafficClient], phase: str, recovered: str
) -> None:
    """The address that the destination chose is in the journal as soon as the switch knows it."""
    destination, before, old = cluster.other_node(), cluster.run_id(), cluster.pod()
    dead = rewrite(cluster, destination, fault=f"{phase}:keeper")
    assert dead.failure["code"] == "keeper_lost"
    again = rewrite(cluster, destination).must_succeed()
    assert again.outcome["recovered"] == recovered
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    assert cluster.run_id() == before
    new = cluster.pod()["status"]["podIP"]
    assert entries_of(cluster, old["status"]["podIP"]) == []
    assert_only_at(cluster, new, destination)


def test_refusals_and_plans_change_nothing(cluster: ClusterLab, tmp_path: Path) -> None:
    """The address of another pod is refused; where none is asked for, the plan can be made."""
    destination, before = cluster.other_node(), cluster.pod()
    taken = f"{cluster.data_network}.110"
    image = f"198.18.{cluster.number}.4:5000/redis:lab"
    manifest = tmp_path / "pod.json"
    manifest.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "other", "annotations": {"flowferry.io/address": taken}},
                "spec": {
                    "nodeName": cluster.pod_node(),
                    "containers": [{"name": "redis", "image": image}],
                },
            }
        )
    )
    cluster.kubectl("apply", "-f", str(manifest))
    try:
        cluster.kubectl("wait", "--for=condition=Ready", "pod/other", "--timeout=50s")
        refused = rewrite(cluster, destination, "--check", destination_address=taken).failure
    finally:
        cluster.kubectl("delete", "pod", "other", "--grace-period=0", "--force")
    assert refused["code"] == "address_taken" and "pod default/other" in refused["message"]
    planned = rewrite(cluster, destination, "--check").must_succeed().outcome
    assert planned["way"] == "waiting"
    assert planned["plan"]["destination_endpoint"]["address"] == ""
    assert cluster.pods() == [before]


def test_a_statefulsets_pod_gets_the_address_that_is_asked_for(
    cluster: ClusterLab, tmp_path: Path
) -> None:
    """Its copy is made in the hold; which address it gets has to be known before. And back."""
    made_of, virtual = Workload(cluster, "StatefulSet", 108), f"{cluster.data_network}.91"
    entries = service(Address(virtual), Address(made_of.lab.address), 6, 6379, 91)
    with made_of.running(tmp_path) as workload, at_switch(cluster, entries):
        workload.lab.address, own = virtual, workload.lab.address
        before, name = workload.lab.run_id(), f"pod:default/{workload.pod_name}"
        refused = rewrite(cluster, workload.other, workload=name).failure
        assert (
            refused["code"] == "address_mismatch" and "give destination_addr" in refused["message"]
        )
        with workload.clients() as clients:
            for wanted in (f"{cluster.data_network}.109", own):
                destination = workload.other
                moved = rewrite(
                    cluster, destination, workload=name, destination_address=wanted
                ).must_succeed()
                assert moved.outcome["way"] == "cold" and not left_over(moved.outcome)
                assert [client.seen()["errors"] for client in clients] == [[], [], []]
                assert workload.pod["status"]["podIP"] == wanted
                assert (workload.node, workload.lab.run_id()) == (destination, before)
                assert entries_of(cluster, wanted) == ["route", "reply", "backend"]
        workload.lab.address = own
    assert cluster.leftovers() == {}


def test_it_moves_on_with_its_new_address_and_starts_again_at_it(cluster: ClusterLab) -> None:
    """Keeping it, to a node that never gave it; a restart is afresh, from its own image."""
    client = TrafficClient(cluster, "pingpong", "a")
    cluster.redis("SET", "before", "move")
    destination, address = cluster.other_node(), cluster.pod()["status"]["podIP"]
    cluster.move(destination).must_succeed()
    assert client.seen()["errors"] == []
    client.end()
    pod = cluster.pod()
    assert (pod["spec"]["nodeName"], pod["status"]["podIP"]) == (destination, address)
    moved = cluster.run_id()
    cluster.kill_redis()
    assert cluster.run_id() != moved
    assert cluster.redis("EXISTS", "before") == ":0", "a value of the checkpoint came back"
    assert cluster.pod()["status"]["podIP"] == address
    wait_for(lambda: served(cluster) == [address], f"the Service leads to {address}", 20)


def test_it_moves_directly_too_to_addresses_that_nodes_choose(
    cluster: ClusterLab, clients: list[TrafficClient]
) -> None:
    """The last one here: no kubelet moves it afterwards."""
    before = cluster.run_id()
    for number in range(2):
        destination, old = cluster.other_node(), cluster.pod()["status"]["podIP"]
        moved = rewrite(cluster, destination, migration_method="auto").must_succeed().outcome
        assert moved["method"] == "direct" and not left_over(moved)
        assert [client.seen()["errors"] for client in clients] == [[], [], []], f"move {number}"
        new = cluster.pod()["status"]["podIP"]
        assert new != old
        assert_only_at(cluster, new, destination)
    assert cluster.run_id() == before
