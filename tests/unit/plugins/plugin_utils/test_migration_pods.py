# SPDX-License-Identifier: Apache-2.0
"""What the keeper asks of a cluster in a move of a pod, and what it may have to."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.registry import open_workload
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import cluster as clusters
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import pod_names, pods
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.pods import with_cluster

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for fake_cluster

from fake_cluster import NODES, FakeCluster, granted, member, pod

ANSWERS = {
    "inspect": {"redis": {"id": "1", "memory_bytes": 1}},
    "serve_images": {"redis": "127.0.0.1:1/redis:restore"},
    "asked": True,
    "addressing": {"owner": ""},
    "restored": True,
    "copy_addresses": ["198.19.0.100"],
    "inspect_direct": {
        "redis": {"pid": 1, "command": ["redis-server"], "is_child": False, "streams": {}}
    },
    "machine": platform.machine(),
}


class Node:
    """The helper on a node: says what the keeper has to know, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.node = name
        self.own_ms = 0.0
        self.asked: list[str] = []
        self.answers: dict[str, Any] = dict(ANSWERS)
        self.told: dict[str, Any] = {}
        """The addresses that an operation was last asked with."""

        self.copies: bool | None = None
        self.on: dict[str, Callable[[], object]] = {}
        """What else is to be done when an operation is asked for."""

    def call(
        self, operation: str, *, addresses: Sequence[str] = (), copies: bool | None = None, **_: Any
    ) -> Any:
        self.asked.append(operation)
        self.on.get(operation, bool)()
        self.copies = copies
        self.told[operation] = addresses
        return self.answers.get(operation)

    def begin(self, operation: str, **arguments: Any) -> Callable[[], Any]:
        answer = self.call(operation, **arguments)
        return lambda: answer

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
        self.kubeconfig = fake.kubeconfig(directory)
        self.choose("redis")

    def choose(self, name: str, method: str = "kubelet") -> None:
        """The pod that is meant from now on, and how it is to move."""
        self.name = name
        workload = open_workload(f"pod:default/{name}")
        self.helpers = with_cluster(workload, self.nodes, self.kubeconfig, method)

    def choose_member(self) -> None:
        """A pod of a StatefulSet."""
        self.cluster.pods = {"redis-0": member()}
        self.choose("redis-0")

    def plan(self) -> dict[str, Any]:
        """As far as check mode goes."""
        source, destination = (self.helpers[name] for name in NODES)
        assert source.call("describe")["id"] == f"uid-{self.name}"
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
        assert destination.call("describe")["id"].startswith("uid-copy-")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path, monkeypatch)
    yield made
    made.cluster.close()


def test_the_copy_takes_the_place_of_the_source(rig: Rig) -> None:
    rig.move()
    assert list(rig.cluster.pods) == ["redis-moved"]
    assert rig.cluster.pods["redis-moved"]["spec"]["nodeName"] == "node2"


def test_a_plan_waits_until_the_api_server_has_heard_what_runs(rig: Rig) -> None:
    """A kubelet that had lost it tells it late; the node's runtime knows better."""
    status = rig.cluster.pods["redis"]["status"]
    rig.cluster.pods["redis"]["status"] = {"phase": "Pending"}
    inspected: list[str] = rig.nodes["node1"].asked

    def hear() -> None:
        if inspected.count("inspect") == 2:
            rig.cluster.pods["redis"]["status"] = status

    rig.nodes["node1"].on["inspect"] = hear
    assert rig.plan()["pod"] == "redis"
    assert inspected.count("inspect") == 3


