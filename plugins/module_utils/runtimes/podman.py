# SPDX-License-Identifier: Apache-2.0
"""Podman containers.

The container is frozen through its cgroup before CRIU dumps it, and left running by Podman: so the
source stays as it is, frozen, with its sockets, and a rollback is a thaw. It is also faster, as
CRIU needs up to 100 ms to stop a process tree by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import endpoint as endpoints
from ..cgroup import Freezer
from ..checkpoint.archive import rewrite_archive
from ..commands import run
from ..criu import check_space
from ..errors import FlowferryError
from . import podman_engine as podman
from .base import About, Workload

_ARCHIVE = "checkpoint.tar"


class PodmanContainer(Workload):
    """One container, by name."""

    runtime = "podman"
    program = "podman"
    noun = "container"
    listing = "podman ps -a"
    removal = "podman rm {name}"
    start = "podman start {name}"
    volume_store = podman.PodmanStore()
    growing_files = (_ARCHIVE,)

    # -- plan

    def inspect(self) -> dict[str, Any] | None:
        """What Podman says of the container, None when it knows none of this name."""
        return podman.inspect(self.name)[0] if self.name in podman.names() else None

    def describe(self) -> About | None:
        found = self.inspect()
        return podman.describe(found) if found else None

    def without_endpoint(self, about: About) -> str:
        return (
            f"{self.title} has network mode {about['network_mode']}; its address can move only "
            "from a namespace of its own: --network ns:/run/netns/NAME, see flowferry.core.endpoint"
        )

    @classmethod
    def check_node(cls) -> None:
        super().check_node()
        podman.check_runtime()

    def check_source(self) -> About:
        about = self.require_running()
        super().check_node()
        podman.check_container(about, self.title)
        return {**about, "volumes": self.find_volumes(about["mounts"], [self.name])}

    def pids(self, about: About) -> list[int]:
        return Freezer(about["freezer"]).pids()

    def check_destination(self, about: About, directory: Path) -> None:
        self.check_node()
        if self.name in podman.names():
            raise FlowferryError(
                "name_taken",
                f"there is another {self.title} on the destination; rename or remove it there: "
                f"`podman rm {self.name}`",
            )
        check_space(about["memory_bytes"], directory, podman.storage())
        podman.check_image(about)

    # -- source

    def prepare_source(self, about: About) -> None:
        """Its cgroup is there already."""

    def freeze(self, about: About) -> None:
        Freezer(about["freezer"]).freeze()

    def resume(self, about: About) -> None:
        Freezer(about["freezer"]).thaw()

    def checkpoint(self, about: About, directory: Path) -> None:
        podman.checkpoint(self.name, directory / _ARCHIVE)

    # -- destination

    def rewrite(self, about: About, directory: Path, addresses: dict[str, str]) -> None:
        rewrite_archive(directory / _ARCHIVE, addresses, in_place=True)

    def restore(self, about: About, directory: Path) -> None:
        podman.restore(directory / _ARCHIVE)
        # The same id means the same cgroup on both nodes.
        if not Freezer(about["freezer"]).pids():
            raise FlowferryError("restore_failed", f"{self.title} does not run after its restore")

    # -- either

    def remove(self, about: About, endpoint: endpoints.Endpoint) -> None:
        here = self.describe()
        endpoints.remove(endpoint)
        if here is None:
            return
        if here["freezer"]:
            Freezer(here["freezer"]).kill()
        run(["podman", "rm", "--force", "--time", "0", self.name])
