# SPDX-License-Identifier: Apache-2.0
"""A pod moves directly, into a placeholder that runs at the destination already."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import WORKLOAD, ClusterLab, is_another, left_over
from controlled import Workload

from demo.kubectl import BUILD_LIMIT
from demo.lab_control import NODES, ROOT, Played, wait_for
from demo.traffic import TrafficClient

pytestmark = pytest.mark.timeout(BUILD_LIMIT + 300)  # whichever test is first waits for the build
PLACES = "/var/lib/flowferry/direct"
FILL = ROOT / "benchmark" / "fill_client.py"


@pytest.fixture
def ordinary(cluster: ClusterLab) -> Iterator[ClusterLab]:
    """The cluster; afterwards its pod is one that any method moves."""
    yield cluster
    cluster.start_afresh()


def move(cluster: ClusterLab, fault: str = "", method: str = "direct", **more: str) -> Played:
    """Without a method, as the playbook chooses."""
    return cluster.playbook(
        "migrate.yml",
        environment={"FLOWFERRY_FAULT": fault},
        workload=WORKLOAD,
        destination=cluster.other_node(),
        **({"migration_method": method} if method else {}),
        **more,
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
        assert 0 < moved["own_ms"] < moved["hold_ms"]
        print(
            f"direct move {number}: {moved['hold_ms']} ms, own {moved['own_ms']}, {moved['phases']}"
        )
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


def test_files_outside_of_volumes_move_or_are_a_reason(ordinary: ClusterLab) -> None:
    """What was written comes along. What was removed is refused, by its reason; where any method
    will do, the kubelet's is taken, and it is said why."""
    cluster = ordinary
    in_root(cluster, "mkdir -p notes/own && echo content >notes/own/written && touch notes/empty")
    for _ in range(2):
        move(cluster).must_succeed()
        assert in_root(cluster, "cat notes/own/written && ls notes") == "content\nempty\nown"

    remove = "find usr -type f | sort | head -n 1 | xargs rm"
    in_root(cluster, remove)
    refused = move(cluster).failure
    assert refused["code"] == "direct_impossible" and "has removed a file" in refused["message"]
    cluster.start_afresh()
    in_root(cluster, remove)
    moved = move(cluster, method="auto").must_succeed().outcome
    assert moved["method"] == "kubelet" and "has removed a file" in moved["why"]


LARGE = 96
"""Megabytes that Redis has, most of which go apart from the checkpoint."""
# How many values Redis has of those, and a hash of them.
CONTENT = """
import hashlib, socket, sys

found, number = hashlib.sha256(), 0
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as server:
    lines = server.makefile("rb")
    while True:
        server.sendall(b"GET fill:%d\\r\\n" % number)
        size = int(lines.readline()[1:])
        if size < 0:
            break
        found.update(lines.read(size + 2))
        number += 1
print(number, found.hexdigest())
"""


def fill(cluster: ClusterLab) -> None:
    program = ["python3", "-c", FILL.read_text(), cluster.address, str(cluster.port), str(LARGE)]
    cluster.run("client", shlex.join(program))
    assert int(content(cluster).split()[0]) == LARGE * 1_000_000 // 65536


def content(cluster: ClusterLab) -> str:
    program = ["python3", "-c", CONTENT, cluster.address, str(cluster.port)]
    return cluster.run("client", shlex.join(program))


def test_large_memory_goes_apart_and_comes_whole(
    ordinary: ClusterLab, clients: list[TrafficClient]
) -> None:
    """Without a method being named; and if it does not come, the source goes on with it."""
    cluster = ordinary
    fill(cluster)
    run_id, before = cluster.run_id(), content(cluster)

    # A note that promises more than comes, as if some of it had been lost.
    destination = cluster.other_node()
    spoil = "sed -i 's/\\(bytes.: \\)/\\11/' /dev/shm/flowferry-*/checkpoint/*/memory.json"
    fault = f"transfer:{shlex.join(cluster.ssh(destination, spoil))}"
    failed = move(cluster, fault).failure
    assert failed["code"] == "restore_failed" and "bytes of memory" in failed["message"]
    assert (cluster.run_id(), content(cluster)) == (run_id, before)

    for number in range(2):
        moved = move(cluster, method="").must_succeed().outcome
        assert moved["method"] == "direct" and moved["image_bytes"] > LARGE * 1_000_000
        assert moved["plan"]["about"]["apart_bytes"] > LARGE * 1_000_000
        assert content(cluster) == before
        print(f"{LARGE} MB, move {number}: {moved['hold_ms']} ms, {moved['phases']}")
        one_runs_here(cluster, clients, run_id)


