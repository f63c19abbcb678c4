# SPDX-License-Identifier: Apache-2.0
"""A pod whose copy has to have its very name: handed over while its packets are held.

The API has one pod of a name, and none changes its node. So the source's pod is deleted when its
checkpoint is written, and the copy is made after that. Before, a failure lets the source go on as
ever; from then on until the commit, it is brought back from the checkpoint, on its own node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

from .cluster import Cluster, Pod, Refused
from .pod_names import SOURCE_ANNOTATION, NameReservation
from .remote import NodeHelper
from .strategy import addresses_of

ATTEMPTS = 5
# The kubelet has ended the sandbox of a deleted pod within this time (seconds).
SANDBOX_LIMIT = 30.0
MakeCopy = Callable[[dict[str, Any], str], Pod]
Wait = Callable[[dict[str, Any], str, str, str], None]


class HandOver:
    """Of one move; ``about`` describes the source, and has ``copy_addresses`` and ``copy_node``."""

    def __init__(self, cluster: Cluster, about: dict[str, Any], copy_of: MakeCopy) -> None:
        self.cluster = cluster
        self.about = about
        self.copy_of = copy_of
        self.source_node: str = about["manifest"]["spec"]["nodeName"]
        self.name = NameReservation(cluster, about["namespace"], about["pod"], about["uid"])

    @property
    def may_have_begun(self) -> bool:
        """Whether the source's pod may have been deleted: it is not before it has a checkpoint."""
        return "archives" in self.about

    def to_copy(self, source: NodeHelper) -> None:
        """Give the name to the copy; what the source still has on its node ends unheard."""
        about = self.about
        if about["volumes"]:
            source.call("set_aside", about=about)
        self.cluster.delete_pod(about["namespace"], about["pod"], about["uid"])
        created = self._create(self.copy_of(about, about["copy_node"]))
        about["copy_uid"] = created["metadata"]["uid"]
        source.call("retire", about=about)

    def back(self, source: NodeHelper, wait: Wait) -> bool:
        """Let the source go on; whether it had to be brought back from its checkpoint."""
        about = self.about
        if self.may_have_begun:
            found = self._pod()
            if found is None or found["metadata"]["uid"] != about["uid"]:
                self._bring_back(source, wait, found)
                return True
        source.call("resume", about=about)
        self.name.free()
        return False

    def _bring_back(self, source: NodeHelper, wait: Wait, found: Pod | None) -> None:
        """``found`` is the pod that has the name now: what an earlier attempt may have made."""
        self.cluster.connect_kubelet(self.cluster.node(self.source_node))
        if found is None or not self._is_back(source, found):
            about = {**self.about, "copy_node": self.source_node}
            about["copy_addresses"] = addresses_of(about["endpoint"])
            self._clear(source, found)
            source.call(
                "prepare_destination", about=about, endpoint=about["endpoint"], rewrites=False
            )
            about["images"] = source.call("serve_images", about=about)
            created = self._create(self.copy_of(about, self.source_node))
            about["copy_uid"] = created["metadata"]["uid"]
            wait(about, "asked", "resume_failed", "made no sandbox for")
            source.call("revive", about=about)
            wait(about, "restored", "resume_failed", "did not bring back")
            source.call("settle", about=about)
        if self.about["volumes"]:
            source.call("settle_volumes", about=self.about)
        source.call("forget_archives", about=self.about)
        self.name.free()

    def _clear(self, source: NodeHelper, found: Pod | None) -> None:
        about = self.about
        source.call("retire", about=about)
        if found is not None:
            uid = found["metadata"]["uid"]
            if about["volumes"]:
                source.call("set_aside", about={**about, "uid": uid})
            self.cluster.delete_pod(about["namespace"], about["pod"], uid)
            source.call("retire", about={**about, "uid": uid})
        deadline = time.monotonic() + SANDBOX_LIMIT
        for address in addresses_of(about["endpoint"]):
            while owner := source.call("addressing", address=address).get("owner"):
                if time.monotonic() > deadline:
                    raise FlowferryError(
                        "resume_failed",
                        f"sandbox {owner[:12]} on {self.source_node} still has the address "
                        f"{address} after {SANDBOX_LIMIT:g} s; the kubelet's log there says why "
                        "it does not end",
                    )
                time.sleep(0.02)

    def _is_back(self, source: NodeHelper, found: Pod) -> bool:
        about = {**self.about, "copy_uid": found["metadata"]["uid"]}
        return bool(
            found["spec"].get("nodeName") == self.source_node
            and source.call("restored", about=about)
        )

    def _pod(self) -> Pod | None:
        return self.cluster.get_pod(self.about["namespace"], self.about["pod"])

    def _create(self, pod: Pod) -> Pod:
        """A stranger can be there only if not every API server has heard of the reservation."""
        for _ in range(ATTEMPTS):
            try:
                return self.cluster.create_pod(pod)
            except Refused as refused:
                if refused.status != 409:
                    raise
            found = self._pod()
            metadata = found["metadata"] if found else {}
            if metadata.get("annotations", {}).get(SOURCE_ANNOTATION) == self.about["uid"]:
                assert found is not None
                return found
            if found is not None:
                self.cluster.delete_pod(self.about["namespace"], self.about["pod"], metadata["uid"])
        raise FlowferryError(
            "name_taken",
            f"another pod of the name {self.about['namespace']}/{self.about['pod']} is made again "
            "and again; see which controller does that, by its ownerReferences",
        )
