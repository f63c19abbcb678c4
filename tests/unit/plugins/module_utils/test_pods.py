# SPDX-License-Identifier: Apache-2.0
"""Pods that would not be the same elsewhere are refused before anything is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.pods import (
    check_movable,
    controller_of,
    empty_dirs,
    keeps_name,
    lasting_containers,
    lasting_statuses,
    mounts_of,
)

SIDECAR = {"restartPolicy": "Always"}
POD: dict[str, Any] = {
    "metadata": {"namespace": "default", "name": "redis"},
    "spec": {
        "containers": [{"name": "redis", "image": "example.com/redis:7"}],
        "volumes": [{"name": "token", "projected": {"sources": []}}],
    },
    "status": {
        "phase": "Running",
        "containerStatuses": [{"name": "redis", "state": {"running": {}}}],
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The pod with one thing different, by its path with dots."""
    pod = copy.deepcopy(POD)
    place = pod
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    return pod


def test_an_ordinary_pod_can_be_moved() -> None:
    check_movable(POD)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("status.phase", "Pending", "not_running"),
        ("status.containerStatuses", [], "not_running"),
        ("metadata.deletionTimestamp", "2026-11-24T22:00:00Z", "not_running"),
        ("spec.hostNetwork", True, "shared_namespaces"),
        ("spec.hostPID", True, "shared_namespaces"),
        ("spec.shareProcessNamespace", True, "shared_namespaces"),
        ("spec.volumes", [{"name": "data", "flexVolume": {}}], "has_mounts"),
        (
            "spec.volumes",
            [{"name": "data", "emptyDir": {"medium": "HugePages-2Mi"}}],
            "volume_cannot_move",
        ),
        ("spec.initContainers", [{"name": "s", "restartPolicy": "Always"}], "not_running"),
        (
            "spec.initContainers",
            [{"name": "s", **SIDECAR, "stdin": True}],
            "pod_cannot_move",
        ),
        ("spec.containers", [{"name": "redis", "tty": True}], "pod_cannot_move"),
        (
            "metadata.ownerReferences",
            [{"kind": "DaemonSet", "controller": True}],
            "pod_cannot_move",
        ),
    ],
)
def test_what_cannot_is_refused_with_its_name(path: str, value: Any, code: str) -> None:
    with pytest.raises(FlowferryError, match="default/redis") as refused:
        check_movable(changed(path, value))
    assert refused.value.code == code


@pytest.mark.parametrize("medium", [{}, {"medium": "Memory"}])
def test_a_pods_own_volumes_do_not_keep_it(medium: dict[str, str]) -> None:
    pod = changed("spec.volumes", [{"name": "data", "emptyDir": medium}])
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "data", "mountPath": "/data"},
        {"name": "data", "mountPath": "/again", "subPath": "inner"},
        {"name": "token", "mountPath": "/token"},
    ]
    check_movable(pod)
    assert [one["name"] for one in empty_dirs(pod["spec"]["volumes"])] == ["data"]
    assert mounts_of(pod["spec"], "data") == ["/again", "/data"]


def test_init_containers_that_have_ended_do_not_matter() -> None:
    check_movable(changed("spec.initContainers", [{"name": "once", "tty": True}]))


def test_a_sidecar_that_runs_moves_too() -> None:
    pod = changed("spec.initContainers", [{"name": "once"}, {"name": "s", **SIDECAR}])
    pod["status"]["initContainerStatuses"] = [
        {"name": "once", "state": {"terminated": {}}},
        {"name": "s", "state": {"running": {}}},
    ]
    check_movable(pod)
    assert [one["name"] for one in lasting_containers(pod["spec"])] == ["s", "redis"]
    assert [one["name"] for one in lasting_statuses(pod)] == ["s", "redis"]


def test_a_pod_that_its_controller_knows_by_name_keeps_it() -> None:
    owner = {"kind": "StatefulSet", "name": "redis", "controller": True}
    pod = changed("metadata.ownerReferences", [owner])
    check_movable(pod)
    assert keeps_name(pod)
    assert not keeps_name(POD)


def test_a_pod_of_a_deployment_can_be_moved() -> None:
    owner = {"kind": "ReplicaSet", "name": "redis-5d9c", "controller": True}
    pod = changed("metadata.ownerReferences", [owner])
    check_movable(pod)
    assert controller_of(pod) == owner
    assert controller_of(POD) == {}
