# SPDX-License-Identifier: Apache-2.0
"""The direct method, as far as it is a matter of the pod's manifest.

The copy is an ordinary pod of the ordinary image, in which a placeholder waits for the application.
A container of it that is started again later runs the application by its own command.
"""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.direct.application import (
    AS_PARENT,
    PLACE,
    PROGRAM,
)
from ansible_collections.flowferry.core.plugins.module_utils.direct.place import PLACES, PREPARED
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.pods import (
    keeps_name,
    lasting_containers,
)

Pod = dict[str, Any]
WAY = "direct"
WHY = "its processes go straight into a placeholder that runs at the destination"
WHY_PREPARED = (
    f"{WHY}: it is prepared, so that its application becomes the child of an init there, as it is "
    "here, and keeps its process ids"
)
VOLUME = "flowferry-place"
# An application comes so soon (seconds) after its container was started; nothing may end that.
PATIENCE = 40


def refuse(pod: Pod) -> None:
    """FlowferryError if its manifest says that it cannot be moved directly, yet."""
    spec = pod["spec"]
    containers = lasting_containers(spec)
    hasty = [
        f"{kind} of {one['name']}"
        for one in containers
        for kind in ("livenessProbe", "startupProbe")
        if kind in one and _patience(one[kind]) < PATIENCE
    ]
    # The kubelet starts no other container before a sidecar's startup probe has succeeded.
    awaited = [one["name"] for one in spec.get("initContainers", []) if "startupProbe" in one]
    hooks = [one["name"] for one in containers if one.get("lifecycle", {}).get("postStart")]
    reasons = {
        "its copy has to have its very name, so that it cannot be there before": keeps_name(pod),
        f"the kubelet would end the placeholder within {PATIENCE} s, by {', '.join(hasty)}": hasty,
        f"others wait for a probe of {', '.join(awaited)}, which no placeholder passes": awaited,
        f"its postStart hooks would be run once more: {', '.join(hooks)}": hooks,
        f"it has a volume at {PLACE}": _has_volume_of_its_own(pod),
    }
    for reason, holds in reasons.items():
        if holds:
            raise FlowferryError("direct_impossible", f"{reason}; use method=kubelet")


def _patience(probe: dict[str, Any]) -> int:
    """How long (seconds) a probe may fail before the container is ended."""
    times = int(probe.get("failureThreshold", 3))
    return int(probe.get("initialDelaySeconds", 0)) + times * int(probe.get("periodSeconds", 10))


def was_moved_directly(pod: Pod) -> bool:
    """Whether its application may be beneath a placeholder, where no runtime dumps it."""
    return bool(place_of(pod))


def place_of(pod: Pod) -> str:
    """What its node keeps for it; empty for a pod that was not moved so."""
    for volume in pod["spec"].get("volumes", []):
        path = str(volume.get("hostPath", {}).get("path", ""))
        if volume["name"] == VOLUME and path.startswith(f"{PLACES}/"):
            return path.rpartition("/")[2]
    return ""


def why(about: dict[str, Any]) -> str:
    """What a result says of a direct move."""
    told = [one["direct"]["is_child"] for one in about["containers"].values()]
    return WHY_PREPARED if all(told) else WHY


def without_place(pod: Pod) -> Pod:
    """The manifest without the volumes that a direct move, or the preparation, has added."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    spec["volumes"] = [one for one in spec.get("volumes", []) if one["name"] != VOLUME]
    for container in lasting_containers(spec):
        container["volumeMounts"] = [
            one for one in container.get("volumeMounts", []) if one["name"] != VOLUME
        ]
    return pod


def with_placeholders(about: dict[str, Any], pod: Pod) -> Pod:
    """The manifest of the copy, whose containers begin as placeholders."""
    pod = without_place(pod)
    spec = pod["spec"]
    path = str(PLACES / about["place"])
    spec["volumes"].append({"name": VOLUME, "hostPath": {"path": path, "type": "Directory"}})
    for container in lasting_containers(spec):
        told = about["containers"][container["name"]]["direct"]
        mode = [AS_PARENT] if told["is_child"] else []
        container["command"] = [PROGRAM, *mode, *(literal(one) for one in told["command"])]
        container.pop("args", None)
        container["volumeMounts"].append(
            {
                "name": VOLUME,
                "mountPath": PLACE,
                "subPath": container["name"],
                "readOnly": True,
            }
        )
    # A Service is not to lead to it before the application is there; labels come after the commit.
    pod["metadata"]["labels"] = {}
    return pod


def name_of_place(about: dict[str, Any]) -> str:
    """Of the copy's; the source may have one of its own on another node."""
    return f"{about['namespace']}_{about['copy']}_{about['uid']}"


def literal(word: str) -> str:
    """As it is: the API takes $(NAME) for a variable, and has done so already."""
    return word.replace("$", "$$")


def _has_volume_of_its_own(pod: Pod) -> bool:
    """At the place that the placeholder needs."""
    paths = [
        str(one.get("hostPath", {}).get("path", ""))
        for one in pod["spec"].get("volumes", [])
        if one["name"] == VOLUME
    ]
    if any(path.startswith((f"{PLACES}/", f"{PREPARED}/")) for path in paths):
        return False
    mounts = [
        mount["mountPath"]
        for container in lasting_containers(pod["spec"])
        for mount in container.get("volumeMounts", [])
    ]
    return any(mount.rstrip("/") == PLACE for mount in mounts)
