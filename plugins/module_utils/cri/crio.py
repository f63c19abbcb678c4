# SPDX-License-Identifier: Apache-2.0
"""What a node's CRI-O knows of a pod: its containers, their processes, its images.

Beside the CRI, on the same socket, CRI-O tells its settings over HTTP. Containers and images lie
in files that every program on containers/storage reads; what changes images goes through crictl,
so that it is CRI-O that does it, with its own registries, passwords and policy.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import socket
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ..cgroup import Freezer
from ..commands import run
from ..errors import FlowferryError
from ..oci.blobs import Image
from ..oci.checkpoint import CRIO_ANNOTATION
from ..oci.marked import with_mark
from ..oci.server import LOOPBACK, ImageServer
from ..transfer import tls_context
from .base import CHECKPOINT_REPOSITORY, About, Container, ContainerRuntime, named_by_kubelet
from .kubelet_process import kubelet_root
from .standstill import Standstill, container_freezer

REGISTRIES = Path("/etc/containers/certs.d")
_ANNOTATION = "io.kubernetes.cri-o."
# CRI-O takes what is mounted there for its own, when it restores, and leaves a pod's volumes out.
_NOT_MOUNTED = {
    *("/dev/shm", "/dev/mqueue", "/run/secrets"),
    *("/etc/resolv.conf", "/etc/hostname", "/etc/passwd", "/etc/group"),
}
# The kubelet removes the containers of a pod that was deleted within this time (seconds): at once,
# but after an outage of the API server it may be half a minute before it hears of anything.
REMOVAL_LIMIT = 50.0


class Crio(ContainerRuntime):
    """CRI-O, by its socket."""

    name = "CRI-O"
    program = "crio"

    def __init__(self, socket_path: str) -> None:
        super().__init__(socket_path)
        self._known: dict[str, Container] = {}
        self._bases: dict[str, str] = {}
        self._standstills: dict[str, Standstill] = {}

    # -- plan

    def require(self) -> None:
        level = self._setting("container_level_enabled")
        if level is None and self._setting("enable_criu_support") == "true":
            level = "checkpoint_restore"
        if level != "checkpoint_restore":
            raise FlowferryError(
                "runtime_cannot_restore",
                f"CRI-O here has container_level_enabled = {level or 'nothing'} in its "
                "[crio.checkpoint_restore], so that it restores no container; set it to "
                "checkpoint_restore, with criu on CRI-O's PATH: the role crio",
            )
        if shutil.which("crictl") is None:
            raise FlowferryError(
                "runtime_cannot_restore",
                "there is no crictl here, by which images are fetched and removed: install it",
            )

    def containers_of(self, pod_uid: str) -> list[Container]:
        found = []
        for bundle in self._bundles.glob("*/userdata"):
            container = self._read(bundle)
            if container is not None and container.pod_uid == pod_uid:
                found.append(container)
        return found

    @cached_property
    def _bundles(self) -> Path:
        return Path(f"{self._setting('runroot')}/{self._setting('storage_driver')}-containers")

    def _read(self, bundle: Path) -> Container | None:
        """What never changes is read once: this is asked for while clients wait."""
        identity = bundle.parent.name
        if identity not in self._known:
            try:
                spec: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
            except (OSError, ValueError):  # it comes, or goes, at this moment
                return None
            self._known[identity] = _container(identity, spec, bundle)
        known = self._known[identity]
        return Container(**{**vars(known), "pid": _pid(bundle, identity)})

    def bundle(self, container: Container) -> Path:
        return container.directory

    def check_restorable(self, container: Container) -> None:
        self._check_mounts(container)
        self._check_command(container)

    def _check_mounts(self, container: Container) -> None:
        """What CRI-O would not mount again, its own files being there of another sandbox."""
        own = f"/{self._setting('storage_driver')}-containers/"
        for mount in self.spec(container).get("mounts", []):
            source, at = str(mount.get("source", "")), mount["destination"]
            if at in _NOT_MOUNTED and source.startswith("/") and own not in source and source != at:
                raise FlowferryError(
                    "runtime_cannot_restore",
                    f"container {container.name} has a volume of its pod at {at}, which CRI-O does "
                    "not mount in a restored container; mount it elsewhere",
                )

    def _check_command(self, container: Container) -> None:
        """CRI-O makes a copy without the pod's own command, and refuses an image that has none."""
        for image in self._images():
            if container.image in {image["id"], *image["repoTags"], *image["repoDigests"]}:
                digest = self._manifest(image["id"])["config"]["digest"]
                told = self._stored(image["id"], digest).get("config") or {}
                if not (told.get("Entrypoint") or told.get("Cmd")):
                    raise FlowferryError(
                        "runtime_cannot_restore",
                        f"the image of container {container.name} has neither an ENTRYPOINT nor a "
                        "CMD, and CRI-O restores no container of such an image, though the pod "
                        "names a command; give the image one, and make the pod anew",
                    )

    # -- source

    def dump_mark(self, container: Container) -> str:
        """The archive, which CRI-O begins when the dump is over; CRIU itself lets go before."""
        told = _labels(self.spec(container))
        pod = f"{told['io.kubernetes.pod.name']}_{told['io.kubernetes.pod.namespace']}"
        # With a date: one container's name may begin as another's does.
        digit = "[0-9]"
        date = f"{digit * 4}-{digit * 2}-{digit * 2}T*"
        return f"{kubelet_root()}/checkpoints/checkpoint-{pod}-{container.name}-{date}.tar"

    def freezer_of(self, container: Container) -> Freezer | None:
        return container_freezer(super().freezer_of(container))

    def prepare_checkpoint(self, containers: list[About]) -> None:
        for container in containers:
            self._standstill(container).enter()

    def freeze(self, containers: list[About], steady: bool) -> None:
        """As it costs no time, every container stands still before the first dump."""
        for container in containers:
            self._standstill(container).begin()

    def keep_frozen(self, containers: list[About]) -> None:
        for container in containers:
            self._standstill(container).keep()

    def resume(self, containers: list[About]) -> None:
        self.wait_until_written(containers)
        for container in containers:
            self._tell_of_resumption(container)
            self._standstill(container).give_up()
            Freezer(container["freezer"]).thaw()
        for container in containers:
            self._standstill(container).leave()

    def clear(self, containers: list[About]) -> None:
        for container in containers:
            self._standstill(container).clear()

    def is_writing(self, container: About) -> bool:
        """CRIU's images are there until the archive is complete, or given up."""
        try:
            return (self._work_of(container) / "checkpoint").exists()
        except FlowferryError:  # a CRI-O that has ended writes nothing
            return False

    def dump_log(self, container: About) -> Path:
        return self._work_of(container) / "dump.log"

    def _work_of(self, container: About) -> Path:
        """Where CRI-O has a container dumped to."""
        root, driver = self._setting("root"), self._setting("storage_driver")
        return Path(f"{root}/{driver}-containers/{container['id']}/userdata")

    def _standstill(self, container: About) -> Standstill:
        identity = container["id"]
        if identity not in self._standstills:
            made = Standstill(container["freezer"], container["dumped"])
            self._standstills[identity] = made
        return self._standstills[identity]

    def _tell_of_resumption(self, container: About) -> None:
        """CRI-O may have seen that it is frozen, and would dump nothing that is.

        It refuses what it has not seen so, which is right; the group is thawed in any case.
        """
        with suppress(OSError, http.client.HTTPException):
            self._ask(f"/unpause/{container['id']}")

    # -- destination

    def serve(self, certificates: dict[str, str], port: int = 0) -> ImageServer:
        """CRI-O reads a registry's certificates at each pull, and which are plain only at a start.

        So this one speaks TLS, to nobody but CRI-O.
        """
        server = ImageServer(port, tls_context(certificates, server=True))
        directory = REGISTRIES / server.address
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        for name, part in (("ca.crt", "ca"), ("client.cert", "certificate"), ("client.key", "key")):
            path = directory / name
            path.touch(mode=0o600)
            path.write_text(certificates[part])
        return server

    def distrust(self, address: str) -> None:
        shutil.rmtree(REGISTRIES / address, ignore_errors=True)

    def prepare_base(self, container: str, reference: str, server: ImageServer) -> None:
        """A checkpoint names its image by the id, which a marked one does not share."""
        self._bases[container] = self._image(reference)["id"]

    def base_reference(self, container: str, server: ImageServer) -> str:
        return self._bases[container]

    # -- images

    def has_image(self, reference: str) -> bool:
        return bool(self._images(reference))

    def pull(self, reference: str) -> None:
        self._crictl("pull", reference, code="no_image")

    def original(self, reference: str, mark: str) -> Image:
        identity = self._image(reference)["id"]
        manifest = self._manifest(identity)
        config = self._stored(identity, manifest["config"]["digest"])
        return with_mark(manifest, config, mark)

    def checkpoints(self, reference: str, base: str) -> set[str]:
        found = [image["id"] for image in self._images(reference) if self._is_checkpoint(image)]
        return {*found, reference} if found else set()

    def _is_checkpoint(self, image: dict[str, Any]) -> bool:
        return CRIO_ANNOTATION in (self._manifest(image["id"]).get("annotations") or {})

    def remove_images(self, names: list[str]) -> None:
        found, images = [], []
        for image in self._images():
            goes_by = {image["id"], *image["repoTags"]} & set(names)
            found += sorted(goes_by)
            images += [image["id"]] if goes_by else []
        if found:
            self._wait_until_unused(images)
            self._crictl("rmi", *found)

    def forget(self, names: list[str]) -> None:
        """Checkpoints whose name means another image by now have none, but are still there."""
        ours = [name for name in names if f"/{CHECKPOINT_REPOSITORY}/" in name]
        for image in self._images():
            # Of the name that it had, CRI-O tells only the host.
            was_served_here = any(one.startswith(f"{LOOPBACK}@") for one in image["repoDigests"])
            if not image["repoTags"] and was_served_here and self._is_checkpoint(image):
                ours.append(image["id"])
        self.remove_images(ours)

    def _images(self, reference: str = "") -> list[dict[str, Any]]:
        """All images, or the one of this name if it is here."""
        listed = json.loads(
            self._crictl("images", "-o", "json", *([reference] if reference else []))
        )
        found: list[dict[str, Any]] = listed.get("images") or []
        return found

    def _image(self, reference: str) -> dict[str, Any]:
        found = self._images(reference)
        if not found:
            raise FlowferryError("no_image", f"CRI-O has no image {reference} any more")
        return found[0]

    def _wait_until_unused(self, images: list[str]) -> None:
        """CRI-O removes no image that a container is made of, though that has ended."""
        listed = Path(f"{self._setting('root')}/{self._setting('storage_driver')}-containers")
        deadline = time.monotonic() + REMOVAL_LIMIT
        while time.monotonic() < deadline:
            made_from = {
                container.get("image")
                for file in listed.glob("*containers.json")
                for container in json.loads(file.read_bytes() or b"[]")
            }
            if not made_from & set(images):
                return
            time.sleep(0.05)

    def _manifest(self, identity: str) -> dict[str, Any]:
        return self._stored(identity, "manifest")

    def _stored(self, identity: str, name: str) -> dict[str, Any]:
        """A document of an image, from where containers/storage keeps it."""
        root = self._setting("imagestore") or self._setting("root")
        directory = Path(f"{root}/{self._setting('storage_driver')}-images") / identity
        if not re.fullmatch(r"[a-z0-9.]+", name):
            name = "=" + base64.b64encode(name.encode()).decode()
        found: dict[str, Any] = json.loads((directory / name).read_bytes())
        return found

    # -- CRI-O itself

    def _crictl(self, *command: str, code: str = "command_failed") -> str:
        endpoint = f"unix://{self.socket}"
        endpoints = ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint]
        return run(["crictl", *endpoints, "--timeout", "120s", *command], timeout=130.0, code=code)

    def sandbox_image(self) -> str:
        """What a pod's sandbox runs."""
        return self._setting("pause_image") or ""

    def _setting(self, name: str) -> str | None:
        """One of the settings that CRI-O runs with; None when this version has no such one."""
        found = re.search(rf'^\s*{name}\s*=\s*"?([^"\n]*)"?\s*$', self._settings, re.MULTILINE)
        return found[1] if found else None

    @cached_property
    def _settings(self) -> str:
        try:
            return self._ask("/config")
        except (OSError, http.client.HTTPException) as error:
            raise FlowferryError(
                "runtime_cannot_restore", f"CRI-O does not answer at {self.socket}: {error}"
            ) from error

    def _ask(self, path: str) -> str:
        """What CRI-O answers beside the CRI; nothing if it refuses."""
        connection = _Local(self.socket)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return text if answer.status == 200 else ""


class _Local(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__(host="localhost", timeout=10.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _labels(spec: dict[str, Any]) -> dict[str, str]:
    """As the kubelet has given them; the other annotations of a restored container are old."""
    found: dict[str, str] = json.loads(spec["annotations"].get(f"{_ANNOTATION}Labels", "{}"))
    return found


def _container(identity: str, spec: dict[str, Any], bundle: Path) -> Container:
    told, labels = spec["annotations"], _labels(spec)
    return Container(
        identity,
        named_by_kubelet(spec) or labels.get("io.kubernetes.container.name", ""),
        labels.get("io.kubernetes.pod.uid", ""),
        told.get(f"{_ANNOTATION}ContainerType") == "sandbox",
        0,
        told.get(f"{_ANNOTATION}Image", ""),
        bundle,
    )


def _pid(bundle: Path, identity: str) -> int:
    """0 when it is not there yet, or has ended: its number may be another process's by then."""
    try:
        pid = int((bundle / "pidfile").read_text())
        return pid if identity in Path(f"/proc/{pid}/cgroup").read_text() else 0
    except (OSError, ValueError):
        return 0
