# SPDX-License-Identifier: Apache-2.0
"""The application in a container: its processes, and whether they can be moved directly.

In an ordinary container it is the first process. In one that it was moved to, that is the
placeholder, and the application has a namespace of process ids of its own beneath it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..criu import check_pipes, check_processes, link
from ..errors import FlowferryError
from ..processes import Process
from .layer import Layer

PLACE = "/.flowferry"
"""Where a container sees the directory that the node keeps for it."""
PROGRAM = f"{PLACE}/placeholder"
_KINDS = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time")


def application_of(container: int) -> int:
    """The first process of the application, by that of the container."""
    if link(Path(f"/proc/{container}/exe")) != PROGRAM:
        return container
    own = _namespace(container, "pid")
    for child in Path(f"/proc/{container}/task/{container}/children").read_text().split():
        if _namespace(int(child), "pid") != own:
            return int(child)
    raise refused("its application has not come yet, or has ended")


def look(title: str, container: int, arguments: list[str], pids: Iterable[int]) -> dict[str, Any]:
    """What a direct move has to know; FlowferryError if it is impossible.

    ``container`` is the first process, ``arguments`` what it was started with, and ``pids`` are
    all processes in its cgroup.
    """
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
    return {
        "pid": application,
        "command": arguments[1:] if arguments[:1] == [PROGRAM] else arguments,
        "streams": streams,
    }


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
        if foreign or not _descends(pid, application):
            raise refused(
                f"process {pid} ({_command(pid)}) is not part of its application's process tree"
                f"{' and namespaces' if foreign else ''}; it may be that of a `kubectl exec`, "
                "which has to end first"
            )


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        found = Process.read(pid)
        if found is None:
            return True  # it has ended in the meantime
        pid = found.parent
    return pid == ancestor


def _namespace(pid: int, kind: str) -> str:
    return link(Path(f"/proc/{pid}/ns/{kind}"))


def _command(pid: int) -> str:
    found = Process.read(pid)
    return found.command() if found else "which has just ended"
