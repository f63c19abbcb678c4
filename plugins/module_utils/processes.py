# SPDX-License-Identifier: Apache-2.0
"""Processes of this node, as /proc shows them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

# Those in which a process of a node is born; the network namespace is the one that may differ.
_NAMESPACES = ("mnt", "pid", "ipc", "uts", "user", "cgroup")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """One process."""

    pid: int
    parent: int
    group: int
    session: int
    terminal: int
    """Device number of its controlling terminal; 0 when it has none."""
    started: str
    """Clock ticks since boot, which tells it from a namesake."""

    @classmethod
    def read(cls, pid: int) -> Process | None:
        """None when it has ended."""
        fields = _fields(pid)
        if not fields:
            return None
        parent, group, session, terminal = (int(field) for field in fields[1:5])
        return cls(pid, parent, group, session, terminal, fields[19])

    # Of a process that runs on anything may have ended since it was seen: then it has none.

    def command(self) -> str:
        """Its name."""
        return _read(f"/proc/{self.pid}/comm").strip()

    def threads(self) -> list[int]:
        """Ids of its threads, its own among them."""
        try:
            return sorted(int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir())
        except OSError:
            return []

    def resident_bytes(self) -> int:
        """Memory that it has in use."""
        numbers = _read(f"/proc/{self.pid}/statm").split()
        return int(numbers[1]) * _PAGE if numbers else 0

    def foreign_namespaces(self) -> list[str]:
        """Kinds of namespaces, but for the network's, that are not those of this node."""
        own, its = Path("/proc/self/ns"), Path(f"/proc/{self.pid}/ns")
        # Times are no sign: the kernel makes the inode of a namespace anew when it is looked at.
        try:
            return [kind for kind in _NAMESPACES if not (own / kind).samefile(its / kind)]
        except OSError:
            return []


def start_time(pid: int) -> int:
    """Clock ticks since boot, which tell a process from a namesake; 0 when it has ended."""
    fields = _fields(pid)
    return int(fields[19]) if fields else 0


def descends(pid: int, ancestors: Collection[int]) -> bool | None:
    """Whether it is one of these processes or their descendants; None if it ended meanwhile."""
    while pid not in ancestors:
        found = Process.read(pid)
        if found is None:
            return None
        if found.parent == 0:
            return False
        pid = found.parent
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _fields(pid: int) -> list[str]:
    """Of its state from the third on (proc(5)); none when it has ended.

    One whose first thread has ended goes on, and has its files and its ports, until the last has.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        has_ended = fields[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) < 2
    except OSError:
        return []
    return [] if has_ended else fields


def in_network(namespace: Path) -> list[Process]:
    """The processes in a named network namespace, by pid; none when there is no such namespace."""
    try:
        wanted = namespace.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            same = os.path.samestat(entry.stat(), wanted)
        except OSError:  # gone in the meantime
            continue
        process = Process.read(int(entry.parts[2])) if same else None
        if process is not None:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def roots(processes: list[Process]) -> list[Process]:
    """Those whose parent is not among them."""
    pids = {process.pid for process in processes}
    return [process for process in processes if process.parent not in pids]
