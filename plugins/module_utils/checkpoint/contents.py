# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as its files: of a Podman or kubelet archive, or of a directory of CRIU images.

Everything comes by way of a Checkpoint, whatever it is kept in: the size of every file, and the
content of those that say something about it. Memory and file systems are only measured.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from . import images
from .tar import bad_archive, open_tar

# What an archive may unpack to, unless the caller says otherwise.
LIMIT = 64 << 30
_METADATA = {"config.dump", "spec.dump", "status.dump", "stats-dump", "network.status", "dump.log"}
# Images whose content is memory or a file system, whatever their names end in.
_BULK = ("pages-", "tmpfs-", "ghost-file-", "rootfs-")
_MOST_HELD = 256 << 20


@dataclass
class Checkpoint:
    """``kind`` is ``podman``, ``kubelet`` or ``criu``; names are those in the archive."""

    path: Path
    sizes: dict[str, int] = field(default_factory=dict)
    held: dict[str, bytes] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """What stands before the names of images."""
        return "checkpoint/" if "checkpoint/inventory.img" in self.sizes else ""

    @property
    def kind(self) -> str:
        if not self.prefix:
            return "criu"
        annotations = self.metadata("spec.dump").get("annotations") or {}
        manager = annotations.get("io.container.manager") if isinstance(annotations, dict) else None
        return "podman" if manager == "libpod" else "kubelet"

    def where(self, name: str) -> str:
        """A file of the checkpoint, for messages."""
        return f"{self.path}: {name}"

    def has(self, image: str) -> bool:
        return self.prefix + image in self.sizes

    def image(self, name: str) -> bytes:
        """The content of an image, which must be there."""
        full = self.prefix + name
        if full not in self.held:
            raise images.bad_image(self.where(full), "is not there")
        return self.held[full]

    def messages(self, image: str, kind: str, message: str) -> Iterator[Any]:
        """The messages of an image."""
        where = self.where(self.prefix + image)
        return images.messages(self.image(image), kind, message, where)

    def message(self, image: str, kind: str, message: str) -> Any:
        """The first message of an image, which has one at least."""
        for found in self.messages(image, kind, message):
            return found
        raise images.bad_image(self.where(self.prefix + image), "has no message")

    def images(self) -> list[str]:
        """Names of the images that are held."""
        start = len(self.prefix)
        names = (name[start:] for name in self.held if name.startswith(self.prefix))
        return sorted(name for name in names if name.endswith(".img"))

    def metadata(self, name: str) -> dict[str, Any]:
        """The object in one of the engine's JSON files; empty when there is no such file."""
        if name not in self.held:
            return {}
        try:
            found = json.loads(self.held[name])
        except (ValueError, RecursionError) as error:
            raise images.bad_image(self.where(name), f"is not JSON ({error})") from error
        if not isinstance(found, dict):
            raise images.bad_image(self.where(name), "is not a JSON object")
        return found

    def add(self, name: str, size: int) -> bool:
        """Note a file; True when its content is to be held."""
        self.sizes[name] = size
        if not _is_held(name):
            return False
        if size > images.LARGEST_IMAGE:
            raise images.bad_image(
                self.where(name), f"has {size} bytes, the limit is {images.LARGEST_IMAGE}"
            )
        if sum(map(len, self.held.values())) + size > _MOST_HELD:
            raise bad_archive(self.path, f"has more than {_MOST_HELD} bytes of images")
        return True


def _is_held(name: str) -> bool:
    image = name.removeprefix("checkpoint/")
    if "/" in image or image.startswith(_BULK):
        return False
    return image.endswith(".img") or name in _METADATA


def read_checkpoint(path: Path, limit: int = LIMIT) -> Checkpoint:
    """The checkpoint at ``path``, an archive or a directory; refused if it is none."""
    if not path.exists():
        raise FlowferryError("no_checkpoint", f"{path} does not exist; check the path")
    checkpoint = Checkpoint(path)
    if path.is_dir():
        _read_directory(checkpoint)
    else:
        _read_archive(checkpoint, limit)
    if not checkpoint.has("inventory.img"):
        raise FlowferryError(
            "no_checkpoint",
            f"{path} has no inventory.img, which every checkpoint has; it is neither an archive of "
            "Podman or a kubelet nor a directory of CRIU's images",
        )
    return checkpoint


def _read_archive(checkpoint: Checkpoint, limit: int) -> None:
    with open_tar(checkpoint.path, limit) as members:
        for member, data in members:
            if not member.is_directory and checkpoint.add(member.name, member.size):
                checkpoint.held[member.name] = b"".join(data)


def _read_directory(checkpoint: Checkpoint) -> None:
    for folder, directories, files in os.walk(checkpoint.path):
        for name in (*directories, *files):
            path = Path(folder) / name
            about = path.lstat()
            if stat.S_ISDIR(about.st_mode):
                continue
            if not stat.S_ISREG(about.st_mode):
                raise bad_archive(
                    checkpoint.path, f"member {name!r} is a link, device, pipe or socket"
                )
            if checkpoint.add(str(path.relative_to(checkpoint.path)), about.st_size):
                checkpoint.held[str(path.relative_to(checkpoint.path))] = images.read(path)
