# SPDX-License-Identifier: Apache-2.0
"""The files that processes have open or mapped: which of them have to move with them.

CRIU's images name files by path. What a process only reads (its program, libraries, content) has to
be on the destination beforehand. What it writes moves with it, unless both nodes mount it from the
same storage.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .criu import link
from .errors import FlowferryError

# File systems that nodes share; their files are where they are on every node that mounts them.
_SHARED = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "glusterfs",
    "lustre",
    "gpfs",
    "ocfs2",
    "gfs2",
    "9p",
}
_INDEX = "index.json"


@dataclass(frozen=True)
class OpenFile:
    """A regular file, by the path that the processes opened it by."""

    path: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    written: bool
    """Some process may write to it."""
    shared: bool
    """It is on storage that other nodes can mount as well."""

    @property
    def moves(self) -> bool:
        """It goes with the processes."""
        return self.written and not self.shared

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return asdict(self)


def find(pids: Iterable[int]) -> list[OpenFile]:
    """Every regular file that one of the processes has open or mapped, and that has a name."""
    written: dict[str, bool] = {}
    for pid in pids:
        for path, writes in _of_process(pid):
            written[path] = written.get(path, False) or writes
    mounts = _mounts()
    found = []
    for path, writes in sorted(written.items()):
        try:
            info = Path(path).stat()
        except FileNotFoundError:  # closed and removed in the meantime
            continue
        kind = _type_of(path, mounts)
        # Of itself a process may read there at any moment (Redis does, ten times a second), and
        # every kernel has it.
        if stat.S_ISREG(info.st_mode) and kind != "proc":
            shared = is_shared(kind)
            found.append(
                OpenFile(
                    path,
                    info.st_size,
                    stat.S_IMODE(info.st_mode),
                    info.st_uid,
                    info.st_gid,
                    info.st_mtime_ns,
                    writes,
                    shared,
                )
            )
    return found


def _of_process(pid: int) -> list[tuple[str, bool]]:
    try:
        return [*_open(pid), *_mapped(pid)]
    except OSError:  # it has ended in the meantime
        return []


def _open(pid: int) -> list[tuple[str, bool]]:
    found = []
    for number in Path(f"/proc/{pid}/fd").iterdir():
        target = link(number)
        if target.startswith("/") and not target.endswith(" (deleted)"):
            try:
                lines = Path(f"/proc/{pid}/fdinfo/{number.name}").read_text().splitlines()
            except FileNotFoundError:  # closed in the meantime
                continue
            flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
            found.append((target, flags & os.O_ACCMODE != os.O_RDONLY))
    return found


def _mapped(pid: int) -> list[tuple[str, bool]]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/") and not fields[5].endswith(" (deleted)"):
            found.append((fields[5], "w" in fields[1] and "s" in fields[1]))
    return found


def is_shared(kind: str) -> bool:
    """Whether nodes can mount the same storage by a file system of this type."""
    return kind in _SHARED


def _mounts() -> list[tuple[str, str]]:
    """Mount points and types of their file systems, the longest path first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted(
        ((line.split()[1], line.split()[2]) for line in lines), key=lambda at: -len(at[0])
    )


def _type_of(path: str, mounts: list[tuple[str, str]]) -> str:
    for point, kind in mounts:
        if path == point or path.startswith(point.rstrip("/") + "/"):
            return kind
    return ""


def check_destination(title: str, files: Iterable[OpenFile]) -> None:
    """Refuse a node that lacks what is read, or has something else where a file would come to."""
    for file in files:
        here = Path(file.path)
        if file.moves:
            if here.exists():
                raise FlowferryError(
                    "file_taken",
                    f"{title} writes to {file.path}, and the destination has a file of that name "
                    "which would be lost; remove or rename it there",
                )
        elif not here.is_file() or (not file.shared and here.stat().st_size != file.size):
            raise FlowferryError(
                "no_file",
                f"{title} uses {file.path} ({file.size} bytes), and the destination does not have "
                "the same file; install the same version there, or mount the same storage",
            )


def pack(files: Iterable[OpenFile], directory: Path) -> list[OpenFile]:
    """Put what moves into ``directory``, with an index; returns it."""
    moving = [file for file in files if file.moves]
    for number, file in enumerate(moving):
        shutil.copyfile(file.path, directory / str(number))
    (directory / _INDEX).write_text(json.dumps([file.as_dict() for file in moving]))
    return moving


def packed(directory: Path) -> list[OpenFile]:
    """What pack() has put into ``directory``."""
    return [OpenFile(**file) for file in json.loads((directory / _INDEX).read_text())]


def unpack(directory: Path) -> None:
    """Put the files of pack() where the processes expect them."""
    for number, file in enumerate(packed(directory)):
        here = Path(file.path)
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / str(number), here)
        os.chown(here, file.uid, file.gid)
        here.chmod(file.mode)
        os.utime(here, ns=(file.mtime_ns, file.mtime_ns))


class Record:
    """Files that a workload takes with it when it leaves a node, kept until it has left.

    It says whose they are, so that one which an earlier workload left removes nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, owner: str, files: Iterable[OpenFile]) -> None:
        """Note them, before the first is touched."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"owner": owner, "paths": [file.path for file in files]}))

    def forget(self) -> None:
        """They stay."""
        self.path.unlink(missing_ok=True)

    def remove_files(self, owner: str) -> None:
        """They go, if they are the owner's."""
        if not self.path.exists():
            return
        noted = json.loads(self.path.read_text())
        for path in noted["paths"] if noted["owner"] == owner else []:
            Path(path).unlink(missing_ok=True)
        self.forget()
