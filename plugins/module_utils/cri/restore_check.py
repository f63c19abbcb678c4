# SPDX-License-Identifier: Apache-2.0
"""Whether a node's container runtime restores what it has checkpointed: a container goes both ways.

Settings that read well are no proof: CRIU, the kernel, runc and the runtime all have their say. It
is done through the CRI, as the kubelet does it, with crictl.
"""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..commands import run
from ..errors import FlowferryError
from ..oci import layout
from ..oci.checkpoint import build_image
from . import containerd
from .crio import Crio
from .kubelet_process import kubelet_runs

POD = "flowferry-restore-check"
_IMAGE = "localhost/flowferry-restore-check:checkpoint"
# NamespaceMode of the CRI's runtime.v1: CONTAINER, as the kubelet asks for pids, and NODE, the
# host's own network, so that none has to be there.
_CONTAINER, _NODE = 1, 2
_NAMESPACES = {
    "security_context": {"namespace_options": {"network": _NODE, "pid": _CONTAINER}},
}
# A limit of the process that nothing here cares for and CRIU saves; a process that was started
# afresh has another (getrlimit(2)).
_MARKED = resource.RLIMIT_MSGQUEUE
_MARK = 54321
# Each step is over within this time (seconds); images may have to be pulled.
_LIMIT = 60.0


