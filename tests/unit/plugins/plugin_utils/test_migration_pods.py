# SPDX-License-Identifier: Apache-2.0
"""What the keeper asks of a cluster in a move of a pod, and what it may have to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.registry import open_workload
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import cluster as clusters
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import pods
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.pods import with_cluster

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for fake_cluster

from fake_cluster import NODES, FakeCluster, granted, pod

ANSWERS = {
    "inspect": {"redis": {"id": "1", "memory_bytes": 1}},
    "serve_images": {"redis": "127.0.0.1:1/redis:restore"},
    "asked": True,
    "restored": True,
}


class Node:
    """The helper on a node: says what the keeper has to know, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.node = name
        self.asked: list[str] = []
        self.answers = dict(ANSWERS)

    def call(self, operation: str, **_: Any) -> Any:
        self.asked.append(operation)
        return self.answers.get(operation)

    def goodbye(self) -> None:
        """Nothing to close."""


class Rig:
    """A cluster, the helpers of two nodes, and the kubelets."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = FakeCluster(granted())
        fake = self.cluster

        class Kubelet:
            def __init__(self, *_: Any) -> None:
                """Nothing to connect to."""

            def lives(self) -> bool:
                return fake.kubelets_live

            def checkpoint(self, *_: Any) -> str:
                fake.asked.append(("create", "nodes/checkpoint"))
                if ("create", "nodes/checkpoint") not in fake.rights:
                    raise FlowferryError("checkpoint_failed", "the kubelet answered 403")
                return "/var/lib/kubelet/checkpoints/it.tar"

        monkeypatch.setattr(clusters, "Kubelet", Kubelet)
        self.nodes = {name: Node(name) for name in NODES}
        workload = open_workload("pod:default/redis")
        self.helpers = with_cluster(workload, self.nodes, fake.kubeconfig(directory))

    def plan(self) -> dict[str, Any]:
        """As far as check mode goes."""
        source, destination = (self.helpers[name] for name in NODES)
        assert source.call("describe")["id"] == "uid-redis"
        assert destination.call("describe") is None
        about: dict[str, Any] = source.call("check_source")
        destination.call("check_destination", about=about)
        return about

    def prepare(self) -> dict[str, Any]:
        """As far as the hold."""
        about = self.plan()
        self.helpers["node2"].call("prepare_destination", about=about, endpoint=about["endpoint"])
        return about

    def move(self) -> None:
        """A move that succeeds, and the search for the pod under its new name."""
        source, destination = (self.helpers[name] for name in NODES)
        about = self.prepare()
        endpoint = about["endpoint"]
        source.call("checkpoint", about=about)
        destination.call("restore", about=about)
        source.call("remove", about=about, endpoint=endpoint)
        assert destination.call("describe")["id"] == "uid-redis-moved"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path, monkeypatch)
    yield made
    made.cluster.close()


def test_the_copy_takes_the_place_of_the_source(rig: Rig) -> None:
    rig.move()
    assert list(rig.cluster.pods) == ["redis-moved"]
    assert rig.cluster.pods["redis-moved"]["spec"]["nodeName"] == "node2"


def test_the_rights_asked_for_are_those_of_the_manifest() -> None:
    wanted = [
        (right.verb, ".".join(filter(None, (right.resource, right.group))))
        for right in clusters.RIGHTS
    ]
    assert sorted(wanted) == sorted(granted())


@pytest.mark.parametrize("right", granted(), ids=" ".join)
def test_a_missing_right_is_refused_before_anything_is_made(
    rig: Rig, right: tuple[str, str]
) -> None:
    rig.cluster.rights.discard(right)
    with pytest.raises(FlowferryError, match=rf"may not {' '.join(right)} \(.*rbac.yml") as refused:
        rig.plan()
    assert refused.value.code == "rights_missing"
    assert rig.cluster.asked == []


@pytest.mark.parametrize("right", granted(), ids=" ".join)
def test_each_right_is_used(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, right: tuple[str, str]
) -> None:
    """Without it, and without asking beforehand, a move cannot be done."""
    monkeypatch.setattr(clusters.Cluster, "require_rights", lambda *_: None)
    rig.cluster.rights.discard(right)
    with pytest.raises(FlowferryError, match=r"403"):
        rig.move()
    assert right in rig.cluster.asked


def test_what_several_pods_go_by_is_not_guessed(rig: Rig) -> None:
    rig.cluster.pods = {name: pod(name) for name in ("a", "b")}
    for one in rig.cluster.pods.values():
        one["metadata"]["labels"]["flowferry.io/workload"] = "redis"
    with pytest.raises(FlowferryError, match="a, b") as refused:
        rig.helpers["node1"].call("describe")
    assert refused.value.code == "ambiguous_workload"


def test_a_kubelet_that_ends_ends_the_wait_for_the_restore(rig: Rig) -> None:
    about = rig.prepare()
    rig.nodes["node2"].answers["restored"] = False
    rig.cluster.kubelets_live = False
    with pytest.raises(FlowferryError, match="kubelet on node2 does not answer") as failed:
        rig.helpers["node2"].call("restore", about=about)
    assert failed.value.code == "restore_failed"


def test_a_restore_does_not_need_the_api_server(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the node is waited for; the deadline is the node's."""
    about = rig.prepare()
    rig.nodes["node2"].answers["restored"] = False
    rig.cluster.fails["get", "pods"] = (500, {"message": "etcd is gone"})
    monkeypatch.setattr(pods, "RESTORE_LIMIT", 0.05)
    with pytest.raises(FlowferryError, match=r"not within 0\.05 s"):
        rig.helpers["node2"].call("restore", about=about)
    rig.nodes["node2"].answers["restored"] = True
    rig.helpers["node2"].call("restore", about=about)


def test_a_copy_ends_on_its_node_even_if_the_api_server_refuses(rig: Rig) -> None:
    about = rig.prepare()
    rig.cluster.fails["delete", "pods"] = (500, {"message": "etcd is gone"})
    with pytest.raises(FlowferryError, match="etcd is gone"):
        rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert rig.nodes["node2"].asked[-1] == "discard"
    rig.cluster.fails.clear()
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert list(rig.cluster.pods) == ["redis"]


def test_a_copy_whose_creation_was_not_answered_is_found_again(rig: Rig) -> None:
    about = rig.prepare()
    del about["copy_uid"]
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert list(rig.cluster.pods) == ["redis"]


def test_somebody_elses_pod_is_not_deleted_as_if_it_were_the_copy(rig: Rig) -> None:
    """Its name was free in the plan, and taken before the copy could be made."""
    about = rig.plan()
    rig.cluster.pods["redis-moved"] = pod("redis-moved")
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert set(rig.cluster.pods) == {"redis", "redis-moved"}
