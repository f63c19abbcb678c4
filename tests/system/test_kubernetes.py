# SPDX-License-Identifier: Apache-2.0
"""A pod moves between the workers of a cluster, and its clients never notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import ClusterLab, left_over
from running import Sampler

from demo.kubectl import BUILD_LIMIT, programs
from demo.lab_control import NODES, ROOT
from demo.traffic import TrafficClient

MOVES = int(os.environ.get("FLOWFERRY_REDIS_MOVES") or 4)
# Those that are shown of a pod that has no volumes to copy.
PHASES = ["prepare", "hold", "checkpoint", "transfer", "restore", "redirect", "release", "clean"]
pytestmark = pytest.mark.timeout(900)


@pytest.mark.each_runtime
@pytest.mark.timeout(BUILD_LIMIT + 900 + 60 * MOVES)  # the first test waits for the build
def test_moves_under_load_harm_nothing(cluster: ClusterLab, clients: list[TrafficClient]) -> None:
    before, sampler = cluster.run_id(), Sampler(cluster.number, "redis-server", "redis")
    with sampler.watching():
        _move_under_load(cluster, clients)
    assert sampler.together == [], "two copies ran at the same time"
    assert sampler.looks > 100 and sampler.places == set(NODES)
    assert cluster.run_id() == before
    assert cluster.leftovers() == {}


def _move_under_load(cluster: ClusterLab, clients: list[TrafficClient]) -> None:
    for number in range(MOVES):
        for client in clients:
            client.seen()
        destination = cluster.other_node()
        played = cluster.move(destination).must_succeed()
        moved = played.outcome
        assert moved["changed"] and not left_over(moved) and moved["overflow_packets"] == 0
        seen = [client.seen() for client in clients]
        assert [one["errors"] for one in seen] == [[], [], []], f"move {number}"
        assert all(one["answers"] > 0 for one in seen)
        print(f"move {number}: silence {seen[0]['longest_ms']} ms, hold {moved['hold_ms']} ms")
        assert cluster.pod_node() == destination
        assert cluster.processes() == {node: int(node == destination) for node in NODES}


def _kubectl_migrate(cluster: ClusterLab, *arguments: str) -> tuple[int, str]:
    """kubectl with the plugin of deploy/, from elsewhere: its exit code and what it shows."""
    pod = f"pod/{cluster.pod()['metadata']['name']}"
    places = [ROOT / "deploy", programs("kubernetes"), Path(sys.executable).parent]
    done = subprocess.run(
        [str(programs("kubernetes") / "kubectl"), "migrate", pod, *arguments],
        cwd="/",
        env=os.environ
        | {"FLOWFERRY_LAB_ID": str(cluster.number), "XDG_STATE_HOME": str(cluster.state)}
        | {"PATH": ":".join([*map(str, places), os.environ["PATH"]])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=cluster.playbook_limit,
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


def test_kubectl_migrate_shows_what_it_is_at_and_says_how_it_ended(
    cluster: ClusterLab, clients: list[TrafficClient]
) -> None:
    before, source, destination = cluster.run_id(), cluster.pod_node(), cluster.other_node()

    code, shown = _kubectl_migrate(cluster, "--to", "nowhere")
    assert code != 0 and 'There is no node "nowhere" in the inventory' in shown
    code, shown = _kubectl_migrate(cluster, "--to", destination, "--check")
    assert code == 0 and "redirect" not in shown
    assert (cluster.pod_node(), cluster.run_id()) == (source, before)

    code, shown = _kubectl_migrate(cluster, "--to", destination, "--method", "kubelet")
    assert code == 0, shown
    phases = [line.strip() for line in shown.splitlines() if line.strip() in PHASES]
    assert phases == PHASES
    assert (cluster.pod_node(), cluster.run_id()) == (destination, before)
    assert [client.seen()["errors"] for client in clients] == [[], [], []]


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
    cluster.kill_redis()
    assert cluster.run_id() != moved
    assert cluster.redis("EXISTS", "before") == ":0", "a value of the checkpoint came back"


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
