# SPDX-License-Identifier: Apache-2.0
"""Pods: what the keeper asks of the cluster, woven into what it asks of the nodes.

To the protocol a PodHelper is a helper like any other. Some of its operations begin or end with the
API server or a kubelet; the rest goes to the helper on the node.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.pods import (
    check_movable,
    controller_of,
    empty_dirs,
    keeps_name,
    lasting_containers,
    lasting_statuses,
    mounts_of,
    writes_to_volumes,
)
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.base import Workload
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.kubernetes import (
    KubernetesPod,
)

from . import placeholder, pod_direct, pod_method
from .cluster import Cluster, Pod, Refused
from .pod_addresses import ANNOTATION as ADDRESS_ANNOTATION
from .pod_addresses import addresses_of_copy, new_endpoint
from .pod_aliases import WORKLOAD_LABEL, first_name, label_of, labels_of, names_of
from .pod_handover import HandOver
from .pod_names import SOURCE_ANNOTATION
from .pod_volumes import PodVolumes
from .remote import NodeHelper
from .strategy import addresses_of

IMAGES_ANNOTATION = "flowferry.io/images"
# The runtime has made the sandbox and asks for the image within this time (seconds) ...
WARM_LIMIT = 40.0
# ... and the containers run so long after the image is there.
RESTORE_LIMIT = 60.0
# While packets are held nobody waits longer (seconds) for what the API server may add.
ASIDE_LIMIT = 1.0
# The kubelet calls the copy ready within this time after the commit.
READY_LIMIT = 30.0
# A kubelet that had lost the API server tells it within this time (seconds) what runs.
TOLD_LIMIT = 60.0
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
# A container that waits for one of these reasons will not start by itself.
FATAL = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
    "CrashLoopBackOff",
}


def with_cluster(
    workload: Workload,
    helpers: Mapping[str, NodeHelper],
    kubeconfig: str,
    method: str = "auto",
) -> dict[str, NodeHelper]:
    """For a pod, helpers that know the cluster, one session for all; else those that are given."""
    if not isinstance(workload, KubernetesPod):
        return dict(helpers)
    if not kubeconfig:
        raise FlowferryError(
            "kubernetes_not_configured",
            "a pod is moved through the API server; say how to reach it: "
            "-e migration_kubeconfig=FILE",
        )
    cluster = Cluster(kubeconfig)
    return {
        node: PodHelper(helper, cluster, workload.name, helpers, method)
        for node, helper in helpers.items()
    }


class PodHelper:
    """The helper of one node, for a workload that is a pod."""

    def __init__(
        self,
        remote: NodeHelper,
        cluster: Cluster,
        name: str,
        remotes: Mapping[str, NodeHelper],
        method: str = "auto",
    ) -> None:
        self.remote = remote
        self.method = method
        self.cluster = cluster
        self.node = remote.node
        self.namespace, _, self.name = name.partition("/")
        # What concerns both ends is asked of either.
        self._remotes = remotes
        self._woven: dict[str, Callable[..., Any]] = {
            "describe": self._describe,
            "check_source": self._check_source,
            "check_destination": self._check_destination,
            "choose_volumes": self._choose_volumes,
            "find_endpoint": self._find_endpoint,
            "new_endpoint": self._new_endpoint,
            "prepare_source": self._prepare_source,
            "prepare_destination": self._prepare_destination,
            "checkpoint": self._checkpoint,
            "resume": self._resume,
            "restore": self._restore,
            "remove": self._remove,
            "discard": self._discard,
        }

    @property
    def own_ms(self) -> float:
        return self.remote.own_ms

    def call(self, operation: str, **arguments: Any) -> Any:
        """The result of an operation; errors are FlowferryErrors."""
        woven = self._woven.get(operation)
        if woven is not None:
            return woven(**arguments)
        return self.remote.call(operation, **arguments)

    def begin(self, operation: str, **arguments: Any) -> Callable[[], Any]:
        """Ask for an operation; what concerns the cluster is done when its result is waited for."""
        is_direct = arguments.get("about", {}).get("method") == "direct"
        if operation in self._woven and not (is_direct and operation in ("checkpoint", "restore")):
            return partial(self.call, operation, **arguments)
        return self.remote.begin(operation, **arguments)

    def goodbye(self) -> None:
        self.remote.goodbye()

    # -- plan

    def _find(self) -> Pod | None:
        """The pod by its name, or by the name that it had before it was moved."""
        found = self.cluster.get_pod(self.namespace, self.name)
        if found is not None:
            return found
        moved = [
            pod
            for label in labels_of(self.name)
            for pod in self.cluster.list_pods(self.namespace, f"{WORKLOAD_LABEL}={label}")
        ]
        if len(moved) > 1:
            names = ", ".join(sorted(pod["metadata"]["name"] for pod in moved))
            raise FlowferryError(
                "ambiguous_workload",
                f"{self.namespace}/{self.name} was moved, and several pods have its label "
                f"{WORKLOAD_LABEL}: {names}; name the one that is meant",
            )
        return moved[0] if moved else None

    def _describe(self) -> dict[str, Any] | None:
        self.cluster.require_rights(self.namespace)
        pod = self._find()
        if pod is None or pod["spec"].get("nodeName") != self.node:
            return None
        return {"id": pod["metadata"]["uid"], "status": pod["status"].get("phase", "").lower()}

    def _find_told(self) -> Pod:
        """The pod, as soon as the API server has heard of all of it that runs on its node.

        While the API server was away, a move may have ended; a kubelet tells it that late.
        """
        deadline = time.monotonic() + TOLD_LIMIT
        while True:
            pod = self._find()
            if pod is None:
                raise FlowferryError(
                    "unknown_workload", f"there is no pod {self.namespace}/{self.name} any more"
                )
            wanted = len(lasting_containers(pod["spec"]))
            told = sum("running" in one["state"] for one in lasting_statuses(pod))
            if told == wanted or time.monotonic() > deadline:
                return pod
            if len(self.remote.call("inspect", uid=pod["metadata"]["uid"])) < wanted:
                return pod  # nor does it run there
            time.sleep(0.2)

    def _check_source(self) -> dict[str, Any]:
        pod = self._find_told()
        check_movable(pod)
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        found = self.remote.call("inspect", uid=uid)
        containers = _containers(pod, found)
        identity = {
            "uid": uid,
            "namespace": self.namespace,
            "copy": name if keeps_name(pod) else self._free_name(pod),
            "keeps_name": keeps_name(pod),
            "manifest": pod,
            "containers": containers,
        }
        how = self._choose_method(identity)
        bare = pod_direct.without_place(pod)
        paths = list(PodVolumes(self.cluster, bare).paths.values())
        self.cluster.connect_kubelet(self.cluster.node(self.node))
        return {
            "id": uid,
            "status": "running",
            "pod": name,
            **identity,
            **how,
            "storage": self.remote.call("storage", paths=paths) if paths else {},
            "volumes": self._empty_dirs(pod),
            "steady": len(containers) > 1 or writes_to_volumes(bare),
            "endpoint": _endpoint_of(pod),
            # Where the node has a switch of its own: its port there.
            "attachment": self.remote.call("attachment", uid=uid) or {},
        }

    def _choose_method(self, about: dict[str, Any]) -> dict[str, Any]:
        """Directly or by the kubelet, and why so; a direct move is told of the containers."""
        pod = about["manifest"]
        if self.method == "kubelet":
            if pod_direct.was_moved_directly(pod):
                raise FlowferryError(
                    "kubelet_impossible",
                    f"pod {self.namespace}/{pod['metadata']['name']} was moved directly, so that "
                    "its application is beneath a placeholder, which no container runtime moves; "
                    "use migration_method=direct",
                )
            return pod_method.by_kubelet(about)
        try:
            pod_direct.refuse(pod)
            told = self.remote.call("inspect_direct", uid=pod["metadata"]["uid"])
            for name, container in about["containers"].items():
                container["direct"] = told[name]
            self._try_placeholder(about)
        except FlowferryError as error:
            return pod_method.instead(self.method, about, error)
        return pod_method.directly(about)

    def _try_placeholder(self, about: dict[str, Any]) -> None:
        """Ask whether the copy would be admitted, as a namespace can forbid what it needs."""
        told = {**about, "images": _images_of(about), "place": pod_direct.name_of_place(about)}
        manifest = copy_of(told, self.node, "")
        try:
            self.cluster.create_pod(pod_direct.with_placeholders(told, manifest), dry_run=True)
        except Refused as error:
            raise FlowferryError(
                "direct_impossible", f"its copy would not be admitted: {error}", error.details
            ) from error

    def _empty_dirs(self, pod: Pod) -> list[dict[str, Any]]:
        """What is copied, as the node has it."""
        spec = pod["spec"]
        told = [
            {
                "name": one["name"],
                "medium": one["emptyDir"].get("medium", ""),
                "mounted_at": mounts_of(spec, one["name"]),
            }
            for one in empty_dirs(spec.get("volumes", []))
            # Of others the kubelet makes no directory for the copy; init containers have used them.
            if mounts_of(spec, one["name"])
        ]
        if not told:
            return []
        found: list[dict[str, Any]] = self.remote.call(
            "empty_dirs", uid=pod["metadata"]["uid"], volumes=told
        )
        return found

    def _choose_volumes(self, volumes: list[dict[str, Any]], copies: bool) -> list[dict[str, Any]]:
        """Nobody has to allow that they are copied: they are the pod's own, as its memory is."""
        chosen: list[dict[str, Any]] = self.remote.call(
            "choose_volumes", volumes=volumes, copies=True
        )
        return chosen

    def _free_name(self, pod: Pod) -> str:
        """The copy's name: two pods are there for a while. It alternates between two."""
        taken, candidates = pod["metadata"]["name"], names_of(first_name(pod))
        for name in candidates:
            if name != taken and self.cluster.get_pod(self.namespace, name) is None:
                return name
        raise FlowferryError(
            "name_taken",
            f"the copy of {self.namespace}/{taken} needs a name of its own for a while, and "
            f"{' and '.join(candidates)} are taken; rename or delete the pod that is not meant",
        )

    def _check_destination(self, about: dict[str, Any]) -> None:
        node = self.cluster.node(self.node)
        ready = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
        if ready != ["True"] or node["spec"].get("unschedulable"):
            raise FlowferryError(
                "node_not_ready",
                f"node {self.node} is not ready for pods; `kubectl describe node {self.node}` says "
                "why",
            )
        volumes = PodVolumes(self.cluster, pod_direct.without_place(about["manifest"]))
        volumes.check_node(node)
        if volumes.paths:
            found = self.remote.call("storage", paths=list(volumes.paths.values()))
            volumes.check_paths(about["storage"], found, self.node)
        # The API server takes most of a minute to notice that a kubelet is gone.
        self.cluster.connect_kubelet(node)
        self._check_addresses(about)
        try:
            self._check_node(about)
        except FlowferryError as error:
            if about["method"] != "direct":
                raise
            about.update(pod_method.instead(self.method, about, error))
            self._check_node(about)

    def _check_node(self, about: dict[str, Any]) -> None:
        """Whether the node can take the copy by the method that is planned."""
        if about["method"] == "direct":
            placeholder.program(self.remote.call("machine"))
        self.remote.call("check_destination", about=about)

    def _check_addresses(self, about: dict[str, Any]) -> None:
        """Whether the copy can have them."""
        if _has_ipv6(about["endpoint"]) and not self.remote.call("addressing").get("ipv6"):
            raise FlowferryError(
                "pod_cannot_move",
                f"{about['namespace']}/{about['pod']} has an IPv6 address, and the pod network of "
                f"{self.node} takes none from a pod's annotation; it is not moved",
            )

    def _find_endpoint(self, namespace: str) -> None:
        """There is no namespace before the copy."""

    def _new_endpoint(self, namespace: str, addresses: list[str]) -> dict[str, Any]:
        """What the copy is to have under another address; this node chooses where none is given.

        It chooses when it makes the sandbox, which for a copy that keeps its name is too late: the
        switch has to know before the hold.
        """
        pod = self._find()
        if pod is not None and _has_ipv6(_endpoint_of(pod)):
            raise FlowferryError(
                "pod_cannot_move",
                f"{self.namespace}/{pod['metadata']['name']} has an IPv6 address, which a copy "
                "under address_strategy=rewrite would not get; use address_strategy=keep",
            )
        if pod is not None and not addresses and keeps_name(pod):
            raise FlowferryError(
                "address_mismatch",
                f"the copy of {self.namespace}/{pod['metadata']['name']} is made only while "
                f"packets are held, since it keeps its name, and {self.node} would choose its "
                "address then; give destination_address",
            )
        return new_endpoint(self.cluster, self.node, self._remotes, namespace, addresses)

    # -- prepare

    def _prepare_source(self, about: dict[str, Any], host: str, port: int) -> None:
        self.remote.call("prepare_source", about=about, host=host, port=port)

    def _prepare_destination(
        self, about: dict[str, Any], endpoint: dict[str, Any], **others: Any
    ) -> dict[str, Any]:
        """The copy is made now and waits for its image, so that its sandbox is warm.

        And so it has its address, which is told: this node may have chosen it. One that keeps its
        name can be made only when the source's pod is gone.
        """
        if about["method"] == "direct":
            return self._prepare_placeholder(about, endpoint, **others)
        self.remote.call("prepare_destination", about=about, endpoint=endpoint, **others)
        about["images"] = self.remote.call("serve_images", about=about)
        about["copy_node"], about["copy_addresses"] = self.node, addresses_of(endpoint)
        manifest = copy_of(about, self.node, about["copy_addresses"])
        if about["keeps_name"]:
            self._hand_over(about).name.take(manifest)
            return endpoint
        created = self.cluster.create_pod(manifest)
        about["copy_uid"] = created["metadata"]["uid"]
        self._wait(about, "asked", WARM_LIMIT, code="prepare_failed", failed="made no sandbox for")
        about["copy_addresses"] = addresses_of_copy(about, self.remote, about["copy_addresses"])
        about["copy_attachment"] = self.remote.call("attachment", uid=about["copy_uid"]) or {}
        return _with_addresses(endpoint, about["copy_addresses"])

    def _prepare_placeholder(
        self, about: dict[str, Any], endpoint: dict[str, Any], **others: Any
    ) -> dict[str, Any]:
        """The copy is made now, and runs a placeholder, with CRIU waiting in it."""
        about["images"] = _images_of(about)
        about["copy_node"], about["copy_addresses"] = self.node, addresses_of(endpoint)
        about["place"] = pod_direct.name_of_place(about)
        made = placeholder.program(self.remote.call("machine"))
        self.remote.call("make_place", about=about, program=made)
        manifest = copy_of(about, self.node, about["copy_addresses"])
        created = self.cluster.create_pod(pod_direct.with_placeholders(about, manifest))
        about["copy_uid"] = created["metadata"]["uid"]
        self._wait(about, "placed", WARM_LIMIT, code="prepare_failed", failed="did not start")
        about["copy_addresses"] = addresses_of_copy(about, self.remote, about["copy_addresses"])
        about["copy_attachment"] = self.remote.call("attachment", uid=about["copy_uid"]) or {}
        self.remote.call("prepare_destination", about=about, endpoint=endpoint, **others)
        return _with_addresses(endpoint, about["copy_addresses"])

    def _hand_over(self, about: dict[str, Any]) -> HandOver:
        def make(told: dict[str, Any], node: str) -> Pod:
            ends = {about["copy_node"]: about["copy_addresses"]}
            return copy_of(told, node, ends.get(node) or addresses_of(about["endpoint"]))

        return HandOver(self.cluster, about, make)

    def _wait(
        self,
        about: dict[str, Any],
        operation: str,
        limit: float,
        code: str,
        failed: str,
    ) -> None:
        """Until the node says so; others know sooner when it will never happen."""
        deadline = time.monotonic() + limit
        while not self.remote.call(operation, about=about):
            reason = self._why_not(about)
            if reason or time.monotonic() > deadline:
                reason = reason or f"not within {limit:g} s"
                raise FlowferryError(
                    code,
                    f"{self.node} {failed} {about['namespace']}/{about['copy']}: {reason}. "
                    "The logs of the kubelet and of the container runtime there say more",
                )

    def _why_not(self, about: dict[str, Any]) -> str:
        """What keeps the copy from running for good; empty when nothing does."""
        if not self.cluster.kubelet_lives(self.node):
            return f"the kubelet on {self.node} does not answer any more"
        try:
            pod = self.cluster.get_pod(about["namespace"], about["copy"], timeout=ASIDE_LIMIT)
        except FlowferryError:  # the copy needs its node, and not the API server, to run
            return ""
        if pod is None or pod["metadata"]["uid"] != about["copy_uid"]:
            return "the copy was deleted"
        if pod["status"].get("phase") == "Failed":
            return str(pod["status"].get("message") or "the copy failed")
        for status in pod["status"].get("containerStatuses", []):
            waiting = status.get("state", {}).get("waiting", {})
            ended = status.get("lastState", {}).get("terminated", {})
            if waiting.get("reason") in FATAL or ended:
                said = waiting.get("message") or ended.get("message") or ended.get("reason", "")
                return f"{waiting.get('reason', 'ended')}: {said}"
        return ""

    # -- the critical section

    def _checkpoint(self, about: dict[str, Any]) -> Any:
        """The dump, and beside it the last difference of volumes; says how many bytes that was."""
        archives: dict[str, str] = {}
        try:
            self._dump(about, archives)
        except FlowferryError as error:
            # The runtime tells the kubelet where CRIU's log is, but not what it says.
            failed = next((name for name in about["containers"] if name not in archives), "")
            said = ""
            if failed and "criu" in error.details.lower():
                said = self.remote.call("complaints", about=about, container=failed)
            if not said:
                raise
            raise FlowferryError(
                error.code, f"CRIU cannot dump container {failed}: {said}. {error}", error.details
            ) from error
        about["archives"] = archives
        return self.remote.call("checkpoint", about=about)

    def _dump(self, about: dict[str, Any], archives: dict[str, str]) -> None:
        passed = self.remote.begin("last_pass", about=about) if about["volumes"] else None
        try:
            for name in about["containers"]:
                archives[name] = self.cluster.checkpoint(
                    self.node, about["namespace"], about["pod"], name
                )
        finally:
            if passed is not None:
                passed()

    def _resume(self, about: dict[str, Any]) -> bool:
        """Let the source go on; whether it had to be brought back from its checkpoint."""
        if not about["keeps_name"]:
            self.remote.call("resume", about=about)
            return False
        return self._hand_over(about).back(
            self.remote,
            lambda told, operation, code, failed: self._wait(
                told, operation, RESTORE_LIMIT, code, failed
            ),
        )

    def _restore(self, about: dict[str, Any]) -> None:
        if about["keeps_name"]:
            source = self._remotes[about["manifest"]["spec"]["nodeName"]]
            self._hand_over(about).to_copy(source)
            self._wait(about, "asked", WARM_LIMIT, "restore_failed", "made no sandbox for")
        self.remote.call("restore", about=about)
        self._wait(
            about, "restored", RESTORE_LIMIT, code="restore_failed", failed="did not restore"
        )

    # -- the end

    def _remove(self, about: dict[str, Any], endpoint: dict[str, str]) -> None:
        """The source is not needed any more: the copy takes over its place in the cluster."""
        self._remotes[about["copy_node"]].call("settle", about=about)
        if about["keeps_name"]:
            self._hand_over(about).name.free()
        else:
            self._take_over(about)
        old = addresses_of(endpoint)
        if about["copy_addresses"] == old:
            self.remote.call("keep_addresses", addresses=old)
        self.cluster.delete_pod(about["namespace"], about["pod"], about["uid"])
        end = {**about, "remove_uid": about["uid"]}
        self.remote.call("remove", about=end, endpoint=endpoint)
        if about["copy_addresses"] != old:
            for remote in self._remotes.values():  # wherever it has been with them
                remote.call("free_addresses", addresses=old)

    def _take_over(self, about: dict[str, Any]) -> None:
        """Give the copy the labels of the source, and its controller, which then has one too many.

        A ReplicaSet deletes pods that are not ready first, and then those that cost least: so the
        copy must be ready, and the source the cheapest.
        """
        source = about["manifest"]
        label = label_of(first_name(source))
        labels = {**source["metadata"].get("labels", {}), WORKLOAD_LABEL: label}
        # A sandbox that is made anew some day is to have the address that the switch leads to.
        address = {ADDRESS_ANNOTATION: ",".join(about["copy_addresses"])}
        metadata: dict[str, Any] = {"labels": labels, "annotations": address}
        owner = controller_of(source)
        if owner:
            self._wait_until_ready(about)
            metadata["ownerReferences"] = [owner]
            if self.cluster.get_pod(about["namespace"], about["pod"]) is not None:
                cheapest = {"metadata": {"annotations": {DELETION_COST: "-2147483648"}}}
                self.cluster.patch_pod(about["namespace"], about["pod"], cheapest)
        self.cluster.patch_pod(about["namespace"], about["copy"], {"metadata": metadata})

    def _wait_until_ready(self, about: dict[str, Any]) -> None:
        deadline = time.monotonic() + READY_LIMIT
        while True:
            pod = self.cluster.get_pod(about["namespace"], about["copy"]) or {}
            conditions = pod.get("status", {}).get("conditions", [])
            if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
                return
            if time.monotonic() > deadline:
                raise FlowferryError(
                    "not_running",
                    f"the copy {about['namespace']}/{about['copy']} serves, but after "
                    f"{READY_LIMIT:g} s is not ready; `kubectl describe pod` says why",
                )
            time.sleep(0.1)

    def _discard(self, about: dict[str, Any], endpoint: dict[str, str], **others: Any) -> None:
        """The copy is given up. On its node it ends even if the API server cannot be told."""
        untold: FlowferryError | None = None
        try:
            self._delete_copy(about)
            if about["keeps_name"] and not self._hand_over(about).may_have_begun:
                self._hand_over(about).name.free()
        except FlowferryError as error:
            untold = error
        end = {**about, "remove_uid": about.get("copy_uid", "")}
        self.remote.call("discard", about=end, endpoint=endpoint, **others)
        if untold is not None:
            raise untold

    def _delete_copy(self, about: dict[str, Any]) -> None:
        """The pod that this move has made, and not another one that got its name meanwhile."""
        if "copy_uid" not in about:  # not made, or the answer was lost
            found = self.cluster.get_pod(about["namespace"], about["copy"]) or {}
            metadata = found.get("metadata", {})
            if found.get("spec", {}).get("nodeName") != self.node:  # the source, by this name too
                return
            if metadata.get("annotations", {}).get(SOURCE_ANNOTATION) != about["uid"]:
                return
            about["copy_uid"] = metadata["uid"]
        self.cluster.delete_pod(about["namespace"], about["copy"], about["copy_uid"])


