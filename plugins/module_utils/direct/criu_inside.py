# SPDX-License-Identifier: Apache-2.0
"""CRIU within the namespaces of a container: so it sees none that are foreign, and dumps none.

There are no mounts, no network and no cgroups to be mapped then, and nothing of the container's
runtime is needed while packets are held.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..criu_service import KERNEL_DATA, CriuService, Process
from . import inside


class CriuInside(CriuService):
    """One CRIU beside process ``pid``; one that ``joins`` restores into the container of that.

    ``streams`` are open files, by the names that the restored processes know them by.
    """

    def __init__(
        self, pid: int, streams: dict[str, int] | None = None, joins: bool = False
    ) -> None:
        self._pid = pid
        self._streams = streams or {}
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        self._open = [self._root, *self._streams.values()]

        def begin(descriptor: int) -> Process:
            keep = [descriptor, *self._streams.values()]
            words = ["swrk", str(descriptor)]
            return inside.start(pid, "criu", words, keep, self._root, joins=joins)

        self._start(begin)
        self._lent: list[Path] = []
        self._lend()

    def path(self, path: Path | str) -> str:
        """How this CRIU calls a path of the node."""
        return inside.path(self._root, path)

    def dump_container(self, images: Path, timeout: float, freezer: Path, **options: Any) -> None:
        """Dump the first process of its namespace of process ids, and all others; they stay."""
        group = self.path(freezer)
        self.dump(images, timeout, pid=1, leave_running=True, freeze_cgroup=group, **options)

    def restore_container(
        self, images: Path, timeout: float, processes: inside.OwnProcesses, **options: Any
    ) -> int:
        """Restore with ``processes`` shown; returns the first, as the container sees it."""
        found = 0

        def on_step(step: str, pid: int) -> None:
            nonlocal found
            if step == "setup-namespaces":  # they are there, and none of the copy's files
                found = pid
                processes.begin(pid)
            elif step == "pre-resume":  # the last one before the copy runs
                processes.require()

        self._on_step = on_step
        self.restore(images, timeout, notify_scripts=True, inherit_fd=self._streams, **options)
        return found

    def close(self) -> None:
        self._tidy()
        super().close()

    def end(self) -> None:
        self._tidy()
        super().end()

    def _path(self, path: Path) -> str:
        return self.path(path)

    def _lend(self) -> None:
        """Give the container what is known of the kernel, unless it has that, or is read-only."""
        there = Path(f"/proc/{self._pid}/root{KERNEL_DATA}")
        with suppress(OSError):
            data = KERNEL_DATA.read_bytes()
            if not there.parent.exists():
                there.parent.mkdir(mode=0o755)
                self._lent.append(there.parent)
            with there.open("xb") as file:
                self._lent.append(there)
                file.write(data)

    def _tidy(self) -> None:
        while self._lent:
            lent = self._lent.pop()
            with suppress(OSError):  # it went with the container
                if lent.is_dir():
                    lent.rmdir()
                else:
                    lent.unlink()
        for descriptor in self._open:
            with suppress(OSError):
                os.close(descriptor)
        self._open = []
