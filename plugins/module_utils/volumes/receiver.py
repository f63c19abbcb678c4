# SPDX-License-Identifier: Apache-2.0
"""The destination's end: carries out the steps of the source, within the volumes and nowhere else.

Names are opened one by one from the volume's root, links are never followed, and what is neither a
file, a directory, a link, a named pipe nor a socket's name is refused.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from ..transfer import JsonLines
from .blocks import BLOCK
from .inventory import inventory
from .stream import LONGEST_LINE, send_inventory
from .tree import MARK, Entry, Tree

_LARGEST = 1 << 62
_LONGEST_RUN = (1 << 20) + BLOCK
_PUNCH_HOLE_KEEP_SIZE = 3
_SPECIAL = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK}


class VolumeReceiver:
    """The copies of a workload's volumes."""

    def __init__(self, lines: JsonLines, roots: Sequence[Path]) -> None:
        self._lines = lines
        self._trees = [Tree(root) for root in roots]
        self._tree = self._trees[0]
        self._file = _File()
        self.received = 0
        self._steps: dict[str, Callable[[dict[str, Any]], None]] = {
            "aside": self._put_aside,
            "back": self._bring_back,
            "remove": self._remove,
            "make": self._make,
            "another name": self._link,
            "file": self._open,
            "data": self._data,
            "hole": self._hole,
            "close": self._close_file,
            "attributes": lambda step: self._attributes(_entry(step)),
        }

    def close(self) -> None:
        """Let the volumes go."""
        self._file.close()
        for tree in self._trees:
            tree.close()

    def serve(self) -> None:
        """Until the source ends the stream; a step that cannot be done is an error."""
        send_inventory(self._lines, [inventory(tree) for tree in self._trees])
        while (step := self._lines.receive(LONGEST_LINE)) is not None:
            if not isinstance(step, dict):
                raise FlowferryError("transfer_failed", f"a step that means nothing: {step!r}")
            if "volume" in step:
                self._choose(step["volume"])
            elif step.get("op") == "end":
                self._end(bool(step.get("last")))
            else:
                self._carry_out(step)

    def _choose(self, number: Any) -> None:
        if not isinstance(number, int) or not 0 <= number < len(self._trees):
            raise FlowferryError("transfer_failed", f"there is no volume {number!r}")
        self._file.close()
        self._tree = self._trees[number]

    def _end(self, last: bool) -> None:
        """A pass is on the disk before it is called done; the last one when clients are served."""
        self._file.close()
        for tree in self._trees:
            tree.let_go()
            if not last and os.path.lexists(tree.root):
                sync(tree.root)
        self._lines.send({"received": self.received})

    def _carry_out(self, step: dict[str, Any]) -> None:
        name = step.get("op")
        try:
            self._steps[str(name)](step)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"a step that means nothing: {str(step)[:200]} ({error!r})"
            raise FlowferryError("transfer_failed", reason) from error
        except OSError as error:
            where = step.get("path") or (step.get("entry") or {}).get("path", "")
            raise FlowferryError(
                "transfer_failed", f"{name} of {str(where)!r} in {self._tree.root}: {error}"
            ) from error

    # -- steps

    def _put_aside(self, step: dict[str, Any]) -> None:
        directory, name = self._tree.at(step["path"])
        root = self._tree.open("", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rename(name, _aside(step), src_dir_fd=directory, dst_dir_fd=root)
        finally:
            os.close(root)

    def _bring_back(self, step: dict[str, Any]) -> None:
        directory, name = self._tree.at(step["path"])
        root = self._tree.open("", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rename(_aside(step), name, src_dir_fd=root, dst_dir_fd=directory)
        finally:
            os.close(root)

    def _remove(self, step: dict[str, Any]) -> None:
        directory, name = self._tree.at(step["path"])
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        (os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink)(name, dir_fd=directory)

    def _make(self, step: dict[str, Any]) -> None:
        entry = _entry(step)
        directory, name = self._tree.at(entry.path)
        if entry.kind == "directory":
            os.mkdir(name, 0o700, dir_fd=directory)
            return  # its attributes come when it has its content
        if entry.kind == "link":
            os.symlink(entry.target, name, dir_fd=directory)
        else:
            os.mknod(name, _SPECIAL[entry.kind] | 0o600, dir_fd=directory)
        self._attributes(entry)

    def _link(self, step: dict[str, Any]) -> None:
        first, first_name = self._tree.at(step["of"])
        first = os.dup(first)  # to find the other name may close it
        try:
            directory, name = self._tree.at(step["path"])
            os.link(first_name, name, src_dir_fd=first, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(first)

    def _open(self, step: dict[str, Any]) -> None:
        self._file.close()
        flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if step["fresh"] else 0)
        self._file = _File(self._tree.open(step["path"], flags), step["path"])

    def _data(self, step: dict[str, Any]) -> None:
        offset, length = _part(step)
        if length > _LONGEST_RUN:
            raise ValueError(f"{length} bytes at once")
        data = self._lines.read_exactly(length)
        if len(data) != length:
            raise FlowferryError("transfer_failed", "the stream of volumes ended early")
        self.received += length
        self._file.write(offset, data)

    def _hole(self, step: dict[str, Any]) -> None:
        self._file.punch(*_part(step))

    def _close_file(self, step: dict[str, Any]) -> None:
        entry = _entry(step)
        if entry.path != self._file.path or not 0 <= entry.size < _LARGEST:
            raise ValueError(f"another file is open, or a size of {entry.size}")
        os.ftruncate(self._file.descriptor, entry.size)
        self._file.close()
        self._attributes(entry)

    def _attributes(self, entry: Entry) -> None:
        """Owner, extended attributes, mode and times, in this order: each may undo a later one."""
        directory, name = self._tree.at(entry.path)
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode) != (entry.kind == "directory"):
            raise ValueError("the attributes of something else")
        os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        named = self._tree.named(entry.path)
        _set_extended(named, entry.attributes)
        if not stat.S_ISLNK(info.st_mode):
            Path(named).chmod(entry.mode)
        times = (entry.atime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


class _File:
    """The file that is being written; none at first."""

    def __init__(self, descriptor: int = -1, path: str | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        if descriptor >= 0 and not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self.close()
            raise ValueError("no regular file")

    def write(self, offset: int, data: bytes) -> None:
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            data, offset = data[written:], offset + written

    def punch(self, offset: int, length: int) -> None:
        """Make a hole; zeros where the file system knows none. Beyond the end it is one anyway."""
        length = min(length, os.fstat(self.descriptor).st_size - offset)
        if length <= 0:
            return
        function = ctypes.CDLL(None, use_errno=True).fallocate
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
        if function(self.descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, length) != 0:
            self.write(offset, bytes(length))

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self.path = -1, None


def _aside(step: dict[str, Any]) -> str:
    return f".flowferry-{int(step['number'])}"


def _part(step: dict[str, Any]) -> tuple[int, int]:
    offset, length = int(step["at"]), int(step["length"])
    if offset < 0 or length <= 0 or offset + length > _LARGEST:
        raise ValueError(f"{length} bytes at {offset}")
    return offset, length


def _entry(step: dict[str, Any]) -> Entry:
    entry = Entry(**step["entry"])
    numbers = (entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.atime_ns, entry.size)
    if not all(isinstance(number, int) for number in numbers) or entry.mode & ~0o7777:
        raise ValueError("attributes that nothing can have")
    return entry


def _set_extended(named: str, wanted: dict[str, str]) -> None:
    if MARK in wanted:
        raise ValueError(f"the attribute {MARK} is a node's own")
    try:
        have = set(os.listxattr(named, follow_symlinks=False))
    except OSError:
        have = set()
    for name in have - set(wanted):
        if name.startswith(("user.", "trusted.", "system.posix_acl")) and name != MARK:
            os.removexattr(named, name, follow_symlinks=False)
    for name, value in wanted.items():
        try:
            content = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the attribute {name}") from error
        os.setxattr(named, name, content, follow_symlinks=False)


def sync(path: Path) -> None:
    """Have the file system that this is on write down what it has."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(descriptor)
