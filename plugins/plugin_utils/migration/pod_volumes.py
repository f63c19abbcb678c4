# SPDX-License-Identifier: Apache-2.0
"""Volumes of a pod that are neither made anew nor copied: the copy must find the very same ones."""

from __future__ import annotations

from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.pods import (
    COPIED_VOLUMES,
    PORTABLE_VOLUMES,
    keeps_name,
)
from ansible_collections.flowferry.core.plugins.module_utils.storage import is_same

from .cluster import Cluster, Pod

# File systems of the network, that any number of nodes can mount whatever the access mode is.
NETWORK = {"azureFile", "cephfs", "glusterfs", "nfs"}
SHARED_MODES = {"ReadWriteMany", "ReadOnlyMany"}
ALONE = "ReadWriteOncePod"


class PodVolumes:
    """Of one pod: its directories of the node, and its persistent volumes."""

    def __init__(self, cluster: Cluster, pod: Pod) -> None:
        self.namespace = pod["metadata"]["namespace"]
        self.title = f"pod {self.namespace}/{pod['metadata']['name']}"
        self.paths: dict[str, str] = {}
        """Directories of the node, by the name of the volume."""
        self.affinities: dict[str, dict[str, Any]] = {}
        """Which nodes can have a persistent volume, by its name; empty: every one."""
        self._cluster = cluster
        self._is_alone = keeps_name(pod)
        for volume in pod["spec"].get("volumes", []):
            if not (PORTABLE_VOLUMES | COPIED_VOLUMES) & set(volume):
                self._add(volume)

    def _add(self, volume: dict[str, Any]) -> None:
        name = volume["name"]
        if "hostPath" in volume:
            self.paths[name] = volume["hostPath"]["path"]
            return
        claim_name = volume["persistentVolumeClaim"]["claimName"]
        claim = self._cluster.get_claim(self.namespace, claim_name)
        persistent = claim and self._cluster.get_volume(claim["spec"].get("volumeName", "-"))
        if not claim or not persistent:
            raise self._refused(name, f"its claim {claim_name} has no volume")
        self._add_persistent(name, persistent["spec"], persistent["metadata"]["name"])

    def _add_persistent(self, name: str, spec: dict[str, Any], volume: str) -> None:
        modes = set(spec.get("accessModes", []))
        if ALONE in modes and not self._is_alone:
            raise self._refused(
                name, f"{volume} is {ALONE}: only one pod may have it, and the copy is another one"
            )
        affinity = spec.get("nodeAffinity", {}).get("required")
        if affinity:
            self.affinities[volume] = affinity
        if "hostPath" in spec or "local" in spec:
            self.paths[name] = (spec.get("hostPath") or spec["local"])["path"]
        elif not (NETWORK & set(spec)) and not ("csi" in spec and SHARED_MODES & modes):
            raise self._refused(
                name,
                f"{volume} ({', '.join(sorted(modes))}) is of a kind that one node has at a time; "
                "it would have to be ReadWriteMany",
            )

    def check_node(self, node: dict[str, Any]) -> None:
        """Refuse a destination that cannot have one of the persistent volumes."""
        name = node["metadata"]["name"]
        for volume, affinity in self.affinities.items():
            if not any(_fits(term, node) for term in affinity.get("nodeSelectorTerms", [])):
                raise self._refused(volume, f"its nodeAffinity does not let it be on {name}")

    def check_paths(self, here: dict[str, Any], there: dict[str, Any], node: str) -> None:
        """Refuse a destination where a directory is another one; storage_of() of both nodes."""
        for name, path in self.paths.items():
            if not is_same(here.get(path, {}), there.get(path, {})):
                raise self._refused(
                    name,
                    f"{path} on {node} is not the same storage as at the source; mount the same on "
                    "both nodes",
                )

    def _refused(self, volume: str, why: str) -> FlowferryError:
        return FlowferryError("has_mounts", f"{self.title} has the volume {volume}: {why}")


def _fits(term: dict[str, Any], node: dict[str, Any]) -> bool:
    """Whether a node is one of those that a term of a node selector means."""
    labels = node["metadata"].get("labels", {})
    fields = {"metadata.name": node["metadata"]["name"]}
    pairs = [(labels, one) for one in term.get("matchExpressions", [])]
    pairs += [(fields, one) for one in term.get("matchFields", [])]
    return bool(pairs) and all(_matches(told, one) for told, one in pairs)


def _matches(told: dict[str, str], wanted: dict[str, Any]) -> bool:
    found, values = told.get(wanted["key"]), wanted.get("values", [])
    compared = {
        "In": found in values,
        "NotIn": found not in values,
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }
    operator = wanted["operator"]
    if operator in compared:
        return compared[operator]
    try:
        number, limit = int(found or ""), int(values[0])
    except ValueError:
        return False
    return number > limit if operator == "Gt" else number < limit
