# SPDX-License-Identifier: Apache-2.0
"""Which pods can be moved, by what the API server says of them."""

from __future__ import annotations

from typing import Any

from .errors import FlowferryError

Pod = dict[str, Any]
# What a volume has that both nodes see alike, or that is made anew from the API.
PORTABLE_VOLUMES = {"configMap", "downwardAPI", "projected", "secret"}


def check_movable(pod: Pod) -> None:
    """Refuse what would not be the same pod at the destination, or could not be dumped."""
    title = f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
    spec, status = pod["spec"], pod["status"]
    running = [one for one in status.get("containerStatuses", []) if "running" in one["state"]]
    if status.get("phase") != "Running" or len(running) < len(spec["containers"]):
        raise FlowferryError(
            "not_running",
            f"{title} is {status.get('phase')} with {len(running)} of {len(spec['containers'])} "
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
    volumes = [one["name"] for one in spec.get("volumes", []) if not PORTABLE_VOLUMES & set(one)]
    if volumes:
        raise FlowferryError(
            "has_mounts",
            f"{title} has volumes whose content would stay behind: {', '.join(volumes)}. Only "
            f"{', '.join(sorted(PORTABLE_VOLUMES))} are made anew at the destination",
        )
    _check_containers(title, pod)


def controller_of(pod: Pod) -> dict[str, Any]:
    """The reference to the controller that owns the pod; empty when none does."""
    owners = pod["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), {})


def _check_containers(title: str, pod: Pod) -> None:
    spec = pod["spec"]
    sidecars = [c["name"] for c in spec.get("initContainers", []) if c.get("restartPolicy")]
    terminals = [c["name"] for c in spec["containers"] if c.get("tty") or c.get("stdin")]
    owner = controller_of(pod).get("kind")
    ipv6 = [one["ip"] for one in pod["status"].get("podIPs", []) if ":" in one["ip"]]
    owners = [owner] if owner not in (None, "ReplicaSet") else []
    refused = [
        ("init containers that go on running (sidecars)", sidecars),
        ("IPv6 addresses, which the copy would not get", ipv6),
        ("containers with a terminal or standard input", terminals),
        ("a controller that would replace it at once", owners),
    ]
    for what, names in refused:
        if names:
            raise FlowferryError(
                "pod_cannot_move", f"{title} has {what}: {', '.join(names)}; it is not moved"
            )
