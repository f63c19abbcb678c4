# SPDX-License-Identifier: Apache-2.0
"""The direct method: processes go from a running container into one that runs already.

At the destination that is a placeholder, which kubelet and container runtime have made like any
other container. CRIU, started beforehand in both, does all that is done while packets are held.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..cgroup import Freezer
from ..checkpoint import images
from ..cri.base import Container
from ..criu_service import OPTIONS, learn_kernel
from ..errors import FlowferryError
from ..processes import Process
from .criu_inside import CriuInside
from .inside import OwnProcesses
from .place import PodPlace

_PATIENCE = 55.0
About = dict[str, Any]


class DirectMover:
    """Of one pod on one node, in one helper. ``about`` is what is known of the pod."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._services: dict[str, CriuInside] = {}
        self._containers: dict[str, int] = {}
        self._processes: dict[str, OwnProcesses] = {}
        self._done: list[CriuInside] = []
        """What has served, and is tidied away when nobody waits any more."""

    # -- source

    def prepare_source(self, about: About) -> None:
        """Start CRIU beside each application."""
        images.pycriu()
        learn_kernel()
        for name, container in about["containers"].items():
            self._services[name] = CriuInside(container["direct"]["pid"])

    def freeze(self, about: About) -> None:
        """Stop every process."""
        for container in about["containers"].values():
            Freezer(container["freezer"]).freeze()

    def checkpoint(self, about: About, directory: Path) -> None:
        """Dump what is frozen, and stays so."""
        for name, container in about["containers"].items():
            here = directory / name
            here.mkdir()
            service = self._services.pop(name, None) or CriuInside(container["direct"]["pid"])
            try:
                freezer = Path(container["freezer"])
                service.dump_container(here, _PATIENCE, freezer, **OPTIONS)
            except FlowferryError as error:
                raise self._named(error) from error
            finally:
                self._done.append(service)
            _have_own_pids(here / "inventory.img")

    def resume(self, about: About) -> None:
        """Let the source go on where it was."""
        self.end()
        for container in about["containers"].values():
            Freezer(container["freezer"]).thaw()

    # -- destination

    def prepare_destination(self, about: About, containers: list[Container]) -> None:
        """Start CRIU in each placeholder."""
        images.pycriu()
        learn_kernel()
        for container in containers:
            if container.name not in about["containers"]:
                continue
            self._containers[container.name] = container.pid
            told = about["containers"][container.name]["direct"]["streams"]
            streams = {
                pipe: os.open(f"/proc/{container.pid}/fd/{number}", os.O_WRONLY)
                for number, pipe in told.items()
            }
            service = CriuInside(container.pid, streams, joins=True)
            self._services[container.name] = service
            self._processes[container.name] = OwnProcesses(container.pid)

    def restore(self, about: About, directory: Path, place: PodPlace) -> None:
        """Bring the applications to life in the placeholders."""
        for name in about["containers"]:
            if name not in self._services:
                raise FlowferryError("helper_lost", "this helper has not prepared the destination")
            service = self._services.pop(name)
            self._done.append(service)
            try:
                here, processes = directory / name, self._processes[name]
                pid = service.restore_container(here, _PATIENCE, processes, **OPTIONS)
            except FlowferryError as error:
                raise self._named(error) from error
            place.has_come(name, pid)
            self._require(self._containers[name], pid)

    def _require(self, container: int, pid: int) -> None:
        seen = Path(f"/proc/{container}/root/proc/{pid}/stat")
        try:
            state = seen.read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            state = "gone"
        if Process.read(container) is None or state in ("gone", "Z", "X"):
            raise FlowferryError("restore_failed", f"{self._title}: the copy ended at once")

    def end(self) -> None:
        """Whoever waits for a request need not any more."""
        for service in self._services.values():
            service.end()
        self._services.clear()
        self.tidy()

    def tidy(self) -> None:
        """Leave nothing of what has served."""
        for service in self._done:
            service.close()
        self._done.clear()
        for processes in self._processes.values():
            processes.close()

    def _named(self, error: FlowferryError) -> FlowferryError:
        return FlowferryError(error.code, f"{self._title}: {error}", error.details)


def _have_own_pids(inventory: Path) -> None:
    """Have a restore make a namespace of process ids: the container has a first process already.

    CRIU makes one for processes whose namespace is not that of the CRIU that has dumped them.
    """
    data = images.read(inventory)
    start = images.start_of(data, "INVENTORY", inventory)
    message = images.parse(
        "inventory_entry", next(images.frames(data, start, inventory)), inventory
    )
    message.root_ids.pid_ns_id += 1 << 20
    images.replace(inventory, data[:start] + images.frame(message.SerializeToString()))
