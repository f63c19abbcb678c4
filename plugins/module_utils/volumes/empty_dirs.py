# SPDX-License-Identifier: Apache-2.0
"""emptyDir volumes of a pod, which its kubelet makes and removes with it.

The directory of the copy is the kubelet's: it is there when the runtime asks for the first image,
and no container has it yet. So the content comes into a directory beside those of the pods, while
the source serves, and is moved into place at that moment. Where the source's pod has to be deleted
before the copy is there, its content waits in the same way for the source to be brought back.

A copy that runs already, as that of a direct move does, has its directories; the content comes
straight into those.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..commands import run
from ..cri.kubelet_process import kubelet_root
from ..errors import FlowferryError
from .destination import STATE, copied, require_room
from .model import Place, Volume
from .receiver import sync

KIND = "emptyDir"
DISK, MEMORY = "disk", "memory"
"""What one is on, as the driver of the volume."""
# As large as a mount of memory that nobody has given a size to.
_LIKE_MEMORY = Path("/dev/shm")


def directory_of(root: Path | str, uid: str, name: str) -> Path:
    """Where the kubelet of this root directory has an emptyDir of a pod."""
    return Path(root, "pods", uid, "volumes", "kubernetes.io~empty-dir", name)


def found_of(uid: str, told: Iterable[dict[str, Any]]) -> list[Volume]:
    """At the source: those of a pod, by ``name``, ``medium`` and ``mounted_at`` of each."""
    root = kubelet_root()
    return [
        Volume(
            KIND,
            one["name"],
            str(directory_of(root, uid, one["name"])),
            mounted_at=one["mounted_at"],
            driver=MEMORY if one["medium"] == "Memory" else DISK,
        )
        for one in told
    ]


class EmptyDirs(Place):
    """Those of one pod that moves, on one node.

    ``record`` says on the node's disk where their content waits, so that after a crash it is found.
    """

    def __init__(self, title: str, name: str) -> None:
        self._title = title
        self._name = name
        self._record = STATE / f"{name}.volumes"
        self._copy = ""

    def come_into(self, uid: str) -> None:
        """The pod of the copy runs already."""
        self._copy = uid

    # -- plan

    def choose(self, volumes: list[Volume], copies: bool) -> list[Volume]:
        """They live and die with their pod: nobody else has them, and they are always copied."""
        root = Path(kubelet_root())
        if (root / "pods").stat().st_dev != root.stat().st_dev:
            raise FlowferryError(
                "volume_cannot_move",
                f"{self._title} has emptyDir volumes, and {root / 'pods'} on the destination is a "
                f"file system of its own: their content, which waits in {root}, could not be moved "
                "into place at once. Have both on the same file system",
            )
        for volume in volumes:
            volume.way, volume.found = "copy", "absent"
        return volumes

    def check_space(self, volumes: list[Volume]) -> None:
        root = Path(kubelet_root())
        require_room(
            self._title,
            (
                (_LIKE_MEMORY if one.driver == MEMORY else root, one.size, one.files)
                for one in copied(volumes)
            ),
        )

    # -- prepare

    def prepare(self, volumes: list[Volume]) -> None:
        """Make what the content comes into, unless it is there."""
        if self._copy or self.are_set_aside(volumes):
            return
        self._forget()
        self._note(Path(kubelet_root()), [])
        for volume in copied(volumes):
            here = self._waiting(volume)
            here.mkdir(mode=0o700)
            if volume.driver == MEMORY:  # what is in it may be kept from disks on purpose
                run(["mount", "-t", "tmpfs", "-o", "mode=0700", "flowferry", str(here)])

    def roots(self, volumes: Iterable[Volume]) -> list[Path]:
        if self._copy:
            root = kubelet_root()
            return [directory_of(root, self._copy, volume.name) for volume in copied(volumes)]
        return [self._waiting(volume) for volume in copied(volumes)]

    # -- restore

    @contextmanager
    def ready(self, volumes: list[Volume]) -> Iterator[None]:
        """The pod knows when they are to be moved in."""
        yield

    def move_in(self, volumes: Iterable[Volume], uid: str) -> None:
        """The kubelet has made the directories of the copy, and no container has them yet."""
        for volume in copied(volumes):
            here = self._waiting(volume)
            there = directory_of(self._root(), uid, volume.name)
            try:
                if volume.driver == MEMORY:
                    run(["cp", "--archive", f"{here}/.", str(there)], timeout=50.0)
                    self._unmount(here)
                else:
                    here.rename(there)
            except OSError as error:
                raise FlowferryError(
                    "restore_failed",
                    f"the content of the {volume} cannot be moved from {here} to {there}: {error}",
                ) from error

    # -- a source whose pod is deleted before the commit

    def set_aside(self, volumes: list[Volume], uid: str) -> None:
        """The pod is about to be deleted, and these with it: have them wait for a way back.

        What waits already stays. A directory is the same one under another name, and memory is kept
        by being mounted in another place too.
        """
        paths = [volume.path for volume in volumes]
        root = Path(paths[0]).parents[4]
        if not self.are_set_aside(volumes):
            self._forget()
            self._note(root, paths)
        for volume in volumes:
            here, there = self._waiting(volume), directory_of(root, uid, volume.name)
            if volume.driver == MEMORY:
                if there.exists() and not here.is_mount():
                    here.mkdir(mode=0o700, exist_ok=True)
                    run(["mount", "--bind", str(there), str(here)])
            elif there.exists() and not here.exists():
                there.rename(here)

    def are_set_aside(self, volumes: list[Volume]) -> bool:
        """Whether set_aside() was asked for these."""
        paths = [volume.path for volume in volumes]
        return bool(paths) and self._noted().get("set_aside") == paths

    def put_back(self, volumes: list[Volume]) -> None:
        """The pod was not deleted after all."""
        if not self.are_set_aside(volumes):
            return
        for volume in volumes:
            here = self._waiting(volume)
            if volume.driver == DISK and here.exists():
                here.rename(volume.path)
        self._forget()

    # -- the end: of the move, or of the attempt

    def settle(self, volumes: list[Volume]) -> None:
        """The copy serves: have it on the disk before the source's is let go."""
        root = self._root()
        if root.exists():
            sync(root)
        self._forget()

    def discard(self, volumes: list[Volume]) -> None:
        """What waits here is not needed. What was moved in the kubelet removes with the pod."""
        self._forget()

    # -- what waits here

    def _waiting(self, volume: Volume) -> Path:
        return self._directory() / volume.name

    def _directory(self) -> Path:
        return self._root() / "flowferry" / self._name

    def _root(self) -> Path:
        """The kubelet's, which may have ended since."""
        return Path(self._noted().get("root") or kubelet_root())

    def _note(self, root: Path, set_aside: list[str]) -> None:
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._record.write_text(json.dumps({"root": str(root), "set_aside": set_aside}))
        for directory in (self._directory().parent, self._directory()):
            directory.mkdir(mode=0o700, exist_ok=True)  # what is in it has owners of its own

    def _noted(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(self._record.read_text())
            return found
        return {}

    def _forget(self) -> None:
        if not self._record.exists():
            return
        directory = self._directory()
        for here in directory.iterdir() if directory.exists() else ():
            self._unmount(here)  # before anything is removed: it may be the source's
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)
        with suppress(OSError):  # another pod's are there
            directory.parent.rmdir()
        self._record.unlink()

    def _unmount(self, here: Path) -> None:
        if os.path.ismount(here):
            run(["umount", str(here)])
