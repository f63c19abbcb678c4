# SPDX-License-Identifier: Apache-2.0
"""What a node's containerd knows of a pod: its containers, their processes, its images."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..cgroup import Freezer
from ..commands import run
from ..errors import FlowferryError
from ..oci.blobs import Blob, Image, architecture
from ..oci.marked import with_mark
from ..oci.server import ImageServer
from .base import CHECKPOINT_REPOSITORY, About, Container, ContainerRuntime, named_by_kubelet

BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
REGISTRIES = Path("/etc/containerd/certs.d")
_ANNOTATION = "io.kubernetes.cri."
_CTR = ["ctr", "--namespace", "k8s.io"]
# States of a task, as `ctr tasks list` has them.
_PAUSED = (["PAUSED"], ["PAUSING"])
# containerd's shim tells or does something within this time (seconds).
_SHIM_LIMIT = 10.0
# A dump is over within this time (seconds), or the kubelet says why it is not.
DUMP_LIMIT = 20.0


class Containerd(ContainerRuntime):
    """containerd 2.1, by its own client where the CRI does not say enough."""

    name = "containerd"
    program = "containerd"

    def __init__(self, socket: str) -> None:
        super().__init__(socket)
        self._freezing = threading.Lock()
        self._resumed = False

    def require(self) -> None:
        if shutil.which("ctr") is None or not BUNDLES.parent.is_dir():
            raise FlowferryError(
                "runtime_cannot_restore",
                "there is no containerd here; pods are moved between nodes that run containerd "
                "2.1: the role containerd sets it up",
            )
        version = run(["ctr", "--version"]).split()[-1].lstrip("v")
        if version.split(".")[:2] != ["2", "1"]:
            raise FlowferryError(
                "runtime_cannot_restore",
                f"containerd here is {version}; only 2.1 restores a container from a checkpoint "
                "image without an experimental option",
            )

    def containers_of(self, pod_uid: str) -> list[Container]:
        bundles = BUNDLES.iterdir() if BUNDLES.is_dir() else []
        found = [_read(bundle) for bundle in bundles]
        return [one for one in found if one is not None and one.pod_uid == pod_uid]

    def bundle(self, container: Container) -> Path:
        return BUNDLES / container.id

    # -- source

    def prepare_checkpoint(self, containers: list[About]) -> None:
        """containerd checkpoints only while the image that was restored upon has that name.

        Between moves it has not, since new pods would show it as theirs.
        """
        present = images()
        for container in containers:
            if container["made_from"] not in present and container["image_ref"] in present:
                _tag(container["image_ref"], container["made_from"])

    def freeze(self, containers: list[About], steady: bool) -> None:
        """containerd freezes a container itself for the dump, and refuses one that is frozen.

        Only what it has stopped itself may be stopped then. That takes time, so other containers
        are frozen as soon as it has let them go on, long before the kubelet answers.
        """
        self._resumed = False
        if steady:
            self._pause(containers)
            return
        for container in containers:
            threading.Thread(target=self._freeze_after, args=(container,), daemon=True).start()

    def _freeze_after(self, container: About) -> None:
        if not self._wait_for_dump(container, time.monotonic() + DUMP_LIMIT):
            return
        with self._freezing:
            if self._resumed:  # the move was given up while containerd still dumped
                return
            with suppress(FlowferryError):  # the checkpoint tells of a container that has ended
                Freezer(container["freezer"]).freeze()

    def keep_frozen(self, containers: list[About]) -> None:
        for container in containers:
            Freezer(container["freezer"]).freeze()

    def resume(self, containers: list[About]) -> None:
        """What containerd takes for paused is its own to let go, and first; then any frozen one."""
        with self._freezing:
            self._resumed = True
        self.wait_until_written(containers)
        with suppress(FlowferryError):  # without containerd they go on all the same
            self._unpause(containers)
        for container in containers:
            Freezer(container["freezer"]).thaw()

    def _pause(self, containers: list[About]) -> None:
        with ThreadPoolExecutor(len(containers)) as pool:
            for _ in pool.map(lambda one: run([*_CTR, "tasks", "pause", one["id"]]), containers):
                pass

    def _unpause(self, containers: list[About]) -> None:
        """A dump that nobody waits for any more is given up with its container paused.

        containerd pauses each that it dumps, and when the kubelet has ended it does not let it go
        again. A pause or a dump that it has asked for is done to the end all the same; its shim
        tells what it takes a container for, or lets it go, when that is over.
        """
        told = run([*_CTR, "tasks", "list"], timeout=_SHIM_LIMIT).splitlines()[1:]
        paused = {line.split()[0] for line in told if line.split()[2:] in _PAUSED}
        for container in containers:
            if container["id"] in paused:
                run([*_CTR, "tasks", "resume", container["id"]], timeout=_SHIM_LIMIT)

    def dump_mark(self, container: Container) -> str:
        """A file that containerd writes as soon as it has let a dumped container go on."""
        return str(container.directory / "ctrd-checkpoint" / "config.dump")

    def _wait_for_dump(self, container: About, deadline: float) -> bool:
        written = Path(container["dumped"])
        while time.monotonic() < deadline:
            if written.exists():
                return True
            time.sleep(0.001)
        return False

    def is_writing(self, container: About) -> bool:
        """The directory of the dump goes when the archive is complete, or given up."""
        return Path(container["dumped"]).parent.exists()

    def dump_log(self, container: About) -> Path:
        """A copy that containerd makes, as the directory of the dump goes."""
        return BUNDLES / str(container["id"]) / "criu-dump.log"

    # -- destination

    def serve(self, certificates: dict[str, str], port: int = 0) -> ImageServer:
        """Without TLS; containerd reads at each pull which registries are so."""
        server = ImageServer(port)
        directory = REGISTRIES / server.address
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "hosts.toml").write_text(f'server = "http://{server.address}"\n')
        return server

    def distrust(self, address: str) -> None:
        shutil.rmtree(REGISTRIES / address, ignore_errors=True)

    def prepare_base(self, container: str, reference: str, server: ImageServer) -> None:
        """containerd asks NAME@DIGEST of a registry again, even if the image is here."""
        manifest = read_content(images()[reference])
        server.promise(_base_of(container)).keep(Image(manifest, []))
        _tag(reference, self.base_reference(container, server))

    def base_reference(self, container: str, server: ImageServer) -> str:
        base = server.promise(_base_of(container)).kept()
        assert base is not None
        return f"{server.address}/{_base_of(container)}@{Blob.of(base.manifest).digest}"

    # -- images

    def has_image(self, reference: str) -> bool:
        return reference in images()

    def pull(self, reference: str) -> None:
        """What is here by another name is not asked for, of a registry that may be gone."""
        digest = reference.partition("@")[2]
        for name, found in images().items():
            if found == digest:
                _tag(name, reference)
                return
        run(
            [*_CTR, "images", "pull", "--hosts-dir", str(REGISTRIES), reference],
            timeout=120.0,
            code="no_image",
        )

    def original(self, reference: str, mark: str) -> Image:
        manifest = _read_manifest(images()[reference])
        config = json.loads(read_content(manifest["config"]["digest"]))
        return with_mark(manifest, config, mark)

    def checkpoints(self, reference: str, base: str) -> set[str]:
        present = images()
        digest = present.get(reference)
        if digest in (None, present.get(base)):
            return set()
        return {name for name, found in present.items() if found == digest}

    def remove_images(self, names: list[str]) -> None:
        if names:
            run([*_CTR, "images", "remove", *names])

    def forget(self, names: list[str]) -> None:
        """With a name of this project the others of the image go, too: ids of checkpoints."""
        present = images()
        ended = {
            present[name]
            for name in names
            if f"/{CHECKPOINT_REPOSITORY}/" in name and name in present
        }
        self.remove_images(
            sorted(i for i in present if "/flowferry-base/" in i or present[i] in ended)
        )


def _read(bundle: Path) -> Container | None:
    file = bundle / "config.json"
    try:
        about = _about(file, file.stat().st_mtime_ns)
    except (OSError, ValueError):  # it comes, or goes, at this moment
        return None
    try:
        pid = int((bundle / "init.pid").read_text())
    except (OSError, ValueError):
        pid = 0
    return replace(about, pid=pid)


@lru_cache(maxsize=256)
def _about(file: Path, changed: int) -> Container:
    """What does not change until the file does: containers are looked at hundreds of times a second
    while a restore is waited for, on the processors that it needs.
    """
    spec: dict[str, Any] = json.loads(file.read_bytes())
    told = spec.get("annotations") or {}
    name = file.parent.name
    return Container(
        name,
        # The annotation of a restored container is wrong.
        named_by_kubelet(spec) or told.get(f"{_ANNOTATION}container-name", ""),
        told.get(f"{_ANNOTATION}sandbox-uid", ""),
        told.get(f"{_ANNOTATION}container-type") == "sandbox",
        0,
        told.get(f"{_ANNOTATION}image-name", ""),
        _directory(spec) / "containers" / name,
    )


def _directory(spec: dict[str, Any]) -> Path:
    """Where containerd's CRI keeps its files: a pod's host name is one of them."""
    for mount in spec.get("mounts", []):
        if mount.get("destination") == "/etc/hostname":
            return Path(mount["source"]).parents[2]
    return Path("/var/lib/containerd/io.containerd.grpc.v1.cri")


def images() -> dict[str, str]:
    """Digests of the images' manifests by name."""
    found = {}
    for line in run([*_CTR, "images", "list"]).splitlines()[1:]:
        name, _kind, digest = line.split()[:3]
        found[name] = digest
    return found


def read_content(digest: str) -> bytes:
    """A small document of the content store: an index, a manifest or a config."""
    return run([*_CTR, "content", "get", digest]).encode()


def _read_manifest(digest: str) -> dict[str, Any]:
    """The manifest that an image has for this machine; ``digest`` may be that of an index."""
    found: dict[str, Any] = json.loads(read_content(digest))
    for entry in found.get("manifests", []):
        told = entry.get("platform", {})
        if (told.get("os"), told.get("architecture")) == ("linux", architecture()):
            return _read_manifest(entry["digest"])
    return found


def import_archive(archive: Path) -> None:
    """Take the images of an OCI archive into the store, unpacked."""
    run([*_CTR, "images", "import", str(archive)], timeout=120.0)


def _tag(source: str, name: str) -> None:
    """Give an image another name, which may have meant another image before."""
    run([*_CTR, "images", "tag", "--force", source, name])


def _base_of(container: str) -> str:
    return f"flowferry-base/{container}"
