# SPDX-License-Identifier: Apache-2.0
"""What a volume of a workload is: one of its engine or its pod, or a bind mount of the node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FlowferryError


@dataclass
class Volume:
    """One volume, as the plan has it. Plain JSON, since the journal keeps it."""

    kind: str
    """``volume``, ``bind`` for a directory or file of the node, or ``emptyDir`` of a pod."""
    name: str
    """By which both nodes know it; the path of a bind mount."""
    path: str
    """Where its content is on the source."""
    mounted_at: list[str] = field(default_factory=list)
    """Where containers see it."""
    read_only: bool = False
    directory: bool = True
    """Or a single file."""
    driver: str = "local"
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    """Other containers of the source that have it too, and could notice that it is gone."""
    storage: dict[str, Any] = field(default_factory=dict)
    """Which storage it is on (storage_of)."""
    lineage: str = ""
    """The same for all copies of it that moves have made (mark.py)."""
    content: str = ""
    """A hash of all that is in it, of one that nobody writes to and that is small."""
    way: str = ""
    """How it gets to the destination: ``shared`` (it is there), ``identical`` or ``copy``."""
    found: str = ""
    """For a copy, what the plan found there: ``absent``, ``empty``, or what was ``left`` there by
    an earlier move."""
    parents: list[str] = field(default_factory=list)
    """Directories on the way to a bind mount that have to be made there, the outermost first."""
    before: dict[str, int] = field(default_factory=dict)
    """Attributes of the empty directory that was found."""
    size: int = 0
    """Bytes on the source's disk."""
    files: int = 0

    @classmethod
    def of_engine(cls, name: str, inspected: dict[str, Any]) -> Volume:
        """A named volume as Podman and Docker both tell of it."""
        return cls(
            "volume",
            name,
            inspected["Mountpoint"],
            driver=inspected["Driver"],
            options=inspected.get("Options") or {},
            labels=inspected.get("Labels") or {},
        )

    def as_dict(self) -> dict[str, Any]:
        """For the wire and the journal."""
        return asdict(self)

    def __str__(self) -> str:
        at = f" (at {', '.join(self.mounted_at)})"
        kind = "bind mount" if self.kind == "bind" else self.kind
        return f"{kind} {self.name}{at}"

    @property
    def is_lasting(self) -> bool:
        """It outlives the workload on its node, so that a way back may find it there."""
        return self.kind != "emptyDir"


def volumes_of(about: dict[str, Any]) -> list[Volume]:
    """Those of a description; a runtime that has none says nothing of them."""
    return [Volume(**volume) for volume in about.get("volumes", [])]


class Store(ABC):
    """What an engine has to do with volumes."""

    removal: str
    """The command that removes {name}, for messages."""

    @abstractmethod
    def inspect(self, name: str) -> Volume | None:
        """The named volume; None when there is none."""

    @abstractmethod
    def create(self, volume: Volume) -> None:
        """Make an empty one of the same name, labels and driver; an error if it is there."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove one that no container has any more; if there is none, that is no failure."""

    @abstractmethod
    def home(self) -> Path:
        """The directory that named volumes are in."""

    @abstractmethod
    def mounts(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Every container's name with its mounts, as the engine tells them."""


class Place(ABC):
    """What copies of a workload's volumes come into, on the node that it goes to."""

    @abstractmethod
    def choose(self, volumes: list[Volume], copies: bool) -> list[Volume]:
        """In the plan: decide how each gets here, or refuse."""

    @abstractmethod
    def check_space(self, volumes: list[Volume]) -> None:
        """In the plan: refuse a node without room for the copies."""

    @abstractmethod
    def prepare(self, volumes: list[Volume]) -> None:
        """Make what the copies come into."""

    @abstractmethod
    def roots(self, volumes: Iterable[Volume]) -> list[Path]:
        """What that is, of all that are copied, in order."""

    @abstractmethod
    def ready(self, volumes: list[Volume]) -> AbstractContextManager[None]:
        """While the copy is restored."""

    @abstractmethod
    def settle(self, volumes: list[Volume]) -> None:
        """The copy serves: have it on the disk before the source's is let go."""

    @abstractmethod
    def discard(self, volumes: list[Volume]) -> None:
        """The copy is given up: what was there before is there again, and nothing else."""


def collect(
    title: str, mounts: Iterable[dict[str, Any]], store: Store, own: Iterable[str]
) -> list[Volume]:
    """The volumes behind the mounts of a workload whose containers are ``own``, each one once."""
    found: dict[tuple[str, str], Volume] = {}
    for mount in mounts:
        if mount["Type"] == "tmpfs":  # memory: it is in the checkpoint
            continue
        volume = _of(title, mount, store)
        one = found.setdefault((volume.kind, volume.name), volume)
        one.mounted_at = sorted({*one.mounted_at, mount["Destination"]})
        one.read_only = one.read_only and not mount["RW"]
    volumes = list(found.values())
    if volumes:
        elsewhere = [(name, of) for name, of in store.mounts() if name not in set(own)]
        for volume in volumes:
            volume.users = [name for name, of in elsewhere if _disturbs(volume, of)]
    return volumes


def _of(title: str, mount: dict[str, Any], store: Store) -> Volume:
    place = mount["Destination"]
    if mount["Type"] == "volume":
        volume = store.inspect(mount["Name"])
        if volume is None:
            raise FlowferryError(
                "volume_cannot_move", f"{title}: the volume {mount['Name']} (at {place}) is gone"
            )
        volume.read_only = not mount["RW"]
        return volume
    layered = any(option.startswith("lowerdir=") for option in mount.get("Options") or [])
    if mount["Type"] != "bind" or layered:
        kind = "an overlay" if layered else f"of type {mount['Type']}"
        raise FlowferryError(
            "volume_cannot_move",
            f"{title}: the mount at {place} is {kind}; only named volumes and bind mounts can be "
            "moved, so create the container without it",
        )
    source = mount["Source"]
    return Volume("bind", source, source, read_only=not mount["RW"])


def _disturbs(volume: Volume, mounts: Iterable[dict[str, Any]]) -> bool:
    """Whether a container with these mounts writes to the volume, or would miss what is written."""
    for mount in mounts:
        source = mount.get("Source") or ""
        same = volume.kind == mount["Type"] == "volume" and mount.get("Name") == volume.name
        same |= bool(source) and (_within(source, volume.path) or _within(volume.path, source))
        if same and (mount["RW"] or not volume.read_only):
            return True
    return False


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(other.rstrip("/") + "/")
