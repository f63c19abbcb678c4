# SPDX-License-Identifier: Apache-2.0
"""Docker containers that have joined the network of a pause container (docker_engine.py).

The checkpoint is taken by runc itself, of the frozen container: Docker's own command refuses a
frozen one, and lets the source go on when it has finished. Only Docker can restore it, since the
copy is to be Docker's: so the images are put where ``docker start --checkpoint`` looks for them.
They have no files of the container; its writable layer is sent with them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import docker_engine as docker
from .. import endpoint as endpoints
from ..cgroup import Freezer, memory_bytes
from ..commands import run
from ..criu import check_processes, check_space, complaints
from ..errors import FlowferryError
from ..identity import marks, require_same
from .base import PATIENCE, About, Workload

# Where Docker's containerd has runc keep its state.
_RUNC = ["runc", "--root", "/run/docker/runtime-runc/moby"]
_CHECKPOINT = "flowferry"
_JOINED = "container:"
# The files of a checkpoint: CRIU's images, the writable layer, and the record beside them.
_IMAGES, _LAYER, _RECORD = "images", "layer.tar", "container.json"
# An overlay marks what was deleted by attributes and device nodes.
_TAR = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner"]


class DockerContainer(Workload):
    """One container, by name."""

    runtime = "docker"
    program = "docker"
    noun = "Docker container"
    listing = "docker ps -a"
    removal = "docker rm {name}"
    start = "docker start {name}"
    volume_store = docker.DockerStore()
    growing_files = (f"{_IMAGES}/pages-*.img", _LAYER)

    # -- plan

    @classmethod
    def check_node(cls) -> None:
        super().check_node()
        if not docker.is_installed():
            raise FlowferryError(
                "no_docker",
                f"Docker does not run here: there is no {docker.SOCKET}; the role docker starts it",
            )
        _check_engine(docker.call("GET", "/info"))
        if not docker.has_image(docker.PAUSE_IMAGE):
            raise FlowferryError(
                "no_image", f"there is no image {docker.PAUSE_IMAGE} here; the role docker makes it"
            )

    def describe(self) -> About | None:
        found = docker.inspect(self.name) if docker.is_installed() else None
        if found is None:
            return None
        state, host = found["State"], found["HostConfig"]
        pause = _pause_of(found)
        endpoint = docker.endpoint_of(pause) if pause else None
        freezer = Freezer.of(state["Pid"]) if state["Running"] else None
        return {
            "id": found["Id"],
            "status": state["Status"],
            "pid": state["Pid"],
            "freezer": str(freezer.path) if freezer else "",
            "started_at": state["StartedAt"],
            "image": found["Config"]["Image"],
            "image_id": found["Image"],
            "runtime": host["Runtime"],
            "network_mode": host["NetworkMode"],
            "hostname": pause["Config"]["Hostname"] if pause else "",
            "endpoint": endpoint.as_dict() if endpoint else None,
            "mounts": found["Mounts"],
            "memory_bytes": memory_bytes(state["Pid"]) if state["Running"] else 0,
        }

    def without_endpoint(self, about: About) -> str:
        return (
            f"{self.title} has network mode {about['network_mode']}; its address can move only "
            "with a pause container: --network container:NAME, made by flowferry.core.endpoint "
            "with docker: true"
        )

    def check_source(self) -> About:
        about = self.require_running()
        found = docker.inspect(about["id"])
        if found is None:
            raise FlowferryError("not_running", f"{self.title} has ended by itself")
        if about["runtime"] != "runc":
            raise FlowferryError(
                "runtime_cannot_restore",
                f"{self.title} runs under {about['runtime']}, which restores no container here; "
                "create it with --runtime runc",
            )
        _layer(found)
        self._check_sharing(found)
        self.check_node()
        check_processes(self.title, self.pids(about))
        return {**about, "volumes": self.find_volumes(about["mounts"], [self.name])}

    def pids(self, about: About) -> list[int]:
        return Freezer(about["freezer"]).pids()

    def _check_sharing(self, found: dict[str, Any]) -> None:
        """Refuse what it has in common with something that would stay behind."""
        host = found["HostConfig"]
        shared = [f"the {kind} namespace" for kind in ("Pid", "UTS") if host[f"{kind}Mode"]]
        if host["IpcMode"] not in ("", "private", "none"):
            shared.append("the IPC namespace")
        if found["Config"]["Tty"]:
            shared.append("a terminal")
        others = docker.call("GET", "/containers/json") or []
        network = host["NetworkMode"]
        shared += [
            f"the network of {', '.join(other['Names'])}"
            for other in others
            if other["HostConfig"]["NetworkMode"] == network and other["Id"] != found["Id"]
        ]
        if shared:
            raise FlowferryError(
                "shared_with_others",
                f"{self.title} shares {' and '.join(shared)} with what would stay behind; create "
                "it without",
            )

    def check_destination(self, about: About, directory: Path) -> None:
        self.check_node()
        for name in (self.name, about["endpoint"]["namespace"]):
            namesake = docker.inspect(name)
            if namesake is not None and not docker.is_pause(namesake):
                raise FlowferryError(
                    "name_taken",
                    f'there is another Docker container "{name}" on the destination; rename or '
                    f"remove it there: `docker rm {name}`",
                )
        check_space(about["memory_bytes"], directory, docker.call("GET", "/info")["DockerRootDir"])
        if not docker.has_image(about["image_id"]):
            raise FlowferryError(
                "no_image",
                f"the destination does not have the image {about['image']} "
                f"({about['image_id'][:19]}); load the same image there: docker pull, or docker "
                "save here and docker load there",
            )

    # -- prepare

    def prepare_source(self, about: About) -> None:
        """Its cgroup is there already."""

    def prepare_destination(self, about: About, endpoint: endpoints.Endpoint) -> None:
        pause = docker.inspect(endpoint.namespace)
        if pause is None or docker.endpoint_of(pause) != endpoint:
            docker.create_endpoint(endpoint, about["hostname"])

    # -- source

    def freeze(self, about: About) -> None:
        Freezer(about["freezer"]).freeze()

    def resume(self, about: About) -> None:
        Freezer(about["freezer"]).thaw()

    def checkpoint(self, about: About, directory: Path) -> None:
        found = docker.inspect(about["id"])
        if found is None:
            raise FlowferryError("not_running", f"{self.title} has ended by itself")
        images = directory / _IMAGES
        images.mkdir()
        try:
            run(
                [*_RUNC, "checkpoint", "--leave-running", "--tcp-established", "--file-locks"]
                + ["--image-path", str(images), "--work-path", str(images), about["id"]],
                timeout=PATIENCE,
            )
        except FlowferryError as error:
            reason = complaints(images / "dump.log") or str(error)
            raise FlowferryError(
                "checkpoint_failed", f"{self.title}: {reason}", error.details
            ) from error
        run([*_TAR, "-C", str(_layer(found)), "-cf", str(directory / _LAYER), "."])
        record = {
            "config": found["Config"],
            "host_config": found["HostConfig"],
            "mounts": found["Mounts"],
            "marks": marks(about["pid"]),
        }
        (directory / _RECORD).write_text(json.dumps(record))

    # -- destination

    def restore(self, about: About, directory: Path) -> None:
        record = json.loads((directory / _RECORD).read_text())
        pause = about["endpoint"]["namespace"]
        made = docker.create(self.name, _wanted(record, about, pause), code="restore_failed")
        found = docker.inspect(made)
        if found is None:
            raise FlowferryError("restore_failed", f"{self.title} vanished before its restore")
        run([*_TAR, "-C", str(_layer(found)), "-xpf", str(directory / _LAYER)])
        root = docker.call("GET", "/info")["DockerRootDir"]
        place = Path(root) / "containers" / made / "checkpoints" / _CHECKPOINT
        shutil.copytree(directory / _IMAGES, place)
        try:
            docker.call(
                "POST",
                f"/containers/{made}/start",
                code="restore_failed",
                timeout=PATIENCE,
                checkpoint=_CHECKPOINT,
            )
        finally:
            shutil.rmtree(place)
        copy = docker.inspect(made)
        if copy is None or not copy["State"]["Running"]:
            raise FlowferryError("restore_failed", f"{self.title} does not run after its restore")
        # Docker starts a container afresh where it does not obey the checkpoint, without a word.
        require_same(self.title, record["marks"], copy["State"]["Pid"])

    # -- either

    def remove(self, about: About, endpoint: endpoints.Endpoint) -> None:
        here = self.describe()
        endpoints.remove(endpoint)
        if here is not None:
            docker.call(
                "POST", f"/containers/{here['id']}/update", {"RestartPolicy": {"Name": "no"}}
            )
            if here["freezer"]:
                Freezer(here["freezer"]).kill()
            docker.remove(here["id"])
        if docker.is_installed():
            docker.remove_endpoint(endpoint)


def _pause_of(container: dict[str, Any]) -> dict[str, Any] | None:
    """The container whose network it has joined."""
    mode: str = container["HostConfig"]["NetworkMode"]
    return docker.inspect(mode[len(_JOINED) :]) if mode.startswith(_JOINED) else None


def _layer(container: dict[str, Any]) -> Path:
    """The directory of its writable layer."""
    driver = container.get("GraphDriver") or {}
    if driver.get("Name") != "overlay2":
        raise FlowferryError(
            "runtime_cannot_restore",
            f"container {container['Name']} is kept by the storage driver {driver.get('Name')}; "
            "its files can be moved with overlay2 only",
        )
    return Path(driver["Data"]["UpperDir"])


def _check_engine(info: dict[str, Any]) -> None:
    """Refuse an engine that cannot restore."""
    wrong = []
    if not info["ExperimentalBuild"]:
        wrong.append('checkpoints are off: set "experimental": true')
    if info["DefaultRuntime"] != "runc":
        wrong.append(f'its runtime is {info["DefaultRuntime"]}: set "default-runtime": "runc"')
    if info["Driver"] != "overlay2":
        wrong.append(f'its storage driver is {info["Driver"]}: set "storage-driver": "overlay2"')
    if wrong:
        raise FlowferryError(
            "runtime_cannot_restore",
            f"Docker restores no container here, as {'; '.join(wrong)} in /etc/docker/daemon.json "
            "(the role docker does)",
        )


def _wanted(record: dict[str, Any], about: About, pause: str) -> dict[str, Any]:
    """What to ask the engine for, so that the copy is like the source."""
    config = dict(record["config"])
    # They belong to the network, and so to the pause container.
    for network_setting in ("Hostname", "Domainname", "ExposedPorts", "MacAddress"):
        config.pop(network_setting, None)
    host = {**record["host_config"], "NetworkMode": _JOINED + pause, "ContainerIDFile": ""}
    host |= {"Binds": _binds(record), "Mounts": _asked_mounts(host), "VolumesFrom": None}
    named = docker.call("GET", f"/images/{quote(about['image'])}/json")
    same = named is not None and named["Id"] == about["image_id"]
    return {**config, "Image": about["image"] if same else about["image_id"], "HostConfig": host}


def _asked_mounts(host: dict[str, Any]) -> list[dict[str, Any]]:
    """Without those for which the engine was to make a volume."""
    mounts: list[dict[str, Any]] = host.get("Mounts") or []
    return [mount for mount in mounts if mount["Type"] != "volume" or mount.get("Source")]


def _binds(record: dict[str, Any]) -> list[str]:
    """The mounts that were asked for, and by name those that the engine has given a volume to:
    of an image's VOLUME, without a name, or from another container."""
    host = record["host_config"]
    binds: list[str] = list(host["Binds"] or [])
    asked = {bind.split(":")[1] for bind in binds}
    asked |= {mount["Target"] for mount in _asked_mounts(host)}
    for mount in record["mounts"]:
        if mount["Type"] in ("volume", "bind") and mount["Destination"] not in asked:
            source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
            binds.append(f"{source}:{mount['Destination']}" + ("" if mount["RW"] else ":ro"))
    return binds