def _endpoint_of(pod: Pod) -> dict[str, Any]:
    """There is no namespace by name that would have to be made: the runtime makes it."""
    status = pod["status"]
    told = [one["ip"] for one in status.get("podIPs") or [{"ip": status["podIP"]}]]
    addresses = sorted(told, key=lambda address: ip_address(address).version)
    endpoint = {"namespace": f"pod-{pod['metadata']['uid']}", "mac": ""}
    return _with_addresses(endpoint, addresses)


def _has_ipv6(endpoint: dict[str, Any]) -> bool:
    return any(":" in address for address in addresses_of(endpoint))


def _with_addresses(endpoint: dict[str, Any], addresses: Sequence[str]) -> dict[str, Any]:
    return {**endpoint, "address": addresses[0], "others": list(addresses[1:])}


def _containers(pod: Pod, found: dict[str, Any]) -> dict[str, Any]:
    """What is known of each container, from the API and from the node."""
    # A restored container shows another image than it was made of at first.
    kept = json.loads(pod["metadata"].get("annotations", {}).get(IMAGES_ANNOTATION, "{}"))
    images = {one["name"]: one["image"] for one in lasting_containers(pod["spec"])}
    containers = {}
    for status in lasting_statuses(pod):
        name = status["name"]
        reference = kept.get(name, {}).get("reference") or status["imageID"]
        if name not in found:
            raise FlowferryError(
                "not_running",
                f"container {name} of {pod['metadata']['name']} is unknown to its node's runtime",
            )
        if "@sha256:" not in reference:
            raise FlowferryError(
                "no_image",
                f"the image of container {name} has no digest in a registry ({reference}); a "
                "restore needs one: let the kubelet pull it from a registry",
            )
        containers[name] = {
            **found[name],
            "image": kept.get(name, {}).get("image") or images[name],
            "image_ref": reference,
            "names": [images[name], status["imageID"]],
        }
    return containers


