# SPDX-License-Identifier: Apache-2.0
"""Pods of every kind move: of a StatefulSet and a Deployment, with several containers, sidecars."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import ClusterLab, is_another, left_over
from controlled import OPEN, SHARED, Workload
from running import FREEZER, Sampler

from demo.lab_control import NODES, wait_for

MOVES = int(os.environ.get("FLOWFERRY_POD_MOVES") or 2)
pytestmark = pytest.mark.timeout(300 + 60 * MOVES)


@pytest.fixture
def shared(cluster: ClusterLab) -> Iterator[None]:
    """A directory of this machine, at SHARED on both nodes."""
    pids = [
        (FREEZER / f"flowferry-lab{cluster.number}-{node}" / "cgroup.procs").read_text().split()[0]
        for node in NODES
    ]
    program = Path(__file__).with_name("shared_storage.py")
    with tempfile.TemporaryDirectory(prefix="ff-shared-") as directory:
        subprocess.run([sys.executable, str(program), directory, SHARED, *pids], check=True)
        yield
        for node in NODES:
            cluster.run(node, f"umount {SHARED}")


def events_of_creation(workload: Workload) -> list[str]:
    """Pods that the controller itself has made, by its events."""
    told = workload.lab.kubectl("get", "events", "-o", "json")
    return [
        event["message"]
        for event in json.loads(told)["items"]
        if event["reason"] == "SuccessfulCreate"
        and event["involvedObject"]["name"].startswith(workload.name)
        and event["involvedObject"]["kind"] in ("StatefulSet", "ReplicaSet")
    ]


@pytest.mark.each_runtime
@pytest.mark.parametrize(("kind", "number"), [("StatefulSet", 102), ("Deployment", 103)])
@pytest.mark.usefixtures("shared")
def test_a_controllers_pod_moves(
    cluster: ClusterLab, tmp_path: Path, kind: str, number: int
) -> None:
    """Under load; its controller makes no other one, and is as it was afterwards."""
    workload, is_set = Workload(cluster, kind, number), kind == "StatefulSet"
    if is_set:
        workload.keep_data(tmp_path)
    else:
        workload.keep_data_with_it()
    with workload.running(tmp_path):
        name, made = workload.pod["metadata"]["name"], events_of_creation(workload)
        owners = workload.pod["metadata"]["ownerReferences"]
        before = workload.lab.run_id()
        files = "" if is_set else _make_files(workload)
        sampler = Sampler(cluster.number, "redis-server", name)
        with workload.clients() as clients, sampler.watching():
            for number_of_move in range(MOVES):
                destination = workload.other
                outcome = workload.move().must_succeed().outcome
                assert outcome["changed"] and not left_over(outcome)
                assert outcome["overflow_packets"] == 0
                seen = [client.seen() for client in clients]
                assert [one["errors"] for one in seen] == [[], [], []], f"move {number_of_move}"
                assert workload.node == destination
                print(f"{kind}: silence {seen[0]['longest_ms']} ms, hold {outcome['hold_ms']} ms")
        assert sampler.together == [], "two copies ran at the same time"
        assert sampler.looks > 100 and sampler.places == set(NODES)
        assert workload.lab.run_id() == before
        assert is_set or _files(workload) == files
        assert workload.pod["metadata"]["ownerReferences"] == owners
        # Of the others two names are the copies' by turns.
        assert workload.pod["metadata"]["name"] in ([name] if is_set else [name, f"{name}-moved"])
        assert workload.claims() == ([f"data-{workload.name}-0"] if is_set else [])
        assert events_of_creation(workload) == made
        workload.wait_for_rollout()
        assert workload.controller()["status"]["readyReplicas"] == 1
        _check_a_restart(workload, name)
        assert is_set or _files(workload) == files
        _check_a_rollout(workload)
    assert cluster.leftovers() == {}


# The Redis of one pod, by its host name.
_KILL = """
for pid in $(pgrep -x redis-server); do
  if [ "$(cat /proc/$pid/root/etc/hostname)" = {name} ]; then kill -9 $pid; fi
