# SPDX-License-Identifier: Apache-2.0
"""Podman containers.

The container is frozen through its cgroup before CRIU dumps it, and left running by Podman: so the
source stays as it is, frozen, with its sockets, and a rollback is a thaw. It is also faster, as
CRIU needs up to 100 ms to stop a process tree by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import endpoint as endpoints
from ..cgroup import Freezer, memory_bytes
from ..checkpoint.archive import rewrite_archive
from ..commands import run
from ..criu import check_criu, check_open_files, check_space
from ..errors import FlowferryError
from .base import PATIENCE, About, Workload

_NAMESPACE = "ns:/run/netns/"
_ARCHIVE = "checkpoint.tar"


class PodmanContainer(Workload):
    """One container, by name."""

    runtime = "podman"
    program = "podman"
    noun = "container"
    listing = "podman ps -a"
    removal = "podman rm {name}"
    start = "podman start {name}"

    # -- plan

    def inspect(self) -> dict[str, Any] | None:
        """What Podman says of the container, None when it knows none of this name."""
        listed = run(["podman", "ps", "-a", "--format", "{{.Names}}"]).split()
        if self.name not in listed:
            return None
        found: list[dict[str, Any]] = json.loads(run(["podman", "container", "inspect", self.name]))
        return found[0]

    def describe(self) -> About | None:
        found = self.inspect()
        if found is None:
            return None
        mode: str = found["HostConfig"]["NetworkMode"]
        space = mode[len(_NAMESPACE) :] if mode.startswith(_NAMESPACE) else ""
        endpoint = endpoints.find(space) if space else None
        state = found["State"]
        freezer = Freezer.of(state["Pid"]) if state["Running"] else None
        return {
            "id": found["Id"],
            "status": state["Status"],
            "pid": state["Pid"],
            "freezer": str(freezer.path) if freezer else "",
            "started_at": state["StartedAt"],
            "image": found["ImageName"],
            "image_id": found["Image"],
            "runtime": Path(found["OCIRuntime"]).name,
            "network_mode": mode,
            "endpoint": endpoint.as_dict() if endpoint else None,
            "mounts": [mount["Destination"] for mount in found["Mounts"]],
            "memory_bytes": memory_bytes(state["Pid"]) if state["Running"] else 0,
        }

    def without_endpoint(self, about: About) -> str:
        return (
            f"{self.title} has network mode {about['network_mode']}; its address can move only "
            "from a namespace of its own: --network ns:/run/netns/NAME, see flowferry.core.endpoint"
        )

    @classmethod
    def check_node(cls) -> None:
        super().check_node()
        name = run(["podman", "info", "--format", "{{.Host.OCIRuntime.Name}}"]).strip()
        if Path(name).name != "runc":
            raise FlowferryError(
                "runtime_cannot_restore",
                f"podman on this node uses {name}, which cannot restore containers here; set "
                'runtime = "runc" in containers.conf',
            )

    def check_source(self) -> About:
        about = self.require_running()
        if about["runtime"] != "runc":
            raise FlowferryError(
                "runtime_cannot_restore",
                f"{self.title} runs under {about['runtime']}, which restores no container here; "
                "create it with --runtime runc",
            )
        if about["mounts"]:
            raise FlowferryError(
                "has_mounts",
                f"{self.title} has volumes ({', '.join(about['mounts'])}); their content would "
                "stay behind, so it is not moved",
            )
        check_criu()
        check_open_files(self.title, Freezer(about["freezer"]).pids())
        return about

    def check_destination(self, about: About, directory: Path) -> None:
        self.check_node()
        if self.inspect() is not None:
            raise FlowferryError(
                "name_taken",
                f"there is another {self.title} on the destination; rename or remove it there: "
                f"`podman rm {self.name}`",
            )
        storage = run(["podman", "info", "--format", "{{.Store.GraphRoot}}"]).strip()
        check_space(about["memory_bytes"], directory, storage)
        ids = run(["podman", "images", "--no-trunc", "--quiet"]).split()
        present = any(image.split(":")[-1] == about["image_id"] for image in ids)
        if not present:
            raise FlowferryError(
                "no_image",
                f"the destination does not have the image {about['image']} "
                f"({about['image_id'][:12]}); load the same image there: podman pull, or podman "
                "save here and podman load there",
            )

    # -- source

    def prepare_source(self, about: About) -> None:
        """Its cgroup is there already."""

    def freeze(self, about: About) -> None:
        Freezer(about["freezer"]).freeze()

    def resume(self, about: About) -> None:
        Freezer(about["freezer"]).thaw()

    def checkpoint(self, about: About, directory: Path) -> None:
        run(
            ["podman", "container", "checkpoint", "--leave-running", "--tcp-established"]
            + ["--file-locks", "--compress", "none", "--export", str(directory / _ARCHIVE)]
            + [self.name],
            code="checkpoint_failed",
            timeout=PATIENCE,
        )

    # -- destination

    def rewrite(self, about: About, directory: Path, addresses: dict[str, str]) -> None:
        rewrite_archive(directory / _ARCHIVE, addresses, in_place=True)

    def restore(self, about: About, directory: Path) -> None:
        run(
            ["podman", "container", "restore", "--tcp-established", "--file-locks"]
            + ["--import", str(directory / _ARCHIVE)],
            code="restore_failed",
            timeout=PATIENCE,
        )
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