def _images_of(about: dict[str, Any]) -> dict[str, str]:
    """Those that the containers were made of."""
    return {name: one["image_ref"] for name, one in about["containers"].items()}


def copy_of(about: dict[str, Any], node: str, addresses: Sequence[str]) -> Pod:
    """The manifest of the copy: the source's, on the other node, made from checkpoints."""
    source = about["manifest"]
    spec = copy.deepcopy(source["spec"])
    spec["nodeName"] = node
    # The container's own name for its host is part of what was dumped.
    spec.setdefault("hostname", source["metadata"]["name"])
    for gone in ("ephemeralContainers", "nodeSelector", "affinity"):
        spec.pop(gone, None)
    # The others have ended, and do their work once.
    spec["initContainers"] = [
        one for one in spec.get("initContainers", []) if one.get("restartPolicy")
    ]
    for container in lasting_containers(spec):
        container["image"] = about["images"][container["name"]]
        container["imagePullPolicy"] = "IfNotPresent"
    original = {
        name: {"image": one["image"], "reference": one["image_ref"]}
        for name, one in about["containers"].items()
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": about["copy"],
            "namespace": about["namespace"],
            **_belonging(about),
            "annotations": {
                **_own_annotations(source),
                **({ADDRESS_ANNOTATION: ",".join(addresses)} if addresses else {}),
                SOURCE_ANNOTATION: about["uid"],
                IMAGES_ANNOTATION: json.dumps(original, sort_keys=True),
            },
        },
        "spec": spec,
    }


def _belonging(about: dict[str, Any]) -> dict[str, Any]:
    """What makes the copy one of its controller's pods.

    A controller that counts pods would end one of two, so there it comes after the commit.
    """
    source = about["manifest"]
    if about["keeps_name"]:
        metadata = source["metadata"]
        return {key: metadata[key] for key in ("labels", "ownerReferences") if key in metadata}
    return {"labels": {} if controller_of(source) else _own_labels(source)}


def _own_labels(source: Pod) -> dict[str, str]:
    labels = source["metadata"].get("labels", {})
    return {key: value for key, value in labels.items() if key != WORKLOAD_LABEL}


def _own_annotations(source: Pod) -> dict[str, str]:
    annotations = source["metadata"].get("annotations", {})
    not_its_own = (DELETION_COST, ADDRESS_ANNOTATION)
    return {key: value for key, value in annotations.items() if key not in not_its_own}