done"""


def _check_a_restart(workload: Workload, host_name: str) -> None:
    """A container that dies starts from its own image, and finds what it has written."""
    workload.lab.redis("SET", "since", "the-move")
    before, written = workload.lab.run_id(), _written(workload)
    workload.lab.run(workload.node, _KILL.format(name=host_name))
    wait_for(
        lambda: workload.restart_count() == 1 and is_another(workload.lab, before),
        "the container is started again",
        60,
    )
    wait_for(lambda: "LOADING" not in workload.lab.redis("PING"), "Redis has read its data", 60)
    assert _written(workload) == written


def _written(workload: Workload) -> list[str]:
    """What clients have written until they ended, and the test itself."""
    found = [workload.lab.redis("GET", key) for key in ("a", "b", "since")]
    assert all(found)
    return found


def _make_files(workload: Workload) -> str:
    """Beside what Redis writes: a hole, two names of one file, a link, an owner, an attribute."""
    workload.in_volumes(
        "mkdir -p data/more fast/more && seq 100000 > data/more/file && "
        "ln data/more/file data/more/other && truncate -s 5M data/more/hole && "
        "ln -s nowhere data/more/link && chown 1234:1234 data/more/hole && "
        "seq 100000 | tee fast/more/file | tail -n 1 && "
        "chmod 2775 data fast && chgrp 1234 data fast"
    )
    return _files(workload)


def _files(workload: Workload) -> str:
    return workload.in_volumes(
        "stat -c '%n %a %u %g %F' data fast && find data/more fast/more -printf "
        "'%p %m %U %G %T@ %l %n %s\\n' | sort && cat data/more/file fast/more/file | sha256sum"
    )


def _check_a_rollout(workload: Workload) -> None:
    """The controller's own manifest is as it was: its next pod is made of the original image."""
    workload.lab.redis("SET", "before", "rollout")
    old = workload.pod["metadata"]["uid"]
    workload.lab.kubectl("rollout", "restart", f"{workload.kind}/{workload.name}")
    workload.wait_for_rollout()
    wait_for(lambda: len(workload.lab.pods(workload.name)) == 1, "the old pod is gone", 30)
    assert workload.pod["metadata"]["uid"] != old
    assert [one["image"] for one in workload.pod["spec"]["containers"]] == [workload.image]


def test_a_statefulsets_pod_that_cannot_be_restored_comes_back(
    cluster: ClusterLab, tmp_path: Path
) -> None:
    """Its name is with the copy already: so it is brought back from its checkpoint, at once."""
    made_of = Workload(cluster, "StatefulSet", 104)
    made_of.keep_data_with_it()
    with made_of.running(tmp_path) as workload, workload.clients() as clients:
        before, source, made = workload.lab.run_id(), workload.node, events_of_creation(workload)
        files = _make_files(workload)
        away = "mv /etc/criu/runc.conf /etc/criu/runc.conf.away"
        cluster.run(workload.other, away)
        try:
            played = workload.move()
        finally:
            cluster.run(workload.other, "mv /etc/criu/runc.conf.away /etc/criu/runc.conf")
        assert played.failure["code"] == "restore_failed"
        assert [client.seen()["errors"] for client in clients] == [[], [], []]
        assert (workload.node, workload.lab.run_id()) == (source, before)
        assert events_of_creation(workload) == made
        assert _files(workload) == files
        workload.wait_for_rollout()
        # And it can be moved as ever.
        workload.move().must_succeed()
        assert [client.seen()["errors"] for client in clients] == [[], [], []]
        assert workload.node != source and workload.lab.run_id() == before
        assert _files(workload) == files
    assert cluster.leftovers() == {}


@pytest.mark.each_runtime
def test_containers_sidecars_and_what_is_between_them_move_together(
    cluster: ClusterLab, tmp_path: Path
) -> None:
    """One container has a connection to another; an init container has done its work."""
    workload = Workload(cluster, "Deployment", 105)
    talk = ("redis-cli", "-r", "-1", "-i", "0.005", "INCR", "talk")
    spec = workload.template["spec"]
    spec["initContainers"] = [
        workload.container("once", "redis-cli", "--version"),
        {
            **workload.container("beside", "redis-server", "--port", "6380", *OPEN),
            "restartPolicy": "Always",
        },
    ]
    spec["containers"].append(workload.container("talker", *talk))
    with workload.running(tmp_path), workload.clients() as clients:
        before = (_connections_within(workload), _beside(workload))
        for _ in range(2):
            played = workload.move().must_succeed()
            assert [client.seen()["errors"] for client in clients] == [[], [], []]
            assert (_connections_within(workload), _beside(workload)) == before
            print(f"three containers: hold {played.outcome['hold_ms']} ms")
        count = int(workload.lab.redis("GET", "talk"))
        wait_for(lambda: int(workload.lab.redis("GET", "talk")) > count, "the talker goes on", 20)
        statuses = workload.pod["status"]
        assert [one["restartCount"] for one in statuses["containerStatuses"]] == [0, 0]
        _check_a_rollout_of_all(workload)


def _connections_within(workload: Workload) -> list[str]:
    """Ids of the connections that Redis has from its own pod."""
    lines = workload.lab.redis("CLIENT", "LIST").splitlines()
    return [line.split()[0] for line in lines if " addr=127.0.0.1:" in line]


def _beside(workload: Workload) -> str:
    """The identity of the Redis that is the sidecar."""
    sidecar = copy.copy(workload.lab)
    sidecar.port = 6380
    return sidecar.run_id()


def _check_a_rollout_of_all(workload: Workload) -> None:
    """The controller's next pod has the init containers again."""
    workload.lab.kubectl("rollout", "restart", f"{workload.kind}/{workload.name}")
    workload.wait_for_rollout()
    wait_for(lambda: len(workload.lab.pods(workload.name)) == 1, "the old pod is gone", 30)
    names = [one["name"] for one in workload.pod["spec"]["initContainers"]]
    assert names == ["once", "beside"]
