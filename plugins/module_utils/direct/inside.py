# SPDX-License-Identifier: Apache-2.0
"""A program of the node that runs within the namespaces of a container.

Neither the program nor its libraries are in the container, and nothing is mounted there for it: it
is executed through a descriptor of the node's root directory, by the dynamic loader, which is told
where the program and its libraries are in the same way. Any path of the node is ``path(...)`` for
it. The kernel lets nobody in the container look at that descriptor who has fewer capabilities.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from ..cgroup import ROOT
from ..commands import run
from ..errors import FlowferryError

_LIBC = ctypes.CDLL(None, use_errno=True)
# Of setns(2), unshare(2) and mount(2); Python has the first two from 3.12 on.
_NEW_MOUNTS = 0x00020000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
# Of open_tree(2) and mount_setattr(2), which no older library has; the same on every machine.
_OPEN_TREE, _CLONE = 428, 1
_MOUNT_SETATTR, _EMPTY_PATH, _ATTRIBUTE_READ_ONLY = 442, 0x1000, 1
_HERE = -100
# The user namespace stays the node's: without its capabilities CRIU can do nothing.
_DESCRIPTORS = 4096
# So many process ids are left to those who begin before an application has come, and after.
_APART = 10000
KINDS = ("ipc", "uts", "net", "pid", "mnt")


class Child:
    """A process that was forked here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; whoever has a ``timeout`` has ended it before."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def path(root: int, name: Path | str) -> str:
    """A path of the node for a program that has the node's root directory open as ``root``."""
    return f"/proc/self/fd/{root}{os.path.realpath(name)}"


@lru_cache(maxsize=1)
def _loaded(program: str) -> tuple[str, str, tuple[str, ...]]:
    """The program's file, its loader's, and the directories of its libraries."""
    found = shutil.which(program)
    if found is None:
        raise FlowferryError(f"{program}_missing", f"{program} is not installed on this node")
    words = [line.split() for line in run(["ldd", found]).splitlines()]
    libraries = [os.path.realpath(line[2]) for line in words if line[1:2] == ["=>"]]
    loader = next(line[0] for line in words if line[0].startswith("/") and "ld" in line[0])
    directories = tuple(dict.fromkeys(str(Path(one).parent) for one in libraries))
    return os.path.realpath(found), os.path.realpath(loader), directories