def test_large_memory_follows_a_copy_that_runs(
    ordinary: ClusterLab, clients: list[TrafficClient]
) -> None:
    """Post-copy: clients write and read meanwhile."""
    cluster = ordinary
    fill(cluster)
    run_id, before = cluster.run_id(), content(cluster)
    for number in range(3):
        moved = move(cluster, memory="post-copy").must_succeed().outcome
        assert moved["plan"]["about"]["post_copy"] and moved["memory_faults"] > 0
        assert "settle" in [phase["name"] for phase in moved["phases"]]
        assert moved["memory_bytes"] > LARGE * 1_000_000 and moved["memory_longest_ms"] > 0
        assert content(cluster) == before
        print(f"post-copy, move {number}: {moved['hold_ms']} ms, {moved['phases']}")
        one_runs_here(cluster, clients, run_id)
    # It goes on in the ordinary way, too.
    move(cluster).must_succeed()
    assert content(cluster) == before
    one_runs_here(cluster, clients, run_id)


@pytest.mark.parametrize("lost", ["source", "destination"])
def test_a_node_that_is_lost_while_memory_follows_takes_the_source_back(
    ordinary: ClusterLab, lost: str
) -> None:
    """It goes on from where it stood still: no copy with empty memory ever serves."""
    cluster = ordinary
    fill(cluster)
    run_id, before, node = cluster.run_id(), content(cluster), cluster.pod_node()
    failed = move(cluster, fault=f"release:{lost}", memory="post-copy").failure
    assert failed["code"] in ("post_copy_failed", "helper_lost")
    moved = move(cluster, memory="post-copy").must_succeed().outcome
    assert moved["recovered"] == "rolled back" and moved["source"] == node
    assert (cluster.run_id(), content(cluster)) == (run_id, before)
    assert cluster.leftovers() == {}


def test_memory_follows_without_the_controller(
    ordinary: ClusterLab, clients: list[TrafficClient]
) -> None:
    cluster = ordinary
    fill(cluster)
    run_id, before, node = cluster.run_id(), content(cluster), cluster.other_node()
    move(cluster, fault="release:keeper", memory="post-copy")
    again = cluster.move(node, method="direct").must_succeed().outcome
    assert again["recovered"] == "finished"
    assert content(cluster) == before
    one_runs_here(cluster, clients, run_id)


def in_root(cluster: ClusterLab, command: str) -> str:
    """What the node says in the root directory of Redis's container."""
    node = cluster.pod_node()
    return cluster.run(node, f"cd /proc/$(pgrep -x redis-server)/root && {command}").strip()


# As the Pod Security level "restricted" wants it, but for the user.
CONFINED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
# Two processes of two threads each, which count over connections of their own. What the parent has
# in memory goes apart from the checkpoint; it ends if that changes.
FAMILY = """
import mmap, os, socket, threading, time, zlib

memory = b""

def count(key):
    known = zlib.crc32(memory)
    with socket.create_connection(("127.0.0.1", 6379)) as server, server.makefile("rb") as lines:
        while True:
            server.sendall(f"INCR {key}\\r\\n".encode())
            number = int(lines.readline()[1:])
            if number % 20 == 0 and zlib.crc32(memory) != known:
                os._exit(1)
            time.sleep(0.01)

while True:
    try:
        socket.create_connection(("127.0.0.1", 6379)).close()
        break
    except OSError:
        time.sleep(0.1)
name = "child" if os.fork() == 0 else "parent"
if name == "parent":
    # Memory goes apart where no relative has any at the same place, so it is far from the child's.
    between = mmap.mmap(-1, 1 << 28, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    memory = os.urandom(24 << 20)
threading.Thread(target=count, args=(f"{name}-2",), daemon=True).start()
count(f"{name}-1")
"""
COUNTERS = ("line", "parent-1", "parent-2", "child-1", "child-2")
# What such a program is allowed, and the files that it has, as it sees them itself.
LOOK = """
import hashlib, pathlib

try:
    pathlib.Path("/no").touch()
except OSError as error:
    print(error)
told = pathlib.Path("/proc/1/status").read_text().splitlines()
print([line for line in told if line.startswith(("Cap", "Seccomp:", "NoNewPrivs"))])
for file in ("/data/more/file", "/fast/file"):
    print(hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest())
"""


