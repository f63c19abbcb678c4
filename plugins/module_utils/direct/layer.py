# SPDX-License-Identifier: Apache-2.0
"""What a container has written to its own file system, outside of volumes.

The runtime has that in a directory of its own above those of the image (an overlay). It is read
there at the source, all of it while the container stands still; at the destination it is written
from within the container, so that no link in it leads anywhere else.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..criu import link
from ..criu_service import KERNEL_DATA
from ..errors import FlowferryError

ARCHIVE = "written.tar"
MOST = 16 << 20
"""Bytes that may be sent while clients wait."""
_OPAQUE = "trusted.overlay.opaque"
# CRI-O makes this one in every container.
_MADE = {"etc/mtab": "/proc/mounts"}


class Layer:
    """Of one container: the directory of what it has written, if there is one, above others.

    ``mounts`` are the places where it has something mounted.
    """

    def __init__(self, upper: Path | None, lower: list[str], mounts: set[str]) -> None:
        self._upper = upper
        self._lower = lower
        self._mounts = mounts | {str(KERNEL_DATA)}  # and what is lent to it for a while

    @classmethod
    def of(cls, pid: int) -> Layer:
        """That of the container that a process is in."""
        options: dict[str, str] = {}
        mounts = set()
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            mounts.add(fields.split()[4])
            if fields.split()[4] == "/" and rest.split()[0] == "overlay":
                options = dict(one.partition("=")[::2] for one in rest.split()[2].split(","))
        upper = Path(options.get("upperdir", "-"))
        lower = options.get("lowerdir", "").split(":")
        return cls(upper if upper.is_dir() else None, lower, mounts)

    def check(self) -> None:
        """Refuse what would not be the same at the destination."""
        if self._upper is None:
            raise _refused("what it has written to its file system is not known here: no overlay")
        total = 0
        for path, info in self._written():
            reason = self._trouble(path, info)
            if reason:
                raise _refused(f"{reason}: /{path}")
            total += info.st_size if stat.S_ISREG(info.st_mode) else 0
        if total > MOST:
            raise _refused(
                f"it has written {total >> 20} MB of files outside of volumes, and only "
                f"{MOST >> 20} MB are sent while clients wait; use a volume for them"
            )

    def pack(self, archive: Path) -> None:
        """Write them into an archive; there is none if there are none."""
        found = [path for path, _ in self._written()]
        if not found or self._upper is None:
            return
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in found:
                tar.add(self._upper / path, arcname=path, recursive=False)

    def _written(self) -> Iterator[tuple[str, os.stat_result]]:
        """Paths below the root, directories before what is in them.

        Without those that runtimes make to mount something there, directories that the image has
        as well, and the names of sockets, which whoever is restored with one makes again.
        """
        top = str(self._upper or "")
        for directory, directories, files in os.walk(top):
            directories.sort()
            for name in directories + sorted(files):
                path = os.path.relpath(f"{directory}/{name}", top)
                info = os.lstat(f"{top}/{path}")
                if stat.S_ISSOCK(info.st_mode) or f"/{path}" in self._mounts:
                    continue
                if stat.S_ISDIR(info.st_mode) and self._is_known(path, info):
                    continue
                if stat.S_ISLNK(info.st_mode) and link(Path(top, path)) == _MADE.get(path):
                    continue
                yield path, info

    def _is_known(self, path: str, info: os.stat_result) -> bool:
        """Whether a directory is there for a mount, or from the image and with its attributes."""
        lower = next((one for one in self._lower if os.path.lexists(f"{one}/{path}")), None)
        if lower and _OPAQUE in os.listxattr(f"{self._upper}/{path}"):
            return False
        if any(mount.startswith(f"/{path}/") for mount in self._mounts):
            return True
        other = os.lstat(f"{lower}/{path}") if lower else None
        told = ("st_mode", "st_uid", "st_gid")
        return other is not None and all(getattr(other, one) == getattr(info, one) for one in told)

    def _trouble(self, path: str, info: os.stat_result) -> str:
        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            return "it has removed a file of its image, or made a device"
        names = os.listxattr(f"{self._upper}/{path}", follow_symlinks=False)
        if any(not name.startswith("trusted.overlay.") for name in names):
            return "it has given a file extended attributes"
        if _OPAQUE in names and any(os.path.lexists(f"{one}/{path}") for one in self._lower):
            return "it has replaced a directory of its image"
        return ""


def take_out(archive: str, directory: int) -> None:
    """Have this container have the same; the archive is below a directory of the node."""
    with os.fdopen(os.open(archive, os.O_RDONLY, dir_fd=directory), "rb") as file:
        _take_out(file)


def _take_out(file: BinaryIO) -> None:
    with tarfile.open(fileobj=file) as tar:
        tar.extraction_filter = lambda member, _: member  # where Python would have one of its own
        for member in tar:
            there = Path(member.name)
            is_directory = there.is_dir() and not there.is_symlink()
            if not (is_directory and member.isdir()):
                there.unlink(missing_ok=True)
            tar.extract(member, numeric_owner=True)


def _refused(reason: str) -> FlowferryError:
    return FlowferryError("direct_impossible", reason)
