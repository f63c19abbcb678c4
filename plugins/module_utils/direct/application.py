# SPDX-License-Identifier: Apache-2.0
"""The application in a container: its processes, and whether they can be moved directly.

In an ordinary container it is the first process. In one that it was moved to, that is the
placeholder, and the application has a namespace of process ids of its own beneath it. In a
prepared container, and wherever it moves from there, it is the child of that program, and in its
namespaces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..cgroup import memory_limit
from ..criu import check_pipes, check_processes, link
from ..errors import FlowferryError
from ..memory.regions import resident
from ..processes import Process, descends
from .layer import Layer

PLACE = "/.flowferry"
"""Where a container sees the directory that the node keeps for it."""
PROGRAM = f"{PLACE}/placeholder"
AS_INIT, AS_PARENT = "--init", "--child"
"""What tells that program that the application is its child: at once, or as soon as it has come."""
CRIU_BYTES = 16 << 20
"""Of memory, that it may use in a container beside those that it restores."""
PATIENCE = 3.0
"""The process of a probe has ended within this time (seconds), or it is somebody else's."""
_KINDS = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time")


class Stranger(FlowferryError):
    """A process that is not the application's: of a probe, which ends by itself, or of a person."""


def application_of(container: int) -> int:
    """The first process of the application, by that of the container."""
    if link(Path(f"/proc/{container}/exe")) != PROGRAM:
        return container
    words = Path(f"/proc/{container}/cmdline").read_bytes().decode(errors="replace").split("\0")
    told = Path(f"/proc/{container}/task/{container}/children").read_text().split()
    children = [found for pid in told if (found := Process.read(int(pid)))]
    if words[1] in (AS_INIT, AS_PARENT):
        # Others are its children because their parents have ended: that was later.
        children.sort(key=lambda one: int(one.started))
    else:
        own = _namespace(container, "pid")
        children = [one for one in children if _namespace(one.pid, "pid") not in (own, "")]
    if not children:
        raise refused("its application has not come yet, or has ended")
    return children[0].pid


def look(
    title: str, container: int, arguments: list[str], pids: Callable[[], list[int]]
) -> dict[str, Any]:
    """What a direct move has to know; FlowferryError if it is impossible.

    ``container`` is the first process, ``arguments`` what it was started with, and ``pids`` are
    all processes in its cgroup. What a probe has begun there is waited for.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return _look_once(title, container, arguments, pids())
        except Stranger:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _look_once(
    title: str, container: int, arguments: list[str], pids: Iterable[int]
) -> dict[str, Any]:
    application = application_of(container)
    tree = [pid for pid in pids if pid != container or container == application]
    _check_tree(tree, application)
    Layer.of(container).check()
    streams = {
        str(number): pipe
        for number in (1, 2)
        if (pipe := link(Path(f"/proc/{application}/fd/{number}"))).startswith("pipe:")
    }
    check_processes(title, tree)
    check_pipes(title, tree, streams.values())
    command, is_child = command_of(arguments)
    found = [process for process in map(Process.read, tree) if process]
    memory_bytes = sum(process.resident_bytes() for process in found)
    _check_limit(memory_limit(container), memory_bytes)
    return {
        "pid": application,
        "command": command,
        "is_child": is_child,
        "highest_id": max(id_of(task) for pid in tree for task in _tasks(pid)),
        "streams": streams,
        "memory_bytes": memory_bytes,
        "apart_bytes": resident(tree),
    }


def command_of(arguments: list[str]) -> tuple[list[str], bool]:
    """The application's own command, and whether it is the child of the program before it."""
    if arguments[:1] != [PROGRAM]:
        return arguments, False
    is_child = arguments[1:2] in ([AS_INIT], [AS_PARENT])
    return arguments[2 if is_child else 1 :], is_child


def id_of(pid: int) -> int:
    """A process id, as the process itself knows it; 0 when it has ended."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(next(line for line in told.splitlines() if line.startswith("NSpid:")).split()[-1])


def own_pids(application: Path, pids: Iterable[int]) -> dict[int, int]:
    """Those that are in the namespace of process ids of an application, by their ids in that.

    The application is named by its directory in any /proc that shows it.
    """
    space = link(application / "ns/pid")
    return {id_of(pid): pid for pid in pids if space and _namespace(pid, "pid") == space}


def restored(container: int, first: int, is_child: bool, pids: Iterable[int]) -> dict[int, int]:
    """The same of those that were restored in a container, which calls their ``first`` so."""
    found = own_pids(Path(f"/proc/{container}/root/proc/{first}"), pids)
    if not is_child:
        return found
    return {own: pid for own, pid in found.items() if descends(pid, {found[first]}) is not False}


def _tasks(pid: int) -> list[int]:
    found = Process.read(pid)
    return found.threads() if found else []


def refused(reason: str) -> FlowferryError:
    """It cannot be moved directly."""
    return FlowferryError("direct_impossible", reason)


def _check_tree(tree: list[int], application: int) -> None:
    """All are the application's, and in its namespaces; and those are not other users'."""
    wanted = {kind: _namespace(application, kind) for kind in _KINDS}
    if wanted["user"] != _namespace(os.getpid(), "user"):
        raise refused("it has a user namespace of its own, in which CRIU could do nothing")
    for pid in tree:
        foreign = [kind for kind in _KINDS if _namespace(pid, kind) not in (wanted[kind], "")]
        if foreign or descends(pid, {application}) is False:
            raise Stranger(
                "direct_impossible",
                f"process {pid} ({_command(pid)}) is not part of its application's process tree"
                f"{' and namespaces' if foreign else ''}; it may be that of a `kubectl exec`, "
                "which has to end first, or one whose parent has ended, which no prepared "
                "container can have",
            )


def _check_limit(limit: int, used: int) -> None:
    """CRIU works within the limit of the container, and would be ended beyond it."""
    if limit and limit - used < CRIU_BYTES:
        raise refused(
            f"its container may use {limit >> 20} MB, of which it has {used >> 20}, and CRIU needs "
            f"{CRIU_BYTES >> 20} there"
        )


def _namespace(pid: int, kind: str) -> str:
    return link(Path(f"/proc/{pid}/ns/{kind}"))


def _command(pid: int) -> str:
    found = Process.read(pid)
    return found.command() if found else "which has just ended"