def confined(cluster: ClusterLab) -> Workload:
    """A Deployment of three containers with all that a direct move has to keep."""
    workload = Workload(cluster, "Deployment", 107)
    workload.keep_data_with_it()
    probe = {"exec": {"command": ["redis-cli", "PING"]}}
    (redis,) = workload.template["spec"]["containers"]
    redis |= {
        "securityContext": CONFINED,
        "resources": {"limits": {"memory": "200Mi"}},
        "readinessProbe": {**probe, "periodSeconds": 1},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
    }
    talk = ("redis-cli", "-r", "-1", "-i", "0.005", "INCR", "line")
    family = {
        **workload.container("family", "python3", "-c", FAMILY),
        "image": f"198.18.{cluster.number}.4:5000/programs:lab",
        "securityContext": CONFINED,
        "volumeMounts": redis["volumeMounts"],
    }
    workload.template["spec"]["containers"] += [workload.container("talker", *talk), family]
    return workload


def test_several_confined_containers_with_their_files_and_processes(
    cluster: ClusterLab, tmp_path: Path
) -> None:
    """And what is asked of such a pod afterwards works: logs, exec, a crash, its deletion."""
    cluster.playbook("../tests/system/programs_registry.yml").must_succeed()
    workload = confined(cluster)
    with workload.running(tmp_path), workload.clients() as clients:
        workload.in_volumes("mkdir data/more && seq 100000 > data/more/file && seq 9 > fast/file")
        wait_for(
            lambda: all(workload.lab.redis("EXISTS", one) == ":1" for one in COUNTERS),
            "all of them count",
        )
        before = state_of(workload)
        for memory in ("stop-and-copy", "post-copy"):
            destination = workload.other
            played = move_it(workload, memory).must_succeed()
            assert played.outcome["plan"]["about"].get("post_copy", False) == (
                memory == "post-copy"
            )
            assert played.outcome["method"] == "direct" and not left_over(played.outcome)
            assert [client.seen()["errors"] for client in clients] == [[], [], []]
            assert (workload.node, state_of(workload)) == (destination, before)
            print(f"three containers: {played.outcome['hold_ms']} ms, {played.outcome['phases']}")
        pod = workload.pod
        assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0, 0, 0]
        assert all(one["ready"] for one in pod["status"]["containerStatuses"])
        goes_on(workload)
        check_a_crash(workload)


def move_it(workload: Workload, memory: str = "stop-and-copy") -> Played:
    return workload.lab.playbook(
        "migrate.yml",
        workload=f"pod:default/{workload.pod_name}",
        destination=workload.other,
        migration_method="direct",
        memory=memory,
    )


def state_of(workload: Workload) -> dict[str, Any]:
    """What must not change."""
    name = workload.pod["metadata"]["name"]
    lines = workload.lab.redis("CLIENT", "LIST").splitlines()
    return {
        "run": workload.lab.run_id(),
        # But for those of probes.
        "within": sorted(
            line.split()[0] for line in lines if " addr=127.0.0.1:" in line and " cmd=incr " in line
        ),
        "seen within": workload.lab.kubectl(
            "exec", name, "-c", "family", "--", "python3", "-c", LOOK
        ),
    }


def goes_on(workload: Workload) -> None:
    """Each process and each thread still does what it did."""
    for key in COUNTERS:
        count = int(workload.lab.redis("GET", key))
        wait_for(
            lambda k=key, n=count: int(workload.lab.redis("GET", k)) > n + 40, f"{key} grows", 20
        )
    name = workload.pod["metadata"]["name"]
    said = workload.lab.kubectl("logs", name, "-c", "talker", "--since=2s")
    assert said.split(), "what the copy says is not in its log"


