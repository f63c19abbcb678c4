# SPDX-License-Identifier: Apache-2.0
"""Which pods can be moved, by what the API server says of them."""

from __future__ import annotations

from typing import Any

from .errors import FlowferryError

Pod = dict[str, Any]
# What a volume has that both nodes see alike, or that is made anew from the API.
PORTABLE_VOLUMES = {"configMap", "downwardAPI", "projected", "secret"}
# What may be the same storage on both nodes; whether it is has to be found out.
COMMON_VOLUMES = {"hostPath", "persistentVolumeClaim"}
# What an emptyDir may be on: a disk, or memory.
MEDIA = {"", "Memory"}
# What is made anew, empty, and filled with a copy of its content.
COPIED_VOLUMES = {"emptyDir"}


def check_movable(pod: Pod) -> None:
    """Refuse what would not be the same pod at the destination, or could not be dumped."""
    title = f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
    spec, status = pod["spec"], pod["status"]
    wanted = len(lasting_containers(spec))
    running = [one for one in lasting_statuses(pod) if "running" in one["state"]]
    _check_containers(title, pod)
    if status.get("phase") != "Running" or len(running) < wanted:
        raise FlowferryError(
            "not_running",
            f"{title} is {status.get('phase')} with {len(running)} of {wanted} "
            "containers running; only a running pod can be moved",
        )
    if pod["metadata"].get("deletionTimestamp"):
        raise FlowferryError("not_running", f"{title} is being deleted")
    shared = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    if spec.get("shareProcessNamespace"):
        shared.append("shareProcessNamespace")
    if shared:
        raise FlowferryError(
            "shared_namespaces",
            f"{title} has {', '.join(shared)}: its processes are not apart from others, so that "
            "they cannot be moved",
        )
    _check_volumes(title, spec.get("volumes", []))


def _check_volumes(title: str, volumes: list[dict[str, Any]]) -> None:
    known = PORTABLE_VOLUMES | COMMON_VOLUMES | COPIED_VOLUMES
    unknown = [one["name"] for one in volumes if not known & set(one)]
    if unknown:
        raise FlowferryError(
            "has_mounts",
            f"{title} has volumes whose content would stay behind: {', '.join(unknown)}. Only "
            f"{', '.join(sorted(PORTABLE_VOLUMES))} are made anew at the destination, "
            f"{' and '.join(sorted(COMMON_VOLUMES))} can be the same there, and "
            f"{', '.join(COPIED_VOLUMES)} is copied",
        )
    media = {one["name"]: one["emptyDir"].get("medium", "") for one in empty_dirs(volumes)}
    others = [f"{name} ({medium})" for name, medium in media.items() if medium not in MEDIA]
    if others:
        raise FlowferryError(
            "volume_cannot_move",
            f"{title} has emptyDir volumes of huge pages: {', '.join(others)}; those are copied "
            "only from disk and from memory (medium: Memory)",
        )


def empty_dirs(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a pod's volumes that live and die with it."""
    return [one for one in volumes if one.get("emptyDir") is not None]


def mounts_of(spec: dict[str, Any], volume: str) -> list[str]:
    """Where the containers that move see a volume."""
    mounts = [mount for one in lasting_containers(spec) for mount in one.get("volumeMounts", [])]
    return sorted({mount["mountPath"] for mount in mounts if mount["name"] == volume})


def lasting_containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that run as long as the pod does, as it starts them: sidecars, then the others."""
    sidecars = [one for one in spec.get("initContainers", []) if one.get("restartPolicy")]
    return [*sidecars, *spec["containers"]]


def lasting_statuses(pod: Pod) -> list[dict[str, Any]]:
    """The same in the pod's status."""
    names = {one["name"] for one in lasting_containers(pod["spec"])}
    status = pod["status"]
    told = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return [one for one in told if one["name"] in names]


def controller_of(pod: Pod) -> dict[str, Any]:
    """The reference to the controller that owns the pod; empty when none does."""
    owners = pod["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), {})


def keeps_name(pod: Pod) -> bool:
    """Whether the pod's controller knows it by its name, so that the copy must have the same."""
    return controller_of(pod).get("kind") == "StatefulSet"


def writes_to_volumes(pod: Pod) -> bool:
    """Whether it has files that outlive its processes."""
    return any(not PORTABLE_VOLUMES & set(one) for one in pod["spec"].get("volumes", []))


def _check_containers(title: str, pod: Pod) -> None:
    lasting = lasting_containers(pod["spec"])
    terminals = [c["name"] for c in lasting if c.get("tty") or c.get("stdin")]
    owner = controller_of(pod).get("kind")
    owners = [owner] if owner not in (None, "ReplicaSet", "StatefulSet") else []
    refused = [
        ("containers with a terminal or standard input", terminals),
        ("a controller that would replace it at once", owners),
    ]
    for what, names in refused:
        if names:
            raise FlowferryError(
                "pod_cannot_move", f"{title} has {what}: {', '.join(names)}; it is not moved"
            )
