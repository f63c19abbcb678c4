# SPDX-License-Identifier: Apache-2.0
"""A pod moves between the workers of a cluster, and its clients never notice."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for cluster

from cluster import BUILD_LIMIT, ClusterLab

from demo.lab_control import NODES, ROOT, wait_for
from demo.traffic import TrafficClient

MOVES = 4
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=["containerd", "crio"])
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterLab]:
    """The Kubernetes lab, beside the one of the other tests, which is 7; one for each runtime."""
    if os.geteuid() != 0:
        pytest.skip("run: sudo make system")
    crio = os.environ.get("FLOWFERRY_CRIO", "") if request.param == "crio" else ""
    if request.param == "crio" and not crio:
        pytest.skip("run: sudo make system FLOWFERRY_CRIO=/path/to/crio")
    number = int(os.environ.get("FLOWFERRY_CLUSTER_LAB_ID") or "8")
    with tempfile.TemporaryDirectory(prefix="ff-cluster-") as state:
        running = ClusterLab(number, Path(state), crio)
        try:
            running.start()
            yield running
        finally:
            running.end()


@pytest.fixture
def clients(cluster: ClusterLab) -> Iterator[list[TrafficClient]]:
    """A ping-pong client, a pipelined writer, and a reader of what the writer writes."""
    kinds = (("pingpong", "a"), ("writer", "b"), ("reader", "b"))
    started = [TrafficClient(cluster, *kind) for kind in kinds]
    yield started
    for client in started:
        client.end()


@pytest.mark.timeout(BUILD_LIMIT + 900)  # the first test waits for the build
def test_moves_under_load_harm_nothing(cluster: ClusterLab, clients: list[TrafficClient]) -> None:
    before = cluster.run_id()
    for number in range(MOVES):
        for client in clients:
            client.seen()
        destination = cluster.other_node()
        played = cluster.move(destination).must_succeed()
        moved = played.outcome
        assert moved["changed"] and not moved.get("warnings") and moved["overflow_packets"] == 0
        seen = [client.seen() for client in clients]
        assert [one["errors"] for one in seen] == [[], [], []], f"move {number}"
        assert all(one["answers"] > 0 for one in seen)
        print(f"move {number}: silence {seen[0]['longest_ms']} ms, hold {moved['hold_ms']} ms")
        assert cluster.pod_node() == destination
        assert cluster.processes() == {node: int(node == destination) for node in NODES}
    assert cluster.run_id() == before
    assert cluster.leftovers() == {}


def test_a_second_run_changes_nothing(cluster: ClusterLab) -> None:
    pod = cluster.pod()
    played = cluster.move(pod["spec"]["nodeName"]).must_succeed()
    assert played.outcome["changed"] is False
    assert cluster.pod()["metadata"]["uid"] == pod["metadata"]["uid"]


def test_a_restart_does_not_bring_the_checkpoint_back(cluster: ClusterLab) -> None:
    """The pod has moved; what was written since must not be replaced by what it was then."""
    cluster.redis("SET", "before", "move")
    cluster.move(cluster.other_node()).must_succeed()
    moved = cluster.run_id()
    node = cluster.pod_node()
    cluster.run(node, "kill -9 $(pgrep -x redis-server)")

    def restarted() -> bool:
        status = cluster.pod()["status"]["containerStatuses"][0]
        return status["restartCount"] == 1 and status["ready"]

    wait_for(restarted, "the container is started again, and ready", 120)
    assert cluster.run_id() != moved
    assert cluster.redis("EXISTS", "before") == ":0", "a value of the checkpoint came back"


def test_a_failed_checkpoint_leaves_the_source_serving(
    cluster: ClusterLab, clients: list[TrafficClient]
) -> None:
    """CRIU refuses established connections, as when its settings are missing on a node."""
    node, before, pod = cluster.pod_node(), cluster.run_id(), cluster.pod()
    for client in clients:
        client.seen()
    cluster.run(node, "mv /etc/criu/runc.conf /etc/criu/runc.conf.away")
    try:
        played = cluster.move(cluster.other_node())
    finally:
        cluster.run(node, "mv /etc/criu/runc.conf.away /etc/criu/runc.conf")
    assert played.failure["code"] == "checkpoint_failed"
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    assert cluster.run_id() == before
    assert [one["metadata"]["uid"] for one in cluster.pods()] == [pod["metadata"]["uid"]]
    assert cluster.leftovers() == {}


def test_a_failed_restore_leaves_the_source_serving(
    cluster: ClusterLab, clients: list[TrafficClient]
) -> None:
    destination, before, pod = cluster.other_node(), cluster.run_id(), cluster.pod()
    for client in clients:
        client.seen()
    cluster.run(destination, "mv /etc/criu/runc.conf /etc/criu/runc.conf.away")
    try:
        played = cluster.move(destination)
    finally:
        cluster.run(destination, "mv /etc/criu/runc.conf.away /etc/criu/runc.conf")
    assert played.failure["code"] == "restore_failed"
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    assert cluster.run_id() == before
    assert [one["metadata"]["uid"] for one in cluster.pods()] == [pod["metadata"]["uid"]]
    assert cluster.processes()[destination] == 0
    assert cluster.leftovers() == {}


@pytest.mark.parametrize("phase", ["checkpoint", "redirect"])
def test_after_the_death_of_the_keeper_another_run_ends_it(
    cluster: ClusterLab, clients: list[TrafficClient], phase: str
) -> None:
    """Before the commit it rolls back and moves anew, after it it finishes."""
    destination, before = cluster.other_node(), cluster.run_id()
    for client in clients:
        client.seen()
    dead = cluster.move(destination, FLOWFERRY_FAULT=f"{phase}:keeper")
    assert dead.failure["code"] == "keeper_lost"
    again = cluster.move(destination).must_succeed()
    recovered = {"checkpoint": "rolled back", "redirect": "finished"}[phase]
    assert again.outcome["recovered"] == recovered
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    assert cluster.pod_node() == destination
    assert cluster.processes() == {node: int(node == destination) for node in NODES}
    assert cluster.run_id() == before
    assert cluster.leftovers() == {}


def test_a_replica_of_a_deployment_moves(cluster: ClusterLab, tmp_path: Path) -> None:
    """The Deployment never has more than its one replica, and is as it was afterwards."""
    registry = f"198.18.{cluster.number}.4:5000"
    template = {
        "metadata": {
            "labels": {"app": "web"},
            "annotations": {"flowferry.io/address": f"{cluster.data_network}.101"},
        },
        "spec": {"containers": [{"name": "web", "image": f"{registry}/redis:lab"}]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template,
        },
    }
    manifest = tmp_path / "deployment.json"
    manifest.write_text(json.dumps(deployment))
    cluster.kubectl("apply", "-f", str(manifest))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=50s")
    source = cluster.pods("web")[0]
    node = source["spec"]["nodeName"]
    cluster.route(f"{cluster.data_network}.101", node)
    try:
        client = TrafficClient(cluster, "pingpong", "a", address=f"{cluster.data_network}.101")
        destination = next(one for one in NODES if one != node)
        cluster.move(destination, f"pod:default/{source['metadata']['name']}").must_succeed()
        assert client.seen()["errors"] == []
        client.end()
        (copy,) = cluster.pods("web")
        assert copy["spec"]["nodeName"] == destination
        assert copy["metadata"]["ownerReferences"] == source["metadata"]["ownerReferences"]
        found = json.loads(cluster.kubectl("get", "deployment", "web", "-o", "json"))
        assert found["status"]["replicas"] == found["status"]["readyReplicas"] == 1
        assert (
            found["spec"]["template"]["spec"]["containers"][0]["image"] == f"{registry}/redis:lab"
        )
    finally:
        cluster.kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=50s")


def test_a_cordoned_destination_is_refused(cluster: ClusterLab) -> None:
    destination = cluster.other_node()
    cluster.kubectl("cordon", destination)
    try:
        played = cluster.move(destination)
    finally:
        cluster.kubectl("uncordon", destination)
    assert played.failure["code"] == "node_not_ready"


@pytest.mark.parametrize(("resource", "verb"), [("pods", "create"), ("nodes", "get")])
def test_without_a_right_nothing_is_harmed(
    cluster: ClusterLab, tmp_path: Path, resource: str, verb: str
) -> None:
    """The API server refuses, the message says which rights there are to be; the source serves on.

    The right to checkpoints is not among them: a kubelet remembers for minutes who has it.
    """
    before, pod = cluster.run_id(), cluster.pod()
    rules = yaml.safe_load_all((ROOT / "deploy" / "rbac.yml").read_text())
    role = next(one for one in rules if one["kind"] == "ClusterRole")
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rule["verbs"].remove(verb)
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    fewer = tmp_path / "role.json"
    fewer.write_text(json.dumps(role))
    cluster.kubectl("replace", "-f", str(fewer))
    try:
        played = cluster.move(cluster.other_node())
    finally:
        cluster.kubectl("apply", "-f", str(ROOT / "deploy" / "rbac.yml"))
    assert played.failure["code"] == "kubernetes_refused"
    assert "deploy/rbac.yml" in played.failure["message"]
    assert cluster.run_id() == before
    assert [one["metadata"]["uid"] for one in cluster.pods()] == [pod["metadata"]["uid"]]
