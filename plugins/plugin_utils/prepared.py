# SPDX-License-Identifier: Apache-2.0
"""Prepared workloads: what is added to a template so that its pods move as the child of an init.

The program is on every node (the role prepared_workload installs it), and mounted into each
container by a hostPath. The container's command becomes the program's, which runs it as its child.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.direct.application import (
    AS_INIT,
    PLACE,
    PROGRAM,
    command_of,
)
from ansible_collections.flowferry.core.plugins.module_utils.direct.place import PREPARED
from ansible_collections.flowferry.core.plugins.module_utils.pods import lasting_containers

from .migration import placeholder
from .migration.pod_direct import VOLUME, literal, without_place

Manifest = dict[str, Any]
Commands = Mapping[str, list[str]]
FROM_IMAGE = "flowferry.io/command-of-image"
"""The annotation that names the containers which had no command of their own."""
# What the API server adds to a manifest, and wants to add again.
_ADDED = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")


def plan(manifest: Manifest, state: str, commands: Iterable[Commands] = ()) -> dict[str, Any]:
    """What there is to do to a Deployment, a StatefulSet or a Pod.

    ``commands`` is what its pods' containers were started with, by their names; of a container
    whose command only its image knows that is needed.
    """
    now = _template_of(manifest)
    bare = unprepared(now)
    found = {name: words for one in commands for name, words in one.items()}
    missing = [
        one["name"]
        for one in lasting_containers(bare["spec"])
        if "command" not in one and one["name"] not in found
    ]
    path = str(PREPARED / placeholder.version())
    wanted = bare
    if state == "present":
        wanted = now if is_prepared(now, path) else None if missing else _with(bare, path, found)
    return {
        "path": path,
        # Of whom one has to know how they were started.
        "unknown": [] if wanted else missing,
        "selectors": _selectors(manifest),
        "now": now,
        "wanted": wanted,
        "changed": wanted is not None and wanted != now,
        "pod": _pod(manifest, wanted) if wanted else None,
    }


def is_prepared(template: Manifest, path: str) -> bool:
    """Whether each container runs by the program from this directory of the node."""
    volumes = template["spec"].get("volumes") or []
    is_there = any(
        one["name"] == VOLUME and one.get("hostPath", {}).get("path") == path for one in volumes
    )
    containers = lasting_containers(template["spec"])
    return is_there and all(one.get("command", [])[:2] == [PROGRAM, AS_INIT] for one in containers)


def unprepared(template: Manifest) -> Manifest:
    """The template as it was."""
    bare = without_place(template)
    annotations = bare.get("metadata", {}).get("annotations") or {}
    from_image = annotations.pop(FROM_IMAGE, "").split(",")
    if not annotations:
        bare.get("metadata", {}).pop("annotations", None)
    for container in lasting_containers(bare["spec"]):
        words, _ = command_of(container.get("command", []))
        if container["name"] in from_image or not words:
            container.pop("command", None)
        else:
            container["command"] = words
    _drop_empty(bare["spec"])
    return bare


def _with(bare: Manifest, path: str, started: Commands) -> Manifest:
    template = copy.deepcopy(bare)
    spec = template["spec"]
    volume = {"name": VOLUME, "hostPath": {"path": path, "type": "Directory"}}
    spec["volumes"] = [*spec.get("volumes", []), volume]
    from_image = []
    for container in lasting_containers(spec):
        words = container.get("command")
        if words is None:
            from_image.append(container["name"])
            words = _of_image(container, started[container["name"]])
        container["command"] = [PROGRAM, AS_INIT, *words]
        mount = {"name": VOLUME, "mountPath": PLACE, "readOnly": True}
        container["volumeMounts"] = [*container.get("volumeMounts", []), mount]
    if from_image:
        metadata = template.setdefault("metadata", {})
        metadata["annotations"] = {
            **(metadata.get("annotations") or {}),
            FROM_IMAGE: ",".join(from_image),
        }
    return template


def _of_image(container: Manifest, started: list[str]) -> list[str]:
    """The image's part of the words that a container was started with: all but its arguments."""
    given = len(container.get("args", []))
    words, _ = command_of(started)
    return [literal(word) for word in words[: len(words) - given]]


def _template_of(manifest: Manifest) -> Manifest:
    if manifest["kind"] == "Pod":
        template = {"metadata": manifest["metadata"], "spec": manifest["spec"]}
        return copy.deepcopy(template)
    return copy.deepcopy(dict(manifest["spec"]["template"]))


def _pod(manifest: Manifest, template: Manifest) -> Manifest:
    """A pod of the template: the one itself, or one to ask by whether such pods are admitted."""
    told = template.get("metadata", {})
    metadata = {key: value for key, value in told.items() if key not in _ADDED}
    name = manifest["metadata"]["name"]
    if manifest["kind"] != "Pod":
        name = f"{name}-prepared"
    spec = copy.deepcopy(template["spec"])
    # Their claims the controller makes.
    claims = [one["metadata"]["name"] for one in manifest["spec"].get("volumeClaimTemplates", [])]
    if claims:
        volumes = [{"name": one, "emptyDir": {}} for one in claims]
        spec["volumes"] = [*spec.get("volumes", []), *volumes]
    own = {"name": name, "namespace": manifest["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, **own}, "spec": spec}


def _selectors(manifest: Manifest) -> list[str]:
    """Of its pods, as `kubectl get --selector` has them."""
    told = manifest["spec"].get("selector") or {}
    found = [f"{key}={value}" for key, value in (told.get("matchLabels") or {}).items()]
    for one in told.get("matchExpressions") or []:
        key, values = one["key"], ",".join(one.get("values", []))
        forms = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        found.append(forms[one["operator"]])
    return found


def _drop_empty(spec: Manifest) -> None:
    """The API server has no empty lists."""
    for where in (spec, *lasting_containers(spec)):
        for key in ("volumes", "volumeMounts"):
            if where.get(key) == []:
                del where[key]
