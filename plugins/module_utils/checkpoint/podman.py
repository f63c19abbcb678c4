# SPDX-License-Identifier: Apache-2.0
"""Checkpoint and restore of one Podman container by itself, apart from any migration.

A migration freezes the source and keeps it (``runtimes``); here Podman's own behaviour is wanted: a
checkpoint ends the container unless told otherwise, and is a file that stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands import run
from ..errors import FlowferryError
from ..runtimes.podman import PodmanContainer
from .contents import Checkpoint

# A gigabyte of memory takes seconds to write, packed by zstd or gzip much longer.
_PATIENCE = 1800.0
RESTORED = Path("/run/flowferry/restored")
"""Which checkpoint a restored container came from: a file for each, named after its id."""


@dataclass(frozen=True)
class Container:
    """What these modules need to know of one."""

    id: str
    name: str
    status: str
    pid: int
    image_id: str

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "status": self.status, "pid": self.pid}


def find(name: str) -> Container | None:
    """The container of this name, None when there is none."""
    found = PodmanContainer(name).inspect()
    if found is None:
        return None
    state = found["State"]
    return Container(found["Id"], found["Name"], state["Status"], state["Pid"], found["Image"])


def checkpoint(name: str, archive: Path, compression: str, flags: list[str]) -> None:
    """Have Podman write a checkpoint; a failure leaves no file, and an old one as it was."""
    partial = archive.with_name(archive.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        run(
            ["podman", "container", "checkpoint", "--compress", compression]
            + ["--export", str(partial), *flags, name],
            code="checkpoint_failed",
            timeout=_PATIENCE,
        )
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)


def restore(name: str, archive: Path, identity: str, flags: list[str]) -> Container:
    """Have Podman bring a container back, and note what it came from."""
    run(
        ["podman", "container", "restore", "--import", str(archive), *flags],
        code="restore_failed",
        timeout=_PATIENCE,
    )
    found = find(name)
    if found is None or not found.is_running:
        raise FlowferryError("restore_failed", f'"{name}" does not run after its restore')
    RESTORED.mkdir(mode=0o700, parents=True, exist_ok=True)
    _note(found).write_text(json.dumps({"checkpoint": identity, "pid": found.pid}))
    return found


def runs_from(container: Container, identity: str) -> bool:
    """Does the container run since it was restored from this very checkpoint?"""
    note = _note(container)
    if not container.is_running or not note.exists():
        return False
    # A container that was started again has another process.
    return bool(json.loads(note.read_text()) == {"checkpoint": identity, "pid": container.pid})


def remove(container: Container) -> None:
    """End the container and forget it."""
    run(["podman", "rm", "--force", "--time", "0", container.name])
    _note(container).unlink(missing_ok=True)


def _note(container: Container) -> Path:
    return RESTORED / f"{container.id}.json"


def identity_of(archive: Checkpoint) -> str:
    """The same for the same dump at the same addresses, however it is packed and named."""
    digest = hashlib.sha256()
    for name in archive.images():
        digest.update(name.encode() + b"\0" + archive.image(name))
    return digest.hexdigest()


def origin_of(archive: Checkpoint) -> dict[str, str]:
    """Id and name of the container in Podman's archive, and the id of its image."""
    if archive.kind != "podman":
        raise FlowferryError(
            "not_podman",
            f"{archive.path} is a checkpoint of kind {archive.kind}, and Podman restores only its "
            "own; see flowferry.core.checkpoint_info for what it is",
        )
    config: Mapping[str, Any] = archive.metadata("config.dump")
    origin = {"id": config.get("id"), "name": config.get("name")}
    origin["image_id"] = config.get("rootfsImageID")
    if not all(isinstance(value, str) and value for value in origin.values()):
        raise FlowferryError(
            "bad_archive", f"{archive.path}: config.dump does not name a container and its image"
        )
    return {key: str(value) for key, value in origin.items()}