class RestoreCheck:
    """One container in a pod of its own, at the runtime of ``socket``.

    ``image`` left out is that of the runtime's sandboxes, without which it runs no pod.
    """

    def __init__(self, socket: str, image: str = "") -> None:
        if shutil.which("crictl") is None:
            raise FlowferryError(
                "no_crictl",
                "there is no crictl here, by which the runtime is asked: install cri-tools",
            )
        self._socket = socket
        self._image = image
        version = dict(line.split(maxsplit=1) for line in self._crictl("version").splitlines())
        self._runtime = version["RuntimeName:"]

    def run(self) -> dict[str, Any]:
        """Checkpoint and restore; milliseconds of both. The pod is gone afterwards.

        A kubelet would end the pod, which it does not know, at any moment, so none may run here.

        Raises FlowferryError ``kubelet_runs``, ``no_image`` if the image cannot be had, and else
        ``runtime_cannot_restore`` with what the runtime says.
        """
        if kubelet_runs():
            raise FlowferryError(
                "kubelet_runs",
                "a kubelet runs here, which ends every pod that it does not know; try it before "
                "there is one, or drain the node and stop it",
            )
        self._remove_pods()  # of a run that was interrupted
        with tempfile.TemporaryDirectory(prefix="flowferry-") as directory:
            pod_file = Path(directory, "pod.json")
            pod_file.write_text(json.dumps(_pod()))
            try:
                return self._there_and_back(pod_file)
            finally:
                with suppress(FlowferryError):
                    self._remove_pods()

    def _there_and_back(self, pod_file: Path) -> dict[str, Any]:
        pod = self._run_pod(pod_file)
        self._image = self._image or self._sandbox_image(pod)
        self._fetch()
        first = self._start(pod, pod_file, self._image)
        _limit(self._pid(first), _MARK)
        archive = pod_file.with_name("checkpoint.tar")
        begin = time.monotonic()
        self._crictl("checkpoint", "--export", str(archive), first)
        dumped = time.monotonic()
        self._crictl("rm", "--force", first)
        with self._restorable(archive) as image:
            removed = time.monotonic()
            second = self._start(pod, pod_file, image)
            restored = time.monotonic()
        if _limit(self._pid(second)) != _MARK:
            raise FlowferryError(
                "runtime_cannot_restore",
                f"{self._runtime} has started the container afresh in place of restoring it: it "
                "takes a checkpoint for an ordinary image",
            )
        return {
            "runtime": self._runtime,
            "checkpoint_ms": round(1000 * (dumped - begin), 1),
            "restore_ms": round(1000 * (restored - removed), 1),
        }

    def _run_pod(self, pod_file: Path) -> str:
        try:
            return self._crictl("runp", str(pod_file)).strip()
        except FlowferryError as error:
            if "pull image" in error.details or "sandbox image" in error.details:
                error.code = "no_image"
            raise

    def _sandbox_image(self, pod: str) -> str:
        """CRI-O may have no process for a sandbox, and no image of it then."""
        if self._runtime == "containerd":
            return str(self._read("inspectp", "-o", "json", pod)["info"]["image"])
        return Crio(self._socket).sandbox_image()

    def _fetch(self) -> None:
        try:
            self._crictl("inspecti", self._image)
        except FlowferryError:
            self._crictl("pull", self._image, code="no_image")

    def _start(self, pod: str, pod_file: Path, image: str) -> str:
        """A container of the image, or a restored one; its id."""
        file = pod_file.with_name("container.json")
        file.write_text(json.dumps(_container(image)))
        container = self._crictl("create", pod, str(file), str(pod_file)).strip()
        self._crictl("start", container)
        return container

    def _pid(self, container: str) -> int:
        found = self._read("inspect", "-o", "json", container)
        state, pid = found["status"]["state"], int(found["info"].get("pid", 0))
        if state != "CONTAINER_RUNNING" or not pid:
            raise FlowferryError(
                "runtime_cannot_restore",
                f"a container of {self._image} does not run: {state}, "
                f"{found['status'].get('reason')} {found['status'].get('message')}",
            )
        return pid

    @contextmanager
    def _restorable(self, archive: Path) -> Iterator[str]:
        """What the runtime restores from: CRI-O from an archive as well, containerd from images
        alone, whose base it pulls again, of loopback without its settings for registries."""
        if self._runtime != "containerd":
            yield str(archive)
            return
        runtime = containerd.Containerd(self._socket)
        base = self._read("inspecti", "-o", "json", self._image)["status"]["repoDigests"][0]
        server = runtime.serve({})
        try:
            runtime.prepare_base(POD, base, server)
            again = runtime.base_reference(POD, server)
            try:
                packed = archive.with_name("image.tar")
                layout.write_archive(build_image(archive, POD, again), _IMAGE, packed)
                containerd.import_archive(packed)
                yield _IMAGE
            finally:
                runtime.remove_images([name for name in (again, _IMAGE) if runtime.has_image(name)])
        finally:
            server.close()
            runtime.distrust(server.address)

    def _remove_pods(self) -> None:
        for pod in self._crictl("pods", "--name", POD, "--quiet").split():
            self._crictl("stopp", pod)
            self._crictl("rmp", "--force", pod)

    def _read(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._crictl(*words))
        return found

    def _crictl(self, *words: str, code: str = "runtime_cannot_restore") -> str:
        endpoint = f"unix://{self._socket}"
        endpoints = ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint]
        command = ["crictl", "--config", "/dev/null", "--timeout", f"{_LIMIT:.0f}s"]
        try:
            return run([*command, *endpoints, *words], timeout=_LIMIT + 5, code=code)
        except FlowferryError as error:
            said = error.details.strip().splitlines() or [str(error)]  # the last one sums up
            raise FlowferryError(
                error.code, f"`crictl {words[0]}` at {endpoint}: {said[-1]}", error.details
            ) from None


def _limit(pid: int, new: int | None = None) -> int:
    """The process' limit that marks it; set if ``new`` is given."""
    try:
        return resource.prlimit(pid, _MARKED, *([] if new is None else [(new, new)]))[0]
    except ProcessLookupError:
        raise FlowferryError(
            "runtime_cannot_restore", "the container's process has ended by itself"
        ) from None


def _container(image: str) -> dict[str, Any]:
    """A ContainerConfig of the CRI, with a mount that every kubelet gives: CRI-O adds it where it
    is not, and then misses it at the restore."""
    hosts = {"container_path": "/etc/hosts", "host_path": "/etc/hosts", "readonly": True}
    return {
        "metadata": {"name": POD},
        "image": {"image": image},
        "mounts": [hosts],
        "linux": _NAMESPACES,
    }


def _pod() -> dict[str, Any]:
    """A PodSandboxConfig of the CRI, unlike any before it: CRI-O keeps the names of containers that
    were ended while they were made."""
    return {
        "metadata": {"name": POD, "namespace": "flowferry", "uid": str(uuid.uuid4()), "attempt": 0},
        "linux": _NAMESPACES,
    }