@pytest.mark.parametrize("runs", [False, True])
def test_a_plan_does_not_wait_for_what_does_not_come(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """It does not run on its node; or it does, and nobody tells."""
    monkeypatch.setattr(pods, "TOLD_LIMIT", 0.5 if runs else 60.0)
    rig.cluster.pods["redis"]["status"] = {"phase": "Pending"}
    if not runs:
        rig.nodes["node1"].answers["inspect"] = {}
    with pytest.raises(FlowferryError, match="Pending with 0 of 1") as refused:
        rig.plan()
    assert refused.value.code == "not_running"
    assert (rig.nodes["node1"].asked.count("inspect") == 1) != runs


@pytest.mark.parametrize("mounted", [False, True])
def test_a_volume_that_no_container_of_the_copy_mounts_is_not_moved(
    rig: Rig, mounted: bool
) -> None:
    """It was for an init container that has ended, or for nobody."""
    spec = rig.cluster.pods["redis"]["spec"]
    spec["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    spec["initContainers"] = [{"name": "once", "image": "redis:7", **mount}]
    if mounted:
        spec["containers"][0].update(mount)
    rig.nodes["node1"].answers["empty_dirs"] = []
    rig.plan()
    assert ("empty_dirs" in rig.nodes["node1"].asked) == mounted


def test_a_kept_address_is_reserved_before_its_sandbox_can_end(rig: Rig) -> None:
    """The kubelet begins to take the sandbox away as soon as the pod is deleted."""
    about = rig.prepare()
    deleted_then: list[bool] = []
    source = rig.nodes["node1"]
    known = source.call

    def call(operation: str, **arguments: Any) -> Any:
        if operation == "keep_addresses":
            deleted_then.append("redis" not in rig.cluster.pods)
        return known(operation, **arguments)

    source.call = call  # type: ignore[method-assign]
    rig.helpers["node1"].call("remove", about=about, endpoint=about["endpoint"])
    assert deleted_then == [False]
    assert source.told["keep_addresses"] == ["198.19.0.100"]
    assert all("free_addresses" not in node.asked for node in rig.nodes.values())


def test_addresses_of_both_ip_versions_move_where_the_network_gives_both(rig: Rig) -> None:
    both = ["198.19.0.100", "2001:2::64"]
    rig.cluster.pods["redis"]["status"]["podIPs"] = [{"ip": one} for one in reversed(both)]
    with pytest.raises(FlowferryError, match="the pod network of node2 takes none") as refused:
        rig.plan()
    assert refused.value.code == "pod_cannot_move"
    rig.nodes["node2"].answers["addressing"] = {"owner": "", "ipv6": True}
    with pytest.raises(FlowferryError, match=r"the address 198.19.0.100, not 198.19.0.100, 2001"):
        rig.prepare()
    rig.cluster.pods.pop("redis-moved")
    rig.nodes["node2"].answers["copy_addresses"] = both
    about = rig.prepare()
    copy = rig.cluster.pods["redis-moved"]
    assert copy["metadata"]["annotations"]["flowferry.io/address"] == ",".join(both)
    rig.helpers["node1"].call("remove", about=about, endpoint=about["endpoint"])
    assert rig.nodes["node1"].told["keep_addresses"] == both


def test_one_of_two_addresses_is_not_changed(rig: Rig) -> None:
    rig.cluster.pods["redis"]["status"]["podIPs"] = [{"ip": "198.19.0.100"}, {"ip": "2001:2::64"}]
    with pytest.raises(FlowferryError, match="use address_strategy=keep") as refused:
        rig.helpers["node2"].call("new_endpoint", namespace="pod-1", addresses=["198.19.0.160"])
    assert refused.value.code == "pod_cannot_move"


@pytest.mark.parametrize("asked_for", ["", "198.19.0.160"])
def test_under_another_address_the_old_one_is_freed(rig: Rig, asked_for: str) -> None:
    source, destination = (rig.helpers[name] for name in NODES)
    rig.cluster.pods["redis"]["metadata"]["annotations"] = {"flowferry.io/address": "198.19.0.100"}
    rig.nodes["node2"].answers["copy_addresses"] = ["198.19.0.160"]
    about = rig.plan()
    endpoint = {**about["endpoint"], "address": asked_for}
    got = destination.call("prepare_destination", about=about, endpoint=endpoint)
    assert got["address"] == "198.19.0.160"
    copy = rig.cluster.pods["redis-moved"]
    assert copy["metadata"]["annotations"].get("flowferry.io/address", "") == asked_for
    source.call("remove", about=about, endpoint=about["endpoint"])
    assert copy["metadata"]["annotations"]["flowferry.io/address"] == "198.19.0.160"
    assert "keep_addresses" not in rig.nodes["node1"].asked
    assert [node.told["free_addresses"] for node in rig.nodes.values()] == [["198.19.0.100"]] * 2


def test_a_copy_with_another_address_than_was_asked_for_is_not_restored(rig: Rig) -> None:
    rig.nodes["node2"].answers["copy_addresses"] = ["198.19.0.160"]
    with pytest.raises(FlowferryError, match=r"the address 198.19.0.160, not 198.19.0.100"):
        rig.prepare()


def test_a_plan_refuses_to_choose_the_address_of_a_copy_that_keeps_its_name(rig: Rig) -> None:
    """It would be chosen while packets are held; one that is given is as good as any pod's."""
    network = {"network": "198.19.0.0/24", "gateway": "198.19.0.254", "owner": ""}
    for node, first in zip(rig.nodes.values(), (128, 160)):
        ends = {"first": f"198.19.0.{first}", "last": f"198.19.0.{first + 31}"}
        node.answers["addressing"] = {**network, **ends}
    new_endpoint = partial(rig.helpers["node2"].call, "new_endpoint", namespace="pod-1")
    assert new_endpoint(addresses=[])["address"] == ""
    rig.choose_member()
    new_endpoint = partial(rig.helpers["node2"].call, "new_endpoint", namespace="pod-1")
    with pytest.raises(FlowferryError, match=r"redis-0 .*; give destination_address") as refused:
        new_endpoint(addresses=[])
    assert refused.value.code == "address_mismatch"
    assert {verb for verb, _ in rig.cluster.asked} == {"get"}
    assert new_endpoint(addresses=["198.19.0.161"])["address"] == "198.19.0.161"


def test_an_address_is_taken_while_its_pod_has_not_ended(rig: Rig) -> None:
    network = {"network": "198.19.0.0/24", "gateway": "198.19.0.254", "owner": ""}
    for node in rig.nodes.values():
        node.answers["addressing"] = {**network, "first": "198.19.0.128", "last": "198.19.0.159"}
    rig.nodes["node1"].answers["addressing"] = {"owner": ""}
    other = rig.cluster.pods["other"] = pod("other")
    other["status"]["podIP"] = "198.19.0.130"
    arguments = {"namespace": "pod-1", "addresses": ["198.19.0.130"]}
    with pytest.raises(FlowferryError, match="belongs to pod default/other"):
        rig.helpers["node2"].call("new_endpoint", **arguments)
    other["status"]["phase"] = "Succeeded"
    assert rig.helpers["node2"].call("new_endpoint", **arguments)["address"] == "198.19.0.130"


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
        rig.choose_member()
        rig.move()
    assert right in rig.cluster.asked


@pytest.mark.parametrize("is_criu", [True, False])
def test_a_dump_that_fails_has_the_reason_of_criu(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_criu: bool
) -> None:
    """The kubelet knows where CRIU's log is; a log of another day is not asked for."""

    def fail(*_: Any) -> str:
        details = "500: criu failed: type NOTIFY errno 0" if is_criu else "403"
        raise FlowferryError("checkpoint_failed", "the kubelet answered 500", details)

    monkeypatch.setattr(clusters.Cluster, "checkpoint", fail)
    about, source = rig.prepare(), rig.nodes["node1"]
    source.answers["complaints"] = "inet: In-flight connection"
    with pytest.raises(FlowferryError) as raised:
        rig.helpers["node1"].call("checkpoint", about=about)
    assert ("CRIU cannot dump container redis: inet: In-flight" in str(raised.value)) is is_criu
    assert ("complaints" in source.asked) is is_criu
    assert "the kubelet answered 500" in str(raised.value)
    assert raised.value.code == "checkpoint_failed"


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


def test_a_direct_move_asks_whether_its_copy_would_be_admitted(rig: Rig) -> None:
    rig.choose("redis", "direct")
    about = rig.plan()
    assert (about["method"], list(rig.cluster.pods)) == ("direct", ["redis"])
    message = 'pods "redis-moved" is forbidden: violates PodSecurity "baseline:latest"'
    rig.cluster.fails["create", "pods"] = (403, {"message": message})
    with pytest.raises(FlowferryError, match="PodSecurity") as failed:
        rig.plan()
    assert failed.value.code == "direct_impossible"
    rig.choose("redis", "auto")
    about = rig.plan()
    assert about["method"] == "kubelet" and "PodSecurity" in about["why"]


def test_a_destination_that_takes_no_placeholder_is_a_reason_for_the_kubelet(rig: Rig) -> None:
    """Which is found when the source is planned already; a direct move that is asked for ends."""
    rig.nodes["node2"].answers["machine"] = "s390x"
    rig.choose("redis", "direct")
    with pytest.raises(FlowferryError, match="s390x") as failed:
        rig.plan()
    assert failed.value.code == "direct_impossible"
    rig.choose("redis", "auto")
    about = rig.plan()
    assert (about["method"], about["way"]) == ("kubelet", "waiting") and "s390x" in about["why"]
    assert rig.nodes["node2"].asked[-1] == "check_destination"
    rig.helpers["node2"].call("prepare_destination", about=about, endpoint=about["endpoint"])
    assert "serve_images" in rig.nodes["node2"].asked


def test_a_pod_that_was_moved_directly_has_no_other_way(rig: Rig) -> None:
    placed = {"name": "flowferry-place", "hostPath": {"path": "/var/lib/flowferry/direct/it"}}
    rig.cluster.pods["redis"]["spec"]["volumes"] = [placed]
    rig.nodes["node2"].answers["machine"] = "s390x"
    rig.choose("redis", "auto")
    with pytest.raises(FlowferryError, match=r"cannot be moved directly.*s390x"):
        rig.plan()


def test_without_a_method_a_pod_moves_directly_where_it_can(rig: Rig) -> None:
    """Its memory is that of its processes, without files that the kernel keeps in memory."""
    told = {**ANSWERS["inspect_direct"]["redis"], "memory_bytes": 20, "apart_bytes": 5}
    rig.nodes["node1"].answers["inspect_direct"] = {"redis": told}
    rig.choose("redis", "auto")
    about = rig.plan()
    assert (about["method"], about["memory_bytes"], about["apart_bytes"]) == ("direct", 20, 5)
    rig.choose_member()
    rig.helpers = with_cluster(
        open_workload("pod:default/redis-0"), rig.nodes, rig.kubeconfig, "auto"
    )
    about = rig.plan()
    assert (about["method"], about["way"], about["memory_bytes"]) == ("kubelet", "cold", 1)
    assert "not directly: its copy has to have its very name" in about["why"]


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


def handed_over(rig: Rig) -> dict[str, Any]:
    """A move of a StatefulSet's pod, as far as its copy runs."""
    rig.choose_member()
    about = rig.prepare()
    rig.helpers["node1"].call("checkpoint", about=about)
    rig.helpers["node2"].call("restore", about=about)
    return about


def test_the_copy_of_a_statefulsets_pod_has_its_name_and_belongs_to_the_set(rig: Rig) -> None:
    rig.choose_member()
    source = rig.cluster.pods["redis-0"]["metadata"]
    about = rig.prepare()
    assert rig.cluster.pods["redis-0"]["metadata"]["uid"] == "uid-redis-0", "not before the hold"
    rig.helpers["node1"].call("checkpoint", about=about)
    rig.helpers["node2"].call("restore", about=about)
    rig.helpers["node1"].call("remove", about=about, endpoint=about["endpoint"])
    (copy,) = rig.cluster.pods.values()
    assert copy["spec"]["nodeName"] == "node2"
    assert copy["metadata"]["name"] == "redis-0"
    assert copy["metadata"]["labels"] == source["labels"]
    assert copy["metadata"]["ownerReferences"] == source["ownerReferences"]
    assert not any(rig.cluster.policies.values()), "the name is free again"


def test_whoever_takes_the_name_all_the_same_does_not_keep_it(rig: Rig) -> None:
    rig.choose_member()
    about = rig.prepare()
    rig.helpers["node1"].call("checkpoint", about=about)
    rig.cluster.strangers = 2
    rig.helpers["node2"].call("restore", about=about)
    assert rig.cluster.pods["redis-0"]["metadata"]["uid"] == about["copy_uid"]


def test_the_policy_of_an_earlier_move_is_not_taken_for_the_one_of_this(rig: Rig) -> None:
    """It refuses others as well as the new one does, and the copy besides."""
    rig.choose_member()
    rig.cluster.lingering = 3
    about = rig.prepare()
    rig.helpers["node1"].call("checkpoint", about=about)
    rig.helpers["node2"].call("restore", about=about)
    assert rig.cluster.lingering == 0
    assert rig.cluster.pods["redis-0"]["metadata"]["uid"] == about["copy_uid"]


def test_a_reservation_without_effect_is_an_error_before_the_hold(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.choose_member()
    monkeypatch.setattr(rig.cluster, "_policies", lambda *_: (201, {}))
    monkeypatch.setattr(pod_names, "EFFECT_LIMIT", 0.2)
    with pytest.raises(FlowferryError, match="ValidatingAdmissionPolicy") as refused:
        rig.prepare()
    assert refused.value.code == "name_not_reserved"
    assert rig.cluster.pods["redis-0"]["metadata"]["uid"] == "uid-redis-0"


def test_before_the_hand_over_the_source_just_goes_on(rig: Rig) -> None:
    rig.choose_member()
    about = rig.prepare()
    rig.helpers["node1"].call("checkpoint", about=about)
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert rig.helpers["node1"].call("resume", about=about) is False
    assert rig.cluster.pods["redis-0"]["metadata"]["uid"] == "uid-redis-0"
    assert rig.nodes["node1"].asked[-1] == "resume"
    assert not any(rig.cluster.policies.values())


def test_after_the_hand_over_the_source_is_brought_back_from_its_checkpoint(rig: Rig) -> None:
    about = handed_over(rig)
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert any(rig.cluster.policies.values()), "nobody else takes the name meanwhile"
    assert rig.helpers["node1"].call("resume", about=about) is True
    assert rig.cluster.pods["redis-0"]["spec"]["nodeName"] == "node1"
    order = ["prepare_destination", "serve_images", "asked", "revive", "restored", "settle"]
    assert rig.nodes["node1"].asked[-7:] == [*order, "forget_archives"]
    assert not any(rig.cluster.policies.values())


def test_what_a_pod_has_in_volumes_waits_before_its_pod_is_deleted(rig: Rig) -> None:
    """Its kubelet would remove that with it; and it is there again when the pod is brought back."""
    volume = {"kind": "emptyDir", "name": "data", "way": "copy"}
    rig.choose_member()
    spec = rig.cluster.pods["redis-0"]["spec"]
    spec["volumes"].append({"name": "data", "emptyDir": {}})
    spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    source, deleted = rig.nodes["node1"], ("delete", "pods")
    source.answers["empty_dirs"] = [volume]
    about = rig.prepare()
    assert about["volumes"] == [volume] and about["steady"]
    rig.helpers["node1"].call("checkpoint", about=about)
    assert source.asked[-2:] == ["last_pass", "checkpoint"]
    seen: list[bool] = []
    source.on = {"set_aside": lambda: seen.append(deleted in rig.cluster.asked)}
    rig.helpers["node2"].call("restore", about=about)
    assert seen == [False] and deleted in rig.cluster.asked
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert rig.helpers["node1"].call("resume", about=about) is True
    assert source.asked[-4:] == ["restored", "settle", "settle_volumes", "forget_archives"]


def test_nobody_has_to_allow_that_a_pods_own_volumes_are_copied(rig: Rig) -> None:
    rig.helpers["node2"].call("choose_volumes", volumes=[], copies=False)
    assert rig.nodes["node2"].copies is True


def test_bringing_back_can_be_repeated(rig: Rig) -> None:
    """By a keeper that knows only the journal: one pod is back, and is left alone then."""
    about = handed_over(rig)
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    rig.nodes["node1"].answers["restored"] = False
    rig.cluster.kubelets_live = False
    with pytest.raises(FlowferryError, match="kubelet on node1") as failed:
        rig.helpers["node1"].call("resume", about=about)
    assert failed.value.code == "resume_failed"
    rig.nodes["node1"].answers["restored"] = True
    rig.helpers["node2"].call("discard", about=about, endpoint=about["endpoint"])
    assert rig.helpers["node1"].call("resume", about=about) is True
    before = rig.cluster.pods["redis-0"]["metadata"]["uid"]
    assert rig.helpers["node1"].call("resume", about=about) is True
    assert rig.cluster.pods["redis-0"]["metadata"]["uid"] == before