def start(
    pid: int,
    program: str,
    words: list[str],
    keep: Iterable[int],
    root: int,
    *,
    joins: bool = False,
    copies_mounts: bool = False,
) -> Child:
    """Run a program in the namespaces of a process.

    ``keep`` are descriptors that it inherits, beside ``root``, the node's root directory. One that
    ``joins`` is in the cgroups of that process too, but for the one that limits its share of the
    processors, and one that ``copies_mounts`` has a copy.
    """
    file, loader, directories = _loaded(program)
    libraries = ":".join(path(root, one) for one in directories)
    command = ["ld.so", "--library-path", libraries, path(root, file), *words]
    executable = os.open(loader, os.O_RDONLY)
    kept = [root, *keep]

    def execute() -> None:
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        os.execve(executable, command, {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin")})

    groups = [path for name, path in cgroups_of(pid) if name != "cpu"] if joins else []
    try:
        process = Path(f"/proc/{pid}")
        return fork_inside(process, execute, groups=groups, copies_mounts=copies_mounts)
    finally:
        os.close(executable)


def fork_inside(
    process: Path,
    body: Callable[[], None],
    *,
    groups: Iterable[Path] = (),
    copies_mounts: bool = False,
) -> Child:
    """Run a function in a process of its own in the namespaces of another one, by its directory.

    The child that is given waits for that, and ends as it has ended.
    """
    spaces = [os.open(process / "ns" / kind, os.O_RDONLY) for kind in KINDS]
    forked = os.fork()
    if forked:
        for descriptor in spaces:
            os.close(descriptor)
        return Child(forked)
    status = 71
    try:
        os.setsid()
        _enter(spaces, groups, copies_mounts)
        inner = os.fork()  # only its children are in the namespace of process ids
        if inner == 0:
            body()
            os._exit(0)
        os.closerange(3, _DESCRIPTORS)  # or whoever has the other ends would take them for open
        status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
    except BaseException as error:  # nothing of this process may go on
        print(f"inside {process}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status & 0xFF)


def on_root(pid: int, body: Callable[[int], None]) -> bool:
    """Call with the root directory of a process, which may be written to; whether that succeeded.

    A container may have its root read-only; but that is so only of the mount that it sees.
    """
    return fork_inside(Path(f"/proc/{pid}"), lambda: body(_writable_root())).wait() == 0


def keep_ids_free(pid: int, highest: int) -> None:
    """Have what begins from now on in a namespace of process ids, that of ``pid``, get others.

    Those up to ``highest`` belong to whoever is to be restored there.
    """
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    last = highest + _APART if highest + 2 * _APART < limit else highest // 2
    # The kernel goes by who writes, and the container's own is read-only.
    with Path("/proc/sys/kernel/ns_last_pid").open("w") as file:

        def tell() -> None:
            os.write(file.fileno(), str(last).encode())

        if fork_inside(Path(f"/proc/{pid}"), tell).wait() != 0:
            raise FlowferryError(
                "prepare_failed",
                "the process ids of the application could not be kept free at its destination; "
                "the helper's log on the node says why",
            )


def _writable_root() -> int:
    tree = _LIBC.syscall(_OPEN_TREE, _HERE, b"/", _CLONE | os.O_CLOEXEC)
    _check(tree, "open_tree")
    changes = struct.pack("=4Q", 0, _ATTRIBUTE_READ_ONLY, 0, 0)
    told = (tree, b"", _EMPTY_PATH, changes, len(changes))
    _check(_LIBC.syscall(_MOUNT_SETATTR, *told), "mount_setattr")
    return int(tree)


def _enter(spaces: list[int], groups: Iterable[Path], copies_mounts: bool) -> None:
    for group in groups:
        (group / "cgroup.procs").write_text("0")
    for descriptor in spaces:
        _check(_LIBC.setns(descriptor, 0), "setns")
    if copies_mounts:
        _check(_LIBC.unshare(_NEW_MOUNTS), "unshare")
        _mount("", "/", "", _RECURSIVE | _PRIVATE)
    os.chdir("/")


def cgroups_of(pid: int) -> list[tuple[str, Path]]:
    """The groups of a process in every hierarchy that this node has mounted.

    Each with one of the names of its controllers; where the processors are shared, with "cpu".
    """
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        own = controllers.split(",")
        for name in (one.partition("name=")[2] or one for one in (controllers, *own) if one):
            directory = ROOT / name / group.lstrip("/")
            if (directory / "cgroup.procs").exists():
                found.append(("cpu" if "cpu" in own else name, directory))
                break
    return found


class Beforehand:
    """A process that was forked before anybody waits, and does its work when it is told a word.

    ``first`` it does at once. ``keep`` are the descriptors that it needs.
    """

    def __init__(
        self,
        work: Callable[[str], None],
        first: Callable[[], None] = lambda: None,
        keep: Iterable[int] = (),
    ) -> None:
        told, self._tell = os.pipe()
        forked = os.fork()
        if not forked:
            _await_word(told, {told, *keep}, first, work)
        os.close(told)
        self._child = Child(forked)

    def begin(self, word: str) -> None:
        """Now it is to work, beside whoever says so."""
        os.write(self._tell, word.encode())

    def succeeds(self) -> bool:
        """Wait until it has done so. One that was never told to has nothing to do."""
        self.close()
        return self._status == 0

    def close(self) -> None:
        """It is not needed any more."""
        if self._tell >= 0:
            os.close(self._tell)
            self._tell = -1
            self._status = self._child.wait()


def _await_word(
    told: int, keep: set[int], first: Callable[[], None], work: Callable[[str], None]
) -> NoReturn:
    """What the process of a Beforehand does."""
    status = 71
    try:
        at = 3  # others are closed, or whoever has the other ends would take them for open
        for kept in sorted(keep):
            os.closerange(at, kept)
            at = kept + 1
        os.closerange(at, _DESCRIPTORS)
        first()
        if word := os.read(told, 4096).decode():
            work(word)
        status = 0
    except BaseException as error:  # nothing of this process may go on
        print(f"inside a container: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def own_processes(container: int) -> Beforehand:
    """Has /proc in a copy's mounts show its own namespace, when it is told the first process.

    What the container's runtime has hidden or made read-only below /proc is so again.
    """
    lines = Path(f"/proc/{container}/mountinfo").read_text().splitlines()
    mounts = [(words[4], words[words.index("-") + 1]) for words in map(str.split, lines)]
    covered = [(at, kind) for at, kind in mounts if at.startswith("/proc/")]
    processes = Path(f"/proc/{container}/root/proc")
    return Beforehand(lambda first: _show(processes / first, covered))


def _show(process: Path, covered: list[tuple[str, str]]) -> None:
    _enter([os.open(process / "ns" / kind, os.O_RDONLY) for kind in ("pid", "mnt")], (), False)
    inner = os.fork()  # only its children are in the namespace of process ids
    if inner:
        if os.waitpid(inner, 0)[1]:
            raise OSError(f"no /proc for {process}")
        return
    _mount("proc", "/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXEC)
    for at, kind in covered:
        _cover(at, kind)


def with_files_of(container: int, work: Callable[[str, int], None]) -> Beforehand:
    """Works with the mounts of a container, when it is told a path of the node.

    That is told to ``work`` with the node's root directory, which the path is relative to.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    mounts = os.open(f"/proc/{container}/ns/mnt", os.O_RDONLY)
    try:
        return Beforehand(
            lambda path: work(path.lstrip("/"), root),
            lambda: _enter([mounts], (), False),
            (root, mounts),
        )
    finally:
        os.close(root)
        os.close(mounts)


def _cover(at: str, kind: str) -> None:
    """As a container's runtime hides a file or directory of /proc, or makes it read-only."""
    if not Path(at).exists():
        return
    if kind == "proc":
        flags = _BIND | _NO_SUID | _NO_DEVICES | _NO_EXEC
        _mount(at, at, "", _BIND | _RECURSIVE)
        _mount("", at, "", flags | _REMOUNT | _READ_ONLY)
    elif Path(at).is_dir():
        _mount("tmpfs", at, "tmpfs", _READ_ONLY)
    else:
        _mount("/dev/null", at, "", _BIND)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    told = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _check(_LIBC.mount(*told), f"mount at {target}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
