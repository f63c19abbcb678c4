# SPDX-License-Identifier: Apache-2.0
"""Volumes go along only where the destination has the very same ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.storage import storage_of
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.pod_volumes import PodVolumes

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for fake_cluster

from fake_cluster import member, pod

HOST = "kubernetes.io/hostname"


def volumes(spec: dict[str, Any], made: dict[str, Any] | None = None) -> PodVolumes:
    """Those of a pod with one claim, whose volume is as given."""
    cluster: Any = SimpleNamespace(
        get_claim=lambda *_: {"spec": {"volumeName": "pv"}},
        get_volume=lambda *_: {"metadata": {"name": "pv"}, "spec": spec},
    )
    made = made or pod()
    made["spec"]["volumes"] = [
        {"name": "token", "projected": {}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    return PodVolumes(cluster, made)


def node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {HOST: name, "disks": "4"}}}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"csi": {}, "accessModes": ["ReadWriteOnce"]}, "one node has at a time"),
        ({"iscsi": {}, "accessModes": ["ReadWriteMany"]}, "one node has at a time"),
        ({"nfs": {}, "accessModes": ["ReadWriteOncePod"]}, "only one pod may have it"),
    ],
)
def test_what_the_copy_could_not_have_too_is_refused(spec: dict[str, Any], reason: str) -> None:
    with pytest.raises(FlowferryError, match=reason) as refused:
        volumes(spec)
    assert refused.value.code == "has_mounts"


@pytest.mark.parametrize(
    "spec",
    [
        {"nfs": {}, "accessModes": ["ReadWriteOnce"]},
        {"csi": {}, "accessModes": ["ReadWriteOnce", "ReadWriteMany"]},
    ],
)
def test_what_several_nodes_can_have_is_not(spec: dict[str, Any]) -> None:
    assert volumes(spec).paths == {}


def test_a_pod_that_is_never_there_twice_may_have_a_volume_of_its_own() -> None:
    volumes({"nfs": {}, "accessModes": ["ReadWriteOncePod"]}, member())


def test_a_claim_without_a_volume_is_refused() -> None:
    cluster: Any = SimpleNamespace(get_claim=lambda *_: {"spec": {}}, get_volume=lambda *_: None)
    made = pod()
    made["spec"]["volumes"] = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]
    with pytest.raises(FlowferryError, match="claim data has no volume"):
        PodVolumes(cluster, made)


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": HOST, "operator": "In", "values": ["node1", "node2"]}, True),
        ({"key": HOST, "operator": "In", "values": ["node1"]}, False),
        ({"key": HOST, "operator": "NotIn", "values": ["node2"]}, False),
        ({"key": "disks", "operator": "Exists"}, True),
        ({"key": "disks", "operator": "DoesNotExist"}, False),
        ({"key": "disks", "operator": "Gt", "values": ["3"]}, True),
        ({"key": "disks", "operator": "Lt", "values": ["3"]}, False),
        ({"key": "other", "operator": "Gt", "values": ["3"]}, False),
    ],
)
def test_a_volume_is_where_its_node_affinity_says(expression: dict[str, Any], fits: bool) -> None:
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    found = volumes({"nfs": {}, "accessModes": ["ReadWriteMany"], "nodeAffinity": affinity})
    if fits:
        found.check_node(node("node2"))
    else:
        with pytest.raises(FlowferryError, match="does not let it be on node2"):
            found.check_node(node("node2"))


def test_a_directory_of_the_node_has_to_be_the_same_one(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = volumes({"hostPath": {"path": str(tmp_path)}, "accessModes": ["ReadWriteOnce"]})
    path = found.paths["data"]
    here, other = storage_of(path), storage_of(f"{path}/other")
    found.check_paths({path: here}, {path: dict(here)}, "node2")
    for there in ({}, {path: {}}, {path: other}):
        with pytest.raises(FlowferryError, match="not the same storage"):
            found.check_paths({path: here}, there, "node2")