# Of the container called "redis": its Redis, wherever its process ids are counted from.
_KILL = """
for pid in $(pgrep -x redis-server); do
  grep -q ' /data ' /proc/$pid/mountinfo && kill -9 $pid
done"""


def check_a_crash(workload: Workload) -> None:
    """The container is started by its own command, and has its files."""
    workload.lab.redis("SET", "since", "the-move")
    run_id = workload.lab.run_id()
    workload.lab.run(workload.node, _KILL)
    wait_for(lambda: is_another(workload.lab, run_id), "the container is started again", 60)
    wait_for(lambda: workload.lab.redis("GET", "since") == "the-move", "it has read its data", 60)


def test_a_namespace_that_forbids_the_placeholder(ordinary: ClusterLab) -> None:
    """Is found in the plan: nothing is begun, and any method will do."""
    cluster = ordinary
    label = "pod-security.kubernetes.io/enforce"
    cluster.kubectl("label", "namespace", "default", f"{label}=baseline")
    try:
        refused = move(cluster).failure
        assert refused["code"] == "direct_impossible" and "PodSecurity" in refused["message"]
        moved = move(cluster, method="auto").must_succeed().outcome
        assert moved["method"] == "kubelet" and "PodSecurity" in moved["why"]
    finally:
        cluster.kubectl("label", "namespace", "default", f"{label}-")


# Its id and its parent's, as their container knows them, and their namespaces.
_PLACE_IN_TREE = """
for pid in $(pgrep -x redis-server); do
  parent=$(awk '/^PPid/ {print $2}' /proc/$pid/status)
  [ "$(readlink /proc/$parent/exe)" = /.flowferry/placeholder ] || continue
  for one in $pid $parent; do
    awk '/^NSpid/ {print $NF}' /proc/$one/status
    readlink /proc/$one/ns/pid /proc/$one/ns/mnt
  done
  echo $pid
done"""


def test_a_prepared_workload_moves_as_the_child_of_its_init(
    cluster: ClusterLab, tmp_path: Path
) -> None:
    """Any number of times, with the ids that it had; a crash is seen by the kubelet as ever."""
    workload = Workload(cluster, "Deployment", 109)
    with workload.running(tmp_path):
        prepare(workload)
        before = tree_of(workload)
        with workload.clients() as clients:
            for _ in range(2):
                destination, run_id = workload.other, workload.lab.run_id()
                moved = move_it(workload).must_succeed().outcome
                assert "prepared" in moved["why"] and not left_over(moved)
                assert [client.seen()["errors"] for client in clients] == [[], [], []]
                assert (workload.node, workload.lab.run_id()) == (destination, run_id)
                assert tree_of(workload)["id"] == before["id"]
                print(f"prepared: {moved['hold_ms']} ms, {moved['phases']}")

        workload.lab.run(workload.node, f"kill -9 {tree_of(workload)['on node']}")
        wait_for(lambda: is_another(workload.lab, run_id), "the container is started again", 60)
        (status,) = workload.pod["status"]["containerStatuses"]
        assert status["lastState"]["terminated"]["exitCode"] == 137
        afresh = tree_of(workload)
        run_id = workload.lab.run_id()
        move_it(workload).must_succeed()
        assert (workload.lab.run_id(), tree_of(workload)["id"]) == (run_id, afresh["id"])


def prepare(workload: Workload) -> None:
    """Its pod is made anew by that, on either node."""
    told = {"workload": f"{workload.kind}:default/{workload.name}"}
    workload.lab.playbook("prepare_workload.yml", **told).must_succeed()
    workload.lab.unroute(workload.lab.address)
    workload.lab.route(workload.lab.address, workload.node)


def tree_of(workload: Workload) -> dict[str, str]:
    """Where the application is among its container's processes: beneath their first one."""
    told = workload.lab.run(workload.node, _PLACE_IN_TREE).split()
    assert len(told) == 7 and told[3] == "1", f"it is no child of the init: {told}"
    assert told[1:3] == told[4:6], f"its namespaces are not its parent's: {told}"
    return {"id": told[0], "on node": told[6]}
