# SPDX-License-Identifier: Apache-2.0
"""Pods of Kubernetes, as far as they are a matter of the node: processes, cgroups, images.

Where a pod is, and what it is to be, the API server knows; nodes hold no credentials for it, so the
keeper asks (plugin_utils/migration/kubernetes.py) and tells the node in ``about``: ``uid`` of the
source pod, ``copy_uid`` of the copy, ``containers``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import endpoint as endpoints
from .. import pod_network
from ..cgroup import ROOT, ChangesOfGroup, Freezer, memory_bytes
from ..checkpoint.archive import rewrite_archive
from ..commands import run
from ..cri.base import CHECKPOINT_REPOSITORY, ContainerRuntime
from ..cri.found import container_runtime
from ..cri.kubelet_process import kubelet_root
from ..criu import check_criu, check_space, complaints
from ..direct.application import look as look_at_application
from ..direct.application import refused as direct_refused
from ..direct.mover import DirectMover
from ..direct.place import PodPlace, collect
from ..door import Door
from ..errors import FlowferryError
from ..oci.checkpoint import build_image
from ..oci.server import ImageServer
from ..shared_memory import check_shared_memory
from ..storage import storage_of
from ..volumes.destination import copied
from ..volumes.empty_dirs import EmptyDirs, found_of
from ..volumes.model import volumes_of
from ..volumes.source import look
from .base import About, Workload

# A killed container is gone within this time (seconds), or something is wrong.
PATIENCE = 20.0
# Who waits longer for a container (seconds) does not notice what changes of group take.
_SOON = 5.0
# Queues of a loopback interface.
_LOSES_ALL, _LOSES_NOTHING = ("pfifo", "limit", "0"), ("noqueue",)


class KubernetesPod(Workload):
    """One pod, by NAMESPACE/NAME."""

    runtime = "pod"
    noun = "pod"
    listing = "kubectl get pods --all-namespaces"
    removal = "kubectl delete pod {name}"
    start = "kubectl apply -f MANIFEST"
    name_pattern = r"[a-z0-9-]+/[a-z0-9.-]+"
    operations = (
        *("inspect", "serve_images", "asked", "restored", "settle"),
        *("retire", "revive", "forget_archives", "storage"),
        *("empty_dirs", "set_aside"),
        "complaints",
        *("inspect_direct", "machine", "make_place", "placed"),
        *("addressing", "copy_addresses", "keep_addresses", "free_addresses", "attachment"),
    )
    is_given_address = True
    # Of the direct method; the archives of the other one are complete when they are to be sent.
    growing_files = ("*/pages-*.img",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._server: ImageServer | None = None
        self._found: ContainerRuntime | None = None
        self._door: Door | None = None
        self._direct = DirectMover(self.title)
        self._empty_dirs = EmptyDirs(self.title, self.file_name)
        self._changes: ChangesOfGroup | None = None

    @property
    def _runtime(self) -> ContainerRuntime:
        """The container runtime of this node."""
        if self._found is None:
            self._found = container_runtime()
        return self._found

    @property
    def file_name(self) -> str:
        return f"{self.runtime}.{self.name.replace('/', '_')}"

    def streams_memory(self, about: About) -> bool:
        return _is_direct(about)

    # -- plan

    def describe(self) -> None:
        """Not known here: the keeper asks the API server."""
        return

    def check_source(self) -> About:
        raise FlowferryError(
            "kubernetes_not_configured",
            f"{self.title} can be found only through the API server; say how to reach it: "
            "-e migration_kubeconfig=FILE",
        )

    def inspect(self, uid: str) -> About:
        """The pod's containers on this node by name, with what is needed to freeze them."""
        self._runtime.require()
        check_criu()
        found: dict[str, Any] = {}
        for container in self._runtime.containers_of(uid):
            if container.is_sandbox or not container.pid:
                continue
            freezer = self._runtime.freezer_of(container)
            if freezer is None:
                raise FlowferryError(
                    "no_freezer",
                    f"container {container.name} of {self.title} is in the root cgroup, which "
                    "cannot be frozen; let the kubelet make cgroups (cgroupDriver: cgroupfs)",
                )
            check_shared_memory(self.title, container.name, freezer.pids())
            self._runtime.check_restorable(container)
            found[container.name] = {
                "id": container.id,
                "freezer": str(freezer.path),
                "made_from": container.image,
                "container_runtime": self._runtime.name,
                "dumped": self._runtime.dump_mark(container),
                "memory_bytes": memory_bytes(container.pid),
                # Where its kubelet writes, which may have ended when that is asked again.
                "archives": f"{kubelet_root()}/checkpoints",
            }
        return found

    def inspect_direct(self, uid: str) -> About:
        """What a direct move has to know of each container; FlowferryError if it is impossible."""
        found = {}
        for container in self._runtime.containers_of(uid):
            if container.is_sandbox or not container.pid:
                continue
            freezer = self._runtime.freezer_of(container)
            if freezer is None:
                raise direct_refused(f"container {container.name} is in the root cgroup")
            title = f"container {container.name} of {self.title}"
            arguments = self._runtime.spec(container)["process"]["args"]
            try:
                found[container.name] = look_at_application(
                    title, container.pid, arguments, freezer.pids
                )
            except FlowferryError as error:
                raise direct_refused(f"container {container.name}: {error}") from error
        return found

    def machine(self) -> str:
        """What this node's programs are made for."""
        return os.uname().machine

    def check_destination(self, about: About, directory: Path) -> None:
        if _is_direct(about):
            self.check_node()
            if not (ROOT / "freezer" / "cgroup.procs").exists():
                raise direct_refused(
                    f"the destination has no {ROOT}/freezer, which has to be mounted"
                )
            self.check_room(about, directory)
            return
        self._runtime.require()
        for container in about["containers"].values():
            if container["container_runtime"] != self._runtime.name:
                raise FlowferryError(
                    "runtimes_differ",
                    f"{self.title} runs in {container['container_runtime']}, and this node has "
                    f"{self._runtime.name}: neither restores what the other has dumped",
                )
        check_criu()
        check_space(about["memory_bytes"], directory, kubelet_root())

    def network(self, about: About) -> Path:
        """That of a container; the one of the pod has no name here."""
        for container in about["containers"].values():
            for pid in Freezer(container["freezer"]).pids():
                return Path(f"/proc/{pid}/ns/net")
        raise FlowferryError("not_running", f"{self.title} has ended by itself")

    def storage(self, paths: list[str]) -> dict[str, Any]:
        """What tells whether another node has the same at these paths."""
        return {path: storage_of(path) for path in paths}

    def empty_dirs(self, uid: str, volumes: list[dict[str, Any]]) -> list[About]:
        """The emptyDir volumes of the pod on this node, as the plan has volumes."""
        return [volume.as_dict() for volume in look(found_of(uid, volumes))]

    def volume_place(self) -> EmptyDirs:
        return self._empty_dirs

    def pids(self, about: About) -> list[int]:
        freezers = [Freezer(one["freezer"]) for one in about["containers"].values()]
        return [pid for freezer in freezers for pid in freezer.pids()]

    def addressing(self, address: str = "") -> dict[str, Any]:
        """How this node gives addresses to pods, and which sandbox here has this one."""
        owner = pod_network.owner(address) if address else ""
        return {**pod_network.settings(), "owner": owner}

    # -- prepare

    def prepare_source(self, about: About) -> None:
        if _is_direct(about):
            self._direct.prepare_source(about, self.memory_sender)
        else:
            self._remove_archives(about)
            self._runtime.prepare_checkpoint(list(about["containers"].values()))
        self._door_of(about).prepare()

    def _door_of(self, about: About) -> Door:
        """Where the kubelet's probes come in."""
        if self._door is None:
            self._door = Door(self.network(about))
        return self._door

    def prepare_destination(self, about: About, endpoint: endpoints.Endpoint) -> None:
        """Have the images that the containers were made of, and serve the checkpoints to come."""
        if _is_direct(about):
            PodPlace(about["place"]).belongs_to(about["copy_uid"])
            self._empty_dirs.come_into(about["copy_uid"])
            found = self._runtime.containers_of(about["copy_uid"])
            self._direct.prepare_destination(about, found, self.memory_receiver)
            return
        self._server = self._runtime.serve(self.certificates)
        for name, container in about["containers"].items():
            self._server.promise(_checkpoint_of(name))
            if not self._runtime.has_image(container["image_ref"]):
                self._runtime.pull(container["image_ref"])
            self._runtime.prepare_base(name, container["image_ref"], self._server)

    def make_place(self, about: About, program: str) -> None:
        """Before the pod of a direct copy is made: what its containers begin with."""
        PodPlace(about["place"]).make(sorted(about["containers"]), program)

    def placed(self, about: About) -> bool:
        """Whether the placeholder of every container runs; waits a little for it."""
        return self._are_running(about)

    def serve_images(self, about: About) -> dict[str, str]:
        """The image that each container of the copy is to be made of."""
        return {
            name: f"{self._images.address}/{_checkpoint_of(name)}:restore"
            for name in about["containers"]
        }

    def asked(self, about: About) -> bool:
        """Whether the runtime waits for an image of the copy: its sandbox is warm.

        It is one at a time: the next container's is asked for when the one before has started.
        """
        promises = [self._images.promise(_checkpoint_of(name)) for name in about["containers"]]
        deadline = time.monotonic() + 0.2
        while not any(promise.asked.is_set() for promise in promises):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def copy_addresses(self, about: About) -> list[str]:
        """What the copy's sandbox got."""
        return pod_network.addresses_of(about["copy_uid"])

    def attachment(self, uid: str) -> About:
        """A pod's port at the switch of this node, and its link address; empty without a switch."""
        return pod_network.attachment_of(uid)

    @property
    def _images(self) -> ImageServer:
        if self._server is None:
            raise FlowferryError("helper_lost", "this helper has not prepared the destination")
        return self._server

    # -- source

    def freeze(self, about: About) -> None:
        """Each runtime dumps only what it does not take for frozen, in a way of its own.

        The kubelet's probes do not come by the switch, so no hold keeps them from connecting.
        """
        self._door_of(about).close()
        if _is_direct(about):
            self._direct.freeze(about)
            return
        self._runtime.freeze(list(about["containers"].values()), about["steady"])

    def checkpoint(self, about: About, directory: Path) -> None:
        """The kubelet has written the archives; they are sent from where they are."""
        if _is_direct(about):
            self._direct.checkpoint(about, directory)
            return
        self._runtime.keep_frozen(list(about["containers"].values()))
        for name, archive in about["archives"].items():
            (directory / f"{name}.tar").symlink_to(archive)

    def complaints(self, about: About, container: str) -> str:
        """What CRIU has said about a dump that failed; empty if there is no log of it."""
        return complaints(self._runtime.dump_log(about["containers"][container]))

    def resume(self, about: About) -> None:
        if _is_direct(about):
            self._direct.resume(about)
            self._open_door(about)
            return
        self.volume_place().put_back(copied(volumes_of(about)))
        self._runtime.resume(list(about["containers"].values()))
        self._open_door(about)
        self._remove_archives(about)
        self._runtime.forget([])

    def _open_door(self, about: About) -> None:
        with suppress(FlowferryError):  # it has ended by itself, and its network with it
            self._door_of(about).open()

    # -- destination

    def rewrite(self, about: About, directory: Path, addresses: dict[str, str]) -> None:
        if _is_direct(about):
            super().rewrite(about, directory, addresses)
            return
        for name in about["containers"]:
            rewrite_archive(directory / f"{name}.tar", addresses, in_place=True)

    def restore(self, about: About, directory: Path) -> None:
        """Give the waiting runtime its images; restored() tells when the containers run."""
        if _is_direct(about):
            with self._quiet_loopback(about):
                self._direct.restore(about, directory, PodPlace(about["place"]))
            return
        self._fill_empty_dirs(about)
        archives = {name: directory / f"{name}.tar" for name in about["containers"]}
        self._keep_promises(about, archives)

    def _fill_empty_dirs(self, about: About) -> None:
        if volumes := copied(volumes_of(about)):
            self.volume_place().move_in(volumes, about["copy_uid"])

    def _keep_promises(self, about: About, archives: dict[str, Path]) -> None:
        self._changes = ChangesOfGroup(_SOON)  # by the container runtime
        if len(archives) > 1:
            self._loopback(about, _LOSES_ALL)
        for name, archive in archives.items():
            reference = self._runtime.base_reference(name, self._images)
            image = build_image(archive, name, reference)
            self._images.promise(_checkpoint_of(name)).keep(image)

    @contextmanager
    def _quiet_loopback(self, about: About) -> Iterator[None]:
        """While containers are restored; of one alone everything wakes up together."""
        if len(about["containers"]) == 1:
            yield
            return
        self._loopback(about, _LOSES_ALL)
        try:
            yield
        finally:
            self._loopback(about, _LOSES_NOTHING)

    def _loopback(self, about: About, queue: tuple[str, ...]) -> None:
        """Change the queue of the loopback interface in the copy's network.

        Containers are restored one after another. Whoever is there first asks its peer, as TCP does
        after a restore, and would be told that there is no such connection. A queue that nothing
        fits into loses that, and TCP sends it again when all are there.
        """
        network = f"--net={pod_network.namespace_of(about['copy_uid'])}"
        run(["nsenter", network, "tc", "qdisc", "replace", "dev", "lo", "root", *queue])

    def restored(self, about: About) -> bool:
        """Whether every container of the copy runs; waits a little for it."""
        if not self._are_running(about):
            return False
        if len(about["containers"]) > 1:
            self._loopback(about, _LOSES_NOTHING)
        if self._changes:
            self._changes.end()
        return True

    def _are_running(self, about: About) -> bool:
        """Whether all containers of the copy do; waits a little for it."""
        deadline = time.monotonic() + 0.25
        while True:
            found = self._runtime.containers_of(about["copy_uid"])
            running = {one.name for one in found if one.lives and not one.is_sandbox}
            if running >= set(about["containers"]):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)

    def settle(self, about: About) -> None:
        """After the commit: a container that is started again must not come back as it was.

        The kubelet starts it from the image that the pod names, which is the checkpoint. From now
        on that name means the image that the container was made of at first, under another id: of
        the id that it knows, the kubelet may not believe that it goes by this name.
        """
        if _is_direct(about):
            self._direct.tidy()
            pod_network.claim(about["copy_addresses"])
            return
        checkpoints = self._checkpoint_images(about)
        for name, container in about["containers"].items():
            reference = about["images"][name]
            if reference in checkpoints:
                server = self._server_at(reference)
                server.promises.pop(_checkpoint_of(name), None)
                original = self._runtime.original(container["image_ref"], about["copy_uid"])
                server.promise(_checkpoint_of(name)).keep(original)
                self._runtime.pull(reference)
        self._runtime.remove_images(sorted(checkpoints - set(about["images"].values())))
        self._runtime.forget([])
        pod_network.claim(about["copy_addresses"])
        self._end_serving(about)

    def _server_at(self, reference: str) -> ImageServer:
        """The server that an image is named after; a new one when that helper is gone."""
        if self._server is None:
            port = int(reference.partition("/")[0].rpartition(":")[2])
            self._server = self._runtime.serve(self.certificates, port)
        return self._server

    def _checkpoint_images(self, about: About) -> set[str]:
        """Names of this move's checkpoints."""
        found: set[str] = set()
        for name, reference in about.get("images", {}).items():
            found |= self._runtime.checkpoints(reference, about["containers"][name]["image_ref"])
        return found

    # -- a source whose pod is deleted before the commit, since the copy needs its name

    def set_aside(self, about: About) -> None:
        """Before it is deleted: have its emptyDir volumes wait, which go with it."""
        if volumes := copied(volumes_of(about)):
            self.volume_place().set_aside(volumes, about["uid"])

    def retire(self, about: About) -> None:
        """End its processes and its network, and keep its checkpoint; nobody hears it end."""
        endpoint = endpoints.Endpoint(**about["endpoint"])
        pod_network.cut_cable(endpoint.address)
        pod_network.keep_reserved(endpoint.addresses)
        self._end_pod(about["uid"])
        self._runtime.clear(list(about["containers"].values()))

    def revive(self, about: About) -> None:
        """restore(), on the source, from the checkpoint where the kubelet has written it."""
        volumes = copied(volumes_of(about))
        if volumes and not self.volume_place().are_set_aside(volumes):
            raise FlowferryError(
                "resume_failed",
                f"{self.title} was deleted by somebody else while it was moved, and with it what "
                "was in its emptyDir volumes; it cannot be brought back without that",
            )
        self._fill_empty_dirs(about)
        archives = {name: Path(path) for name, path in about["archives"].items()}
        self._keep_promises(about, archives)

    def forget_archives(self, about: About) -> None:
        self._remove_archives(about)

    # -- either

    def keep_addresses(self, addresses: list[str]) -> None:
        """The pod has moved away with its addresses."""
        pod_network.keep_reserved(addresses)

    def free_addresses(self, addresses: list[str]) -> None:
        """A pod that had moved away with these addresses has others now."""
        pod_network.free(addresses)

    def remove(self, about: About, endpoint: endpoints.Endpoint) -> None:
        """End what the pod ``about["remove_uid"]`` has on this node; the cable goes first.

        The pod itself the keeper has deleted already, so that the kubelet starts nothing again.
        """
        if _is_direct(about):
            self._remove_direct(about, endpoint)
            return
        self._close_server()
        uid = about["remove_uid"]
        if endpoint.address:
            pod_network.cut_cable(endpoint.address)
        self._remove_archives(about)
        self._end_pod(uid)
        if uid == about["uid"]:
            self._runtime.clear(list(about["containers"].values()))
            names = [name for one in about["containers"].values() for name in one["names"]]
            self.volume_place().discard(volumes_of(about))
        else:
            names = list(about.get("images", {}).values())
            self._end_serving(about)
        self._runtime.forget(names)

    def _remove_direct(self, about: About, endpoint: endpoints.Endpoint) -> None:
        uid = about["remove_uid"]
        is_source = uid == about["uid"]
        if endpoint.address:
            pod_network.cut_cable(endpoint.address)
        self._direct.end()
        self._end_pod(uid)
        place = about["source_place"] if is_source else about.get("place", "")
        if place:
            PodPlace(place).remove()
        collect()

    def _end_serving(self, about: About) -> None:
        """Of this helper, and of one that has died."""
        self._close_server()
        for reference in about.get("images", {}).values():
            self._runtime.distrust(reference.partition("/")[0])

    def _end_pod(self, uid: str) -> None:
        if self._door is not None:
            self._door.forget()
            self._door = None
        deadline = time.monotonic() + PATIENCE
        while pids := self._end_containers(uid):
            if time.monotonic() > deadline:
                raise FlowferryError(
                    "discard_failed", f"processes of {self.title} do not end: {sorted(pids)}"
                )
            time.sleep(0.01)

    def _close_server(self) -> None:
        if self._server is not None:
            self._runtime.distrust(self._server.address)
            self._server.close()
            self._server = None

    def _end_containers(self, uid: str) -> set[int]:
        """Kill what there is; the processes that were still there."""
        found: set[int] = set()
        for container in self._runtime.containers_of(uid) if uid else []:
            freezer = self._runtime.freezer_of(container) if container.pid else None
            if freezer is not None and not container.is_sandbox:
                found.update(freezer.pids())
                freezer.kill()
        return found

    def _remove_archives(self, about: About) -> None:
        """The kubelet never removes a checkpoint, and a second one within a second is mixed in."""
        pattern = f"checkpoint-{about['pod']}_{about['namespace']}-*.tar"
        for directory in {one["archives"] for one in about["containers"].values()}:
            for archive in Path(directory).glob(pattern):
                archive.unlink()


def _is_direct(about: About) -> bool:
    """Whether it moves without kubelet and images: direct/."""
    return bool(about.get("method") == "direct")


def _checkpoint_of(container: str) -> str:
    return f"{CHECKPOINT_REPOSITORY}/{container}"
