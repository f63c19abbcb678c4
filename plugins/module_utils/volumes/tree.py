# SPDX-License-Identifier: Apache-2.0
"""The files of a volume, reached so that nothing in it leads outside.

Whoever writes to a volume can put a symbolic link in the way between two looks at it. So every name
is opened from the descriptor of its directory, and no link is followed, where a volume is read as
well as where it is written.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FlowferryError

KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
MARK = "trusted.flowferry"
"""The attribute of a volume's root that mark.py keeps; it is the node's, not the content's."""
# Labels of a security module are given by the node that a file is on.
_NOT_CONTENT = {MARK, "security.selinux"}
# A change within this time (nanoseconds) of a look may have the same time stamp as what was seen:
# the kernel's clock for files stands still for some milliseconds, another machine's may be off.
_UNSETTLED = 1_000_000_000
_LONGEST_PATH, _LONGEST_PART = 4096, 255
_NO_ATTRIBUTES = {errno.ENOTSUP, errno.EPERM}


@dataclass(frozen=True)
class Entry:
    """One name in a volume. The volume itself has the path ""."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    target: str = ""
    """Where a symbolic link leads."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Extended attributes, in base64; access control lists are among them."""
    atime_ns: int = field(default=0, compare=False)
    # What only the node on which it is can know.
    ctime_ns: int = 0
    inode: int = 0
    links: int = 1
    blocks: int = field(default=0, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return asdict(self)

    @property
    def content(self) -> tuple[Any, ...]:
        """What is the same on every node that has it."""
        shown = (self.path, self.kind, self.mode, self.uid, self.gid, self.mtime_ns)
        return (*shown, self.target, sorted(self.attributes.items()))

    @property
    def settled(self) -> bool:
        """A later change will show in its time stamps."""
        return 0 < self.ctime_ns < time.time_ns() - _UNSETTLED


class Tree:
    """A directory, or one file, and what is in it."""

    def __init__(self, root: Path | str) -> None:
        # What leads to the volume is the node's own, and may be links.
        self.root = Path(os.path.realpath(root))
        if self.root == self.root.parent:
            raise FlowferryError("volume_cannot_move", "the whole file system / cannot be copied")
        self._base = os.open(self.root.parent, os.O_PATH | os.O_DIRECTORY)
        self._opened: tuple[str, int] = ("", -1)

    def close(self) -> None:
        """Let its descriptors go."""
        self.let_go()
        if self._base >= 0:
            os.close(self._base)
            self._base = -1

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- names

    def at(self, path: str) -> tuple[int, str]:
        """The descriptor of the directory that a path is in, and its name there."""
        if not path:
            return self._base, self.root.name
        *parents, name = parts_of(path)
        wanted = "/".join(parents)
        if self._opened[1] < 0 or self._opened[0] != wanted:
            self.let_go()
            self._opened = (wanted, self._open_directory(parents))
        return self._opened[1], name

    def _open_directory(self, parents: list[str]) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
        current = os.open(self.root.name, flags, dir_fd=self._base)
        for part in parents:
            try:
                inner = os.open(part, flags, dir_fd=current)
            finally:
                os.close(current)
            current = inner
        return current

    def let_go(self) -> None:
        """Keep no directory in it open, so that it can be unmounted."""
        if self._opened[1] >= 0:
            os.close(self._opened[1])
        self._opened = ("", -1)

    def named(self, path: str) -> str:
        """A path for calls that take no descriptor; its last part must not be followed either."""
        directory, name = self.at(path)
        return f"/proc/self/fd/{directory}/{name}"

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor of a file or directory in it, which is no link."""
        directory, name = self.at(path)
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(name, flags, mode, dir_fd=directory)

    # -- what is there

    def entry(self, path: str, before: Entry | None = None) -> Entry:
        """What is there now. Attributes are taken from ``before`` if nothing has changed."""
        directory, name = self.at(path)
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return self._entry(path, info, before)

    def _entry(self, path: str, info: os.stat_result, before: Entry | None) -> Entry:
        kind = KINDS[stat.S_IFMT(info.st_mode)]
        known = before is not None and _same(before, info) and before.settled
        if before is not None and known:
            attributes, target = before.attributes, before.target
        else:
            attributes = self._attributes(path)
            target = str(Path(self.named(path)).readlink()) if kind == "link" else ""
        return Entry(
            path=path,
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=info.st_uid,
            gid=info.st_gid,
            mtime_ns=info.st_mtime_ns,
            size=info.st_size if kind == "file" else 0,
            target=target,
            attributes=attributes,
            atime_ns=info.st_atime_ns,
            ctime_ns=info.st_ctime_ns,
            inode=identity(info),
            links=info.st_nlink if kind != "directory" else 1,
            blocks=info.st_blocks,
        )

    def _attributes(self, path: str) -> dict[str, str]:
        named = self.named(path)
        try:
            names = os.listxattr(named, follow_symlinks=False)
            return {
                name: base64.b64encode(os.getxattr(named, name, follow_symlinks=False)).decode()
                for name in sorted(names)
                if name not in _NOT_CONTENT
            }
        except OSError as error:
            if error.errno in _NO_ATTRIBUTES:
                return {}
            raise

    def scan(self, before: Mapping[str, Entry] | None = None) -> dict[str, Entry]:
        """Everything in it, a directory before what is in it. What vanishes meanwhile is left out.

        ``before`` is what an earlier scan has found.
        """
        before = before or {}
        root = self.entry("", before.get(""))
        found = {"": root}
        device = os.stat(self.root.name, dir_fd=self._base, follow_symlinks=False).st_dev
        pending = [""] if root.kind == "directory" else []
        while pending:
            inside = pending.pop()
            for path, info in self._list(inside, device):
                try:
                    found[path] = self._entry(path, info, before.get(path))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                if found[path].kind == "directory":
                    pending.append(path)
        return found

    def _refuse_mount(self, path: str, info: os.stat_result, device: int) -> None:
        if info.st_dev != device and stat.S_ISDIR(info.st_mode):
            raise FlowferryError(
                "volume_cannot_move",
                f"another file system is mounted at {self.root / path}, inside of a volume; mount "
                "it into the container by itself, or unmount it",
            )

    def _list(self, inside: str, device: int) -> Iterator[tuple[str, os.stat_result]]:
        try:
            descriptor = self.open(inside, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            with os.scandir(descriptor) as listed:
                for one in listed:
                    try:
                        info = one.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    path = f"{inside}/{one.name}" if inside else one.name
                    self._refuse_mount(path, info, device)
                    yield path, info
        finally:
            os.close(descriptor)


INODE = (1 << 64) - 1
"""The part of an identity that stays when the file system is mounted again."""


def identity(info: os.stat_result) -> int:
    """The inode, with the device in it: an overlay's files have those of several."""
    return info.st_dev << 64 | info.st_ino


def _same(entry: Entry, info: os.stat_result) -> bool:
    """Nothing has touched it since."""
    return (entry.inode, entry.ctime_ns, entry.mode) == (
        identity(info),
        info.st_ctime_ns,
        stat.S_IMODE(info.st_mode),
    )


def parts_of(path: str) -> list[str]:
    """The names on the way to a path; one that leads out of the volume is refused."""
    parts = path.split("/")
    bad = any(part in ("", ".", "..") or len(os.fsencode(part)) > _LONGEST_PART for part in parts)
    if bad or "\0" in path or len(path) > _LONGEST_PATH:
        raise FlowferryError("transfer_failed", f"a volume cannot have the path {path[:200]!r}")
    return parts


def open_to_read(tree: Tree, path: str) -> int:
    """A descriptor to read a file by, which leaves no trace in its access time."""
    try:
        return tree.open(path, os.O_RDONLY | os.O_NOATIME)
    except PermissionError:  # a file system that knows no owners
        return tree.open(path, os.O_RDONLY)


def disk_usage(entries: Mapping[str, Entry]) -> tuple[int, int]:
    """Bytes and inodes that these take on their file system."""
    inodes = {entry.inode: 512 * entry.blocks for entry in entries.values()}
    return sum(inodes.values()), len(inodes)


def refuse_devices(root: Path, entries: Mapping[str, Entry]) -> None:
    """Refuse a volume with device nodes in it."""
    for path, entry in entries.items():
        if entry.kind.endswith("device"):
            raise FlowferryError(
                "volume_cannot_move",
                f"{root / path} in a volume is a {entry.kind}, which means another thing on "
                "another node; remove it",
            )
