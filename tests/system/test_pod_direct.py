# SPDX-License-Identifier: Apache-2.0
"""A pod moves directly, into a placeholder that runs at the destination already."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from cluster import WORKLOAD, ClusterLab, left_over

from demo.kubectl import BUILD_LIMIT
from demo.lab_control import NODES, Played, wait_for
from demo.traffic import TrafficClient

pytestmark = pytest.mark.timeout(BUILD_LIMIT + 300)  # whichever test is first waits for the build
PLACES = "/var/lib/flowferry/direct"


@pytest.fixture
def ordinary(cluster: ClusterLab) -> Iterator[ClusterLab]:
    """The cluster; afterwards its pod is one that any method moves."""
    yield cluster
    cluster.start_afresh()


def move(cluster: ClusterLab, fault: str = "", method: str = "direct") -> Played:
    return cluster.playbook(
        "migrate.yml",
        environment={"FLOWFERRY_FAULT": fault},
        workload=WORKLOAD,
        destination=cluster.other_node(),
        migration_method=method,
    )


def places(cluster: ClusterLab) -> dict[str, str]:
    """What each node keeps for pods that were moved to it."""
    return {node: cluster.run(node, f"ls {PLACES} 2>/dev/null || true") for node in NODES}


def one_runs_here(cluster: ClusterLab, clients: list[TrafficClient], run_id: str) -> None:
    """The same Redis, with its connections, and no other one."""
    node = cluster.pod_node()
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    assert cluster.run_id() == run_id
    assert cluster.processes() == {one: int(one == node) for one in NODES}
    assert cluster.leftovers() == {}


def test_moves_fail_and_succeed_and_a_restart_is_ordinary(
    ordinary: ClusterLab, clients: list[TrafficClient]
) -> None:
    cluster = ordinary
    run_id, origin = cluster.run_id(), cluster.pod_node()

    # There and back: an ordinary container first, and then one with a placeholder.
    for number in range(3):
        destination = cluster.other_node()
        moved = move(cluster).must_succeed().outcome
        assert moved["method"] == moved["way"] == "direct" and not left_over(moved)
        assert moved["overflow_packets"] == 0 and cluster.pod_node() == destination
        print(f"direct move {number}: hold {moved['hold_ms']} ms, {moved['phases']}")
        one_runs_here(cluster, clients, run_id)
        assert [bool(found) for found in places(cluster).values()] == [
            node == destination for node in NODES
        ]
    assert cluster.pod()["status"]["containerStatuses"][0]["restartCount"] == 0
    assert cluster.pod_node() != origin

    # The kubelet cannot dump what is beneath a placeholder, and says so beforehand.
    assert move(cluster, method="kubelet").failure["code"] == "kubelet_impossible"

    # A restore that fails lets the source go on.
    uid, destination = cluster.pod()["metadata"]["uid"], cluster.other_node()
    spoil = shlex.join(cluster.ssh(destination, "rm /dev/shm/flowferry-*/checkpoint/*/mm-1.img"))
    assert move(cluster, fault=f"transfer:{spoil}").failure["code"] == "restore_failed"
    assert cluster.pod()["metadata"]["uid"] == uid
    wait_for(lambda: cluster.leftovers() == {}, "nothing is left", 60)
    one_runs_here(cluster, clients, run_id)
    assert places(cluster)[destination] == ""

    # Where the helper of the destination dies, it is the next run that ends what it has left.
    assert move(cluster, fault="transfer:destination").failure["code"] == "helper_lost"
    assert [client.seen()["errors"] for client in clients] == [[], [], []]
    moved = move(cluster).must_succeed().outcome
    assert moved["recovered"] == "rolled back"
    one_runs_here(cluster, clients, run_id)

    # A crash starts the application of the ordinary image, and not an old state; that moves, too.
    cluster.redis("SET", "before", "crash")
    cluster.kill_redis()
    afresh = cluster.run_id()
    assert afresh != run_id and cluster.redis("EXISTS", "before") == ":0"
    assert "Ready to accept connections" in cluster.kubectl(
        "logs", cluster.pod()["metadata"]["name"]
    )
    move(cluster, method="auto").must_succeed()
    assert cluster.run_id() == afresh


def test_what_would_stay_behind_is_refused(ordinary: ClusterLab) -> None:
    """By its reason; where any method will do, the kubelet's is taken, and it is said why."""
    cluster = ordinary
    pid = cluster.run(cluster.pod_node(), "pgrep -x redis-server")
    cluster.run(cluster.pod_node(), f"echo content >/proc/{pid}/root/written")
    refused = move(cluster).failure
    assert refused["code"] == "direct_impossible" and "/written" in refused["message"]
    moved = move(cluster, method="auto").must_succeed().outcome
    assert moved["method"] == "kubelet" and "/written" in moved["why"]
