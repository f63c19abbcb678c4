# SPDX-License-Identifier: Apache-2.0
"""Podman pods: their containers move together, as one workload.

All of them are frozen before one is dumped, and the redirect comes when all are restored. The infra
container, which keeps the pod's namespaces, does not move: the destination makes the pod anew
before the hold, and the containers wake up in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import endpoint as endpoints
from ..cgroup import ROOT, Freezer
from ..checkpoint.archive import rewrite_archive
from ..commands import run
from ..criu import check_space
from ..errors import FlowferryError
from . import podman_engine as podman
from .base import About, Workload


class PodmanPod(Workload):
    """One pod, by name."""

    runtime = "podman-pod"
    program = "podman"
    noun = "pod"
    listing = "podman pod ps"
    removal = "podman pod rm {name}"
    start = "podman pod start {name}"
    volume_store = podman.PodmanStore()
    growing_files = ("*.tar",)

    # -- plan

    def inspect(self) -> dict[str, Any] | None:
        """What Podman says of the pod, None when it knows none of this name."""
        if self.name not in run(["podman", "pod", "ps", "--format", "{{.Name}}"]).split():
            return None
        found = json.loads(run(["podman", "pod", "inspect", self.name]))
        pod: dict[str, Any] = found[0] if isinstance(found, list) else found
        return pod

    def describe(self) -> About | None:
        pod = self.inspect()
        if pod is None:
            return None
        ids = [member["Id"] for member in pod.get("Containers") or []]
        found = [podman.describe(one) for one in podman.inspect(*ids)] if ids else []
        infra = next((one for one in found if one["id"] == pod.get("InfraContainerID")), None)
        members = [one for one in found if one is not infra]
        return {
            "id": pod["Id"],
            "status": _status(pod, members),
            "network_mode": infra["network_mode"] if infra else "none, as it has no infra",
            "endpoint": infra["endpoint"] if infra else None,
            "infra_pid": infra["pid"] if infra else 0,
            "infra_name": infra["name"] if infra else "",
            "shared": pod.get("SharedNamespaces") or [],
            "hostname": pod.get("Hostname") or "",
            "labels": pod.get("Labels") or {},
            "containers": members,
            "memory_bytes": sum(member["memory_bytes"] for member in members),
        }

    def without_endpoint(self, about: About) -> str:
        return (
            f"{self.title} has network mode {about['network_mode']}; its address can move only "
            "from a namespace of its own: podman pod create --network ns:/run/netns/NAME, see "
            "flowferry.core.endpoint"
        )

    @classmethod
    def check_node(cls) -> None:
        super().check_node()
        podman.check_runtime()

    def check_source(self) -> About:
        about = self.require_running()
        super().check_node()
        if "pid" in about["shared"]:
            raise FlowferryError(
                "shared_with_others",
                f"the containers of {self.title} share the pid namespace, but are dumped one by "
                "one; create it with --share ipc,net,uts",
            )
        for member in about["containers"]:
            podman.check_container(member, f'{self.title}, container "{member["name"]}"')
        self._check_system_v(about["infra_pid"])
        mounts = [mount for member in about["containers"] for mount in member["mounts"]]
        own = [about["infra_name"], *(one["name"] for one in about["containers"])]
        return {**about, "volumes": self.find_volumes(mounts, own)}

    def pids(self, about: About) -> list[int]:
        return [pid for one in about["containers"] for pid in Freezer(one["freezer"]).pids()]

    def _check_system_v(self, pid: int) -> None:
        """Refuse System V objects: they belong to the pod's namespace, which is made anew."""
        listings = [f"/proc/sysvipc/{kind}" for kind in ("msg", "sem", "shm")]
        lines = run(["nsenter", f"--ipc=/proc/{pid}/ns/ipc", "cat", *listings]).splitlines()
        objects = [line for line in lines if line.split()[0] != "key"]
        if objects:
            raise FlowferryError(
                "system_v_ipc",
                f"{self.title} has {len(objects)} System V queues, semaphores or shared memory "
                "segments, which belong to the pod and would stay behind; create it with --share "
                "net,uts, so that they belong to a container",
            )

    def check_destination(self, about: About, directory: Path) -> None:
        self.check_node()
        taken = podman.names()
        namesakes = [member["name"] for member in about["containers"] if member["name"] in taken]
        if namesakes or self.inspect() is not None:
            what = f'container "{namesakes[0]}"' if namesakes else self.title
            raise FlowferryError(
                "name_taken",
                f"there is another {what} on the destination; rename or remove it there",
            )
        check_space(about["memory_bytes"], directory, podman.storage())
        for member in about["containers"]:
            podman.check_image(member)

    # -- prepare

    def prepare_source(self, about: About) -> None:
        """The cgroups are there already."""

    def prepare_destination(self, about: About, endpoint: endpoints.Endpoint) -> None:
        super().prepare_destination(about, endpoint)
        network = f"ns:{endpoints.NAMESPACES / endpoint.namespace}"
        command = ["podman", "pod", "create", "--name", self.name, "--network", network]
        command += ["--share", ",".join(about["shared"])]
        command += ["--hostname", about["hostname"]] if about["hostname"] else []
        for name, value in about["labels"].items():
            command += ["--label", f"{name}={value}"]
        run(command)
        run(["podman", "pod", "start", self.name])

    # -- source

    def freeze(self, about: About) -> None:
        for member in about["containers"]:
            Freezer(member["freezer"]).freeze()

    def resume(self, about: About) -> None:
        for member in about["containers"]:
            Freezer(member["freezer"]).thaw()

    def checkpoint(self, about: About, directory: Path) -> None:
        _at_once(about, lambda one: podman.checkpoint(one["name"], _archive(directory, one)))

    # -- destination

    def rewrite(self, about: About, directory: Path, addresses: dict[str, str]) -> None:
        for member in about["containers"]:
            rewrite_archive(_archive(directory, member), addresses, in_place=True)

    def restore(self, about: About, directory: Path) -> None:
        _at_once(about, lambda one: podman.restore(_archive(directory, one), "--pod", self.name))
        for member in about["containers"]:
            # The id is the same on both nodes, but the pod's is not.
            groups = (ROOT / "freezer").glob(f"**/{Path(member['freezer']).name}")
            if not any(Freezer(group).pids() for group in groups):
                raise FlowferryError(
                    "restore_failed",
                    f'{self.title}, container "{member["name"]}" does not run after its restore',
                )

    # -- either

    def remove(self, about: About, endpoint: endpoints.Endpoint) -> None:
        here = self.describe()
        endpoints.remove(endpoint)
        if here is None:
            return
        for member in here["containers"]:
            if member["freezer"]:
                Freezer(member["freezer"]).kill()
        run(["podman", "pod", "rm", "--force", "--time", "0", self.name])


def _status(pod: dict[str, Any], members: list[About]) -> str:
    """Running when all of it is: a container that has ended has no state to move."""
    if not members:
        return "without containers"
    stopped = [member["name"] for member in members if member["status"] != "running"]
    if stopped:
        return f"not running as a whole ({', '.join(stopped)} is not)"
    return str(pod["State"]).lower()


def _archive(directory: Path, member: About) -> Path:
    return directory / f"{member['name']}.tar"


def _at_once(about: About, action: Callable[[About], None]) -> None:
    """Do it for every container in parallel; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(about["containers"])) as pool:
        list(pool.map(action, about["containers"]))
