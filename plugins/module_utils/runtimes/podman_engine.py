# SPDX-License-Identifier: Apache-2.0
"""Podman's containers: what one is like, why it cannot move, its checkpoint and its restore.

A container alone (podman.py) and those of a pod (podman_pod.py) move alike.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .. import endpoint as endpoints
from ..cgroup import Freezer, memory_bytes
from ..commands import run
from ..criu import check_processes, complaints
from ..errors import FlowferryError
from ..volumes.model import Store, Volume
from .base import PATIENCE

_NAMESPACE = "ns:/run/netns/"


def inspect(*names: str) -> list[dict[str, Any]]:
    """What Podman says of containers, all of which there are."""
    found: list[dict[str, Any]] = json.loads(run(["podman", "container", "inspect", *names]))
    return found


def names() -> list[str]:
    """The containers of this node, running or not."""
    return run(["podman", "ps", "--all", "--format", "{{.Names}}"]).split()


def storage() -> str:
    """Where Podman keeps images and containers."""
    return run(["podman", "info", "--format", "{{.Store.GraphRoot}}"]).strip()


def describe(found: dict[str, Any]) -> dict[str, Any]:
    """What a move needs to know of a container, from what inspect() says."""
    mode: str = found["HostConfig"]["NetworkMode"]
    space = mode[len(_NAMESPACE) :] if mode.startswith(_NAMESPACE) else ""
    endpoint = endpoints.find(space) if space else None
    state = found["State"]
    freezer = Freezer.of(state["Pid"]) if state["Running"] else None
    return {
        "id": found["Id"],
        "name": found["Name"],
        "status": state["Status"],
        "pid": state["Pid"],
        "freezer": str(freezer.path) if freezer else "",
        "started_at": state["StartedAt"],
        "image": found["ImageName"],
        "image_id": found["Image"],
        "runtime": Path(found["OCIRuntime"]).name,
        "network_mode": mode,
        "endpoint": endpoint.as_dict() if endpoint else None,
        "mounts": found["Mounts"],
        "memory_bytes": memory_bytes(state["Pid"]) if state["Running"] else 0,
    }


def check_runtime() -> None:
    """Refuse a Podman whose runtime restores nothing."""
    name = run(["podman", "info", "--format", "{{.Host.OCIRuntime.Name}}"]).strip()
    if Path(name).name != "runc":
        raise FlowferryError(
            "runtime_cannot_restore",
            f"podman on this node uses {name}, which cannot restore containers here; set "
            'runtime = "runc" in containers.conf',
        )


def check_container(about: dict[str, Any], title: str) -> None:
    """Refuse a running container that cannot leave this node."""
    if about["runtime"] != "runc":
        raise FlowferryError(
            "runtime_cannot_restore",
            f"{title} runs under {about['runtime']}, which restores no container here; create it "
            "with --runtime runc",
        )
    check_processes(title, Freezer(about["freezer"]).pids())


def check_image(about: dict[str, Any]) -> None:
    """Refuse a destination without the very image of a container."""
    ids = run(["podman", "images", "--no-trunc", "--quiet"]).split()
    if not any(image.split(":")[-1] == about["image_id"] for image in ids):
        raise FlowferryError(
            "no_image",
            f"the destination does not have the image {about['image']} "
            f"({about['image_id'][:12]}); load the same image there: podman pull, or podman "
            "save here and podman load there",
        )


def checkpoint(name: str, archive: Path) -> None:
    """Write the checkpoint of a frozen container, which stays frozen."""
    try:
        run(
            ["podman", "container", "checkpoint", "--leave-running", "--tcp-established"]
            + ["--file-locks", "--ignore-volumes", "--compress", "none"]
            + ["--export", str(archive), name],
            code="checkpoint_failed",
            timeout=PATIENCE,
        )
    except FlowferryError as error:
        # What runc says names the log, which has CRIU's reason.
        log = re.search(r"/\S+/dump\.log", error.details)
        if log and (reason := complaints(Path(log.group()))):
            told = f'container "{name}": {reason}'
            raise FlowferryError("checkpoint_failed", told, error.details) from error
        raise


def restore(archive: Path, *options: str) -> None:
    """Bring a container to life from its checkpoint."""
    run(
        ["podman", "container", "restore", "--tcp-established", "--file-locks"]
        + ["--ignore-volumes", "--import", str(archive), *options],
        code="restore_failed",
        timeout=PATIENCE,
    )


class PodmanStore(Store):
    """Podman's named volumes."""

    removal = "podman volume rm {name}"

    def inspect(self, name: str) -> Volume | None:
        if name not in run(["podman", "volume", "ls", "--quiet"]).split():
            return None
        found = json.loads(run(["podman", "volume", "inspect", name]))[0]
        return Volume.of_engine(name, found)

    def create(self, volume: Volume) -> None:
        labels = [f"--label={name}={value}" for name, value in volume.labels.items()]
        run(["podman", "volume", "create", *labels, volume.name])

    def remove(self, name: str) -> None:
        if self.inspect(name) is not None:
            run(["podman", "volume", "rm", name])

    def home(self) -> Path:
        return Path(run(["podman", "info", "--format", "{{.Store.VolumePath}}"]).strip())

    def mounts(self) -> list[tuple[str, list[dict[str, Any]]]]:
        there = names()
        return [(one["Name"], one["Mounts"]) for one in inspect(*there)] if there else []
