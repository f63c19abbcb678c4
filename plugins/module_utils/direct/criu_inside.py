# SPDX-License-Identifier: Apache-2.0
"""CRIU within the namespaces of a container: so it sees none that are foreign, and dumps none.

There are no mounts, no network and no cgroups to be mapped then, and nothing of the container's
runtime is needed while packets are held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..criu_service import KERNEL_DATA, LAST_STEP, CriuService, Process
from ..errors import FlowferryError
from . import inside
from .application import id_of

_KNOWN = KERNEL_DATA.relative_to("/")


class CriuInside(CriuService):
    """One CRIU beside process ``pid``; one that ``joins`` restores into the container of that.

    One that restores what gets a /proc of its own ``copies_mounts`` first. ``streams`` are open
    files, by the names that the restored processes know them by, and ``lent`` are further
    descriptors that it inherits.
    """

    def __init__(
        self,
        pid: int,
        streams: dict[str, int] | None = None,
        joins: bool = False,
        copies_mounts: bool = False,
        lent: Iterable[int] = (),
    ) -> None:
        self._pid = pid
        self._streams = streams or {}
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        self._open = [self._root, *self._streams.values()]

        def begin(descriptor: int) -> Process:
            keep = [descriptor, *self._streams.values(), *lent]
            words = ["swrk", str(descriptor)]
            how = {"joins": joins, "copies_mounts": copies_mounts}
            return inside.start(pid, "criu", words, keep, self._root, **how)

        self._take: Callable[[int], None] | None = None
        self._lend()  # before CRIU begins, which would look for itself and leave what it finds
        self._start(begin)

    def path(self, path: Path | str) -> str:
        """How this CRIU calls a path of the node."""
        return inside.path(self._root, path)

    def dump_container(self, images: Path, timeout: float, freezer: Path, **options: Any) -> None:
        """Dump the process that this was started beside, and its descendants; they stay."""
        told = {"pid": id_of(self._pid), "freeze_cgroup": self.path(freezer)}
        self.dump(images, timeout, leave_running=True, **told, **options)

    def restore_container(
        self,
        images: Path,
        timeout: float,
        processes: inside.Beforehand | None,
        complete: Callable[[int], None],
        **options: Any,
    ) -> int:
        """Returns the first process, as the container sees it. ``processes`` shows /proc to it.

        It is told to ``complete`` before any runs; if that fails, none may.
        """
        found = 0

        def on_step(step: str, pid: int) -> None:
            nonlocal found
            found = found or pid  # few steps tell it
            if step == "setup-namespaces" and processes is not None:
                processes.begin(str(pid))  # they are there, and none of the copy's files
            elif step == LAST_STEP:
                complete(found)
                if processes is not None and not processes.succeeds():
                    raise FlowferryError("restore_failed", "no /proc could be mounted for the copy")

        self.restore(images, timeout, on_step, inherit_fd=self._streams, **options)
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
        """Give the container what is known of the kernel, unless it has that.

        CRIU would look for itself, which takes 45 ms, and needs a place for files of its own.
        """
        seen = Path(f"/proc/{self._pid}/root")
        if (seen / _KNOWN).exists():
            return
        data, makes = KERNEL_DATA.read_bytes(), not (seen / _KNOWN.parent).exists()

        def put(root: int) -> None:
            if makes:
                os.mkdir(_KNOWN.parent, 0o755, dir_fd=root)
            file = os.open(_KNOWN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=root)
            os.write(file, data)

        def take(root: int) -> None:
            os.unlink(_KNOWN, dir_fd=root)
            if makes:
                os.rmdir(_KNOWN.parent, dir_fd=root)

        if not inside.on_root(self._pid, put):
            raise FlowferryError(
                "direct_impossible",
                f"CRIU needs {KERNEL_DATA} in the container for a while, and that could not be "
                "made; the helper's log on the node says why. Use method=kubelet",
            )
        self._take = take

    def _tidy(self) -> None:
        if self._take is not None:
            with suppress(OSError):  # it went with the container
                inside.on_root(self._pid, self._take)
            self._take = None
        for descriptor in self._open:
            with suppress(OSError):
                os.close(descriptor)
        self._open = []
