# SPDX-License-Identifier: Apache-2.0
"""The keeper dies when a StatefulSet's pod was deleted and its copy does not serve yet."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import ClusterLab
from controlled import Workload
from test_kubernetes_kinds import events_of_creation

from demo.lab_control import NODES, Played, wait_for

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("moment", ["restored", "made", "gone"])
def test_a_dead_keeper_between_deletion_and_commit_loses_nothing(
    cluster: ClusterLab, tmp_path: Path, moment: str
) -> None:
    """The copy runs unheard; or its pod waits for its sandbox; or there is no pod at all.

    The next run brings the source back from its checkpoint, and then moves it as it was told to.
    """
    made_of = Workload(cluster, "StatefulSet", 107)
    made_of.keep_data_with_it()
    with made_of.running(tmp_path) as workload, workload.clients() as clients:
        before, source, destination = workload.lab.run_id(), workload.node, workload.other
        made = events_of_creation(workload)
        workload.in_volumes("seq 100000 | tee data/file > fast/file")
        files = workload.in_volumes("sha256sum data/file fast/file")
        if moment == "restored":
            dead = workload.move(destination, FLOWFERRY_FAULT="restore:keeper")
        else:
            dead = _die_before_the_sandbox(workload, destination, tmp_path / "keeper")
        assert dead.failure["code"] == "keeper_lost", dead.outcome
        if moment == "gone":
            name = workload.pod["metadata"]["name"]
            cluster.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--timeout=50s")
        # To where it was, the way back is all that there is to do.
        wanted = source if moment == "made" else destination
        again = workload.move(wanted).must_succeed()
        assert again.outcome["recovered"] == "rolled back"
        assert [client.seen()["errors"] for client in clients] == [[], [], []]
        assert (workload.node, workload.lab.run_id()) == (wanted, before)
        assert events_of_creation(workload) == made
        assert workload.in_volumes("sha256sum data/file fast/file") == files
        assert cluster.processes()[_other(wanted)] == _demos(cluster, _other(wanted))
        workload.wait_for_rollout()
    assert cluster.leftovers() == {}
    assert "flowferry-name" not in cluster.kubectl("get", "validatingadmissionpolicies")


def _die_before_the_sandbox(workload: Workload, destination: str, told: Path) -> Played:
    """The destination's container runtime stands still, so that the copy stays without a sandbox;
    and the keeper, which has said who it is, is killed as soon as the copy is in the cluster."""
    lab, uid = workload.lab, workload.pod["metadata"]["uid"]
    with lab.going_on(destination, lab.runtime) as pause, ThreadPoolExecutor() as beside:
        fault = f"transfer:{pause} && echo $PPID > {told}.new && mv {told}.new {told}"
        move = beside.submit(workload.move, destination, FLOWFERRY_FAULT=fault)
        wait_for(told.exists, "the keeper has come to the restore", 90)
        wait_for(
            lambda: [pod["metadata"]["uid"] for pod in lab.pods(workload.name)] not in ([uid], []),
            "the source's pod is deleted, and the copy's is made",
            30,
        )
        os.kill(int(told.read_text()), signal.SIGKILL)
        return move.result()


def _other(node: str) -> str:
    return next(one for one in NODES if one != node)


def _demos(cluster: ClusterLab, node: str) -> int:
    """The Redis of the lab itself, which is not what these tests move."""
    return int(cluster.pod_node() == node)
