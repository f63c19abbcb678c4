# SPDX-License-Identifier: Apache-2.0
"""Volumes at the destination: what the plan finds there, what is made, and what is undone.

Nothing that anybody else has put there is ever overwritten or removed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path

from ..errors import FlowferryError
from ..storage import is_same, storage_of
from .inventory import content_hash
from .mark import Mark, fingerprint
from .model import Place, Store, Volume, collect
from .receiver import sync
from .tree import Tree, disk_usage

STATE = Path("/var/lib/flowferry")
SMALL = 64 << 20
"""Volumes that nobody writes to are compared byte by byte up to this size."""
_SPARE = 16 << 20
_PLACEHOLDER = ".flowferry-empty"


class Destination(Place):
    """The volumes of a workload on the node that it goes to.

    ``record`` says on the node's disk what was made, so that after a crash it can be undone.
    """

    def __init__(self, title: str, name: str, store: Store) -> None:
        self._title = title
        self._store = store
        self._record = STATE / f"{name}.volumes"
        # To ask an engine takes tenths of a second, and a restore has none to spare.
        self._paths: dict[str, Path] = {}

    def root(self, volume: Volume) -> Path:
        """Where its content is on this node, or will be."""
        if volume.kind == "bind":
            return Path(volume.name)
        if volume.name not in self._paths:
            here = self._store.inspect(volume.name)
            if here is None:
                raise FlowferryError("transfer_failed", f"there is no volume {volume.name} here")
            self._paths[volume.name] = Path(here.path)
        return self._paths[volume.name]

    def roots(self, volumes: Iterable[Volume]) -> list[Path]:
        """Of all that are copied, in order."""
        return [self.root(volume) for volume in copied(volumes)]

    # -- plan: look, and touch nothing

    def choose(self, volumes: list[Volume], copies: bool) -> list[Volume]:
        """Decide how each gets here, or refuse."""
        for volume in volumes:
            here = self._store.inspect(volume.name) if volume.kind == "volume" else None
            path = volume.name if volume.kind == "bind" else here.path if here else ""
            there = bool(path) and Path(path).exists()
            if there and is_same(volume.storage, storage_of(path)):
                volume.way = "shared"
            elif there and volume.content and content_hash(path, SMALL) == volume.content:
                volume.way = "identical"
            elif not copies:
                raise self._not_here(volume, there)
            else:
                self._check_copy(volume)
                volume.way = "copy"
                volume.found = self._find(volume, here, Path(path)) if path else "absent"
        self._refuse_nested(volumes)
        return volumes

    def _not_here(self, volume: Volume, there: bool) -> FlowferryError:
        what = "another one of that name" if there else "none of that name"
        return FlowferryError(
            "has_mounts",
            f"{self._title} has the {volume}, and the destination has {what}: its content would "
            "stay behind. Mount the same storage on both nodes, or have it copied: volumes=copy",
        )

    def _check_copy(self, volume: Volume) -> None:
        """Refuse what cannot be copied, whatever there is here."""
        if volume.driver != "local" or volume.options:
            raise FlowferryError(
                "volume_cannot_move",
                f"{self._title}: the {volume} is of the driver {volume.driver}, with the options "
                f"{volume.options or 'none'}; only plain local volumes can be copied. Make it "
                "available on both nodes from the same storage",
            )
        if volume.users:
            raise FlowferryError(
                "shared_with_others",
                f"{self._title} shares the {volume} with {', '.join(volume.users)}, which would "
                "stay behind and see no more of what is written to it; remove those containers, or "
                "put the volume on storage that both nodes share",
            )

    def _find(self, volume: Volume, here: Volume | None, path: Path) -> str:
        """What there is in the place of a copy: nothing, or what may be replaced."""
        if not os.path.lexists(path):
            volume.parents = _missing_parents(path)
            return "absent"
        mark = Mark.read(path)
        ours = bool(volume.lineage) and mark.lineage == volume.lineage
        if ours and (mark.receiving or mark.left == fingerprint(path)):
            self._refuse_users(volume, path)
            return "left"
        if volume.kind == "bind" and path.is_dir() and not any(path.iterdir()):
            info = path.stat()
            volume.before = {"mode": stat.S_IMODE(info.st_mode), "uid": info.st_uid}
            volume.before |= {"gid": info.st_gid, "mtime_ns": info.st_mtime_ns}
            return "empty"
        changed = ", which an earlier move has left and somebody has changed since" if ours else ""
        remove = self._store.removal.format(name=volume.name) if here else f"rm -r {path}"
        remedy = (
            "have the same content in both places, or create the container without it"
            if volume.read_only
            else f"it would be lost, so rename or remove it there: `{remove}`"
        )
        raise FlowferryError(
            "volume_taken",
            f"{self._title} has the {volume}, and the destination has another one of that "
            f"name{changed}; {remedy}",
        )

    def _refuse_users(self, volume: Volume, path: Path) -> None:
        mount = {"Type": "bind", "Source": str(path), "Destination": "", "RW": True}
        (found,) = collect(self._title, [mount], self._store, ())
        if found.users:
            raise FlowferryError(
                "volume_taken",
                f"{self._title} has the {volume}, and on the destination {', '.join(found.users)} "
                "uses what an earlier move has left of it; remove those containers",
            )

    def _refuse_nested(self, volumes: list[Volume]) -> None:
        """A copy within a copy would be two owners of the same files."""
        paths = [volume.path for volume in copied(volumes)]
        for outer, inner in permutations(paths, 2):
            if inner.startswith(outer.rstrip("/") + "/"):
                raise FlowferryError(
                    "volume_cannot_move",
                    f"{self._title} mounts {inner} besides {outer}, which has it; mount it once",
                )

    def check_space(self, volumes: list[Volume]) -> None:
        """Refuse a node without room for the copies."""
        needed = []
        for volume in copied(volumes):
            size, files = self._present(volume)
            sizes = max(volume.size - size, 0), max(volume.files - files, 0)
            needed.append((self._place(volume), *sizes))
        require_room(self._title, needed)

    def _present(self, volume: Volume) -> tuple[int, int]:
        """Bytes and files that an earlier move has left of it."""
        if volume.found != "left":
            return 0, 0
        with Tree(self.root(volume)) as tree:
            return disk_usage(tree.scan())

    def _place(self, volume: Volume) -> Path:
        """A directory that is there, on the file system that the copy will be on."""
        if volume.kind == "volume" and volume.found == "absent":
            return self._store.home()
        path = self.root(volume)
        while not path.exists():
            path = path.parent
        return path

    # -- prepare

    def prepare(self, volumes: list[Volume]) -> None:
        """Make what the copies come into."""
        made: list[str] = []
        for volume in copied(volumes):
            made.append(volume.name)
            self._note(made)
            if volume.found == "absent":
                self._make(volume)
            root = self.root(volume)
            if root.exists():
                Mark(volume.lineage, receiving=True).write(root)

    def _make(self, volume: Volume) -> None:
        if volume.kind == "volume":
            self._store.create(volume)
            return
        for parent in volume.parents:
            Path(parent).mkdir(mode=0o755)
        if volume.directory:  # a file is made when it comes
            Path(volume.name).mkdir(mode=0o700)

    def _note(self, names: list[str]) -> None:
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._record.write_text(json.dumps(names))

    def _noted(self) -> list[str]:
        with suppress(OSError, ValueError):
            return list(json.loads(self._record.read_text()))
        return []

    # -- restore

    @contextmanager
    def ready(self, volumes: list[Volume]) -> Iterator[None]:
        """While the engine restores: it fills an empty named volume from the image, and may give
        the root of any that is new to it another owner."""
        roots = [self.root(volume) for volume in copied(volumes) if volume.kind == "volume"]
        before = []
        for root in roots:
            with Tree(root) as tree:
                before.append(tree.entry(""))
        empty = [root / _PLACEHOLDER for root in roots if not any(root.iterdir())]
        try:
            for placeholder in empty:
                placeholder.touch()
            yield
        finally:
            for placeholder in empty:
                placeholder.unlink(missing_ok=True)
            for root, entry in zip(roots, before):
                os.chown(root, entry.uid, entry.gid)
                root.chmod(entry.mode)
                if root in [placeholder.parent for placeholder in empty]:
                    os.utime(root, ns=(entry.atime_ns, entry.mtime_ns))

    # -- the end: of the move, or of the attempt

    def settle(self, volumes: list[Volume]) -> None:
        """The copy serves: have it on the disk before the source's is let go."""
        for volume in copied(volumes):
            root = self.root(volume)
            sync(root)
            Mark(volume.lineage).write(root)
        self._record.unlink(missing_ok=True)

    def discard(self, volumes: list[Volume]) -> None:
        """The copy is given up: what was there before is there again, and nothing else."""
        noted = self._noted()
        for volume in copied(volumes):
            if volume.name in noted:
                self._discard(volume)
        self._record.unlink(missing_ok=True)

    def _discard(self, volume: Volume) -> None:
        if volume.kind == "volume" and self._store.inspect(volume.name) is None:
            return
        if volume.found == "left":
            root = self.root(volume)
            Mark(volume.lineage, left=fingerprint(root)).write(root)
        elif volume.kind == "volume":
            self._store.remove(volume.name)
        else:
            self._discard_bind(volume, Path(volume.name))

    def _discard_bind(self, volume: Volume, path: Path) -> None:
        if path.is_dir():
            for inside in path.iterdir() if volume.found == "empty" else [path]:
                shutil.rmtree(inside) if _is_directory(inside) else inside.unlink()
        else:
            path.unlink(missing_ok=True)
        if volume.found == "empty":
            Mark.remove(path)
            os.chown(path, volume.before["uid"], volume.before["gid"])
            path.chmod(volume.before["mode"])
            os.utime(path, ns=(volume.before["mtime_ns"],) * 2)
        for parent in reversed(volume.parents):
            try:
                Path(parent).rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise


def copied(volumes: Iterable[Volume]) -> list[Volume]:
    """Those that move as copies."""
    return [volume for volume in volumes if volume.way == "copy"]


def require_room(title: str, needed: Iterable[tuple[Path, int, int]]) -> None:
    """Refuse a node without room at these places for so many bytes and files each."""
    mounts: dict[Path, list[int]] = {}
    for place, size, files in needed:
        sizes = mounts.setdefault(_mount_point(place), [0, 0])
        sizes[0] += size
        sizes[1] += files
    for place, (size, files) in mounts.items():
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize
        if free < size + _SPARE or (found.f_files and found.f_favail < files):
            raise FlowferryError(
                "no_space",
                f"{place} on the destination has {free >> 20} MB free and room for "
                f"{found.f_favail} files; the volumes of {title} need {size >> 20} MB "
                f"and {files} files more. Free some space there",
            )


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _missing_parents(path: Path) -> list[str]:
    found = []
    for parent in path.parents:
        if parent.exists():
            break
        found.append(str(parent))
    return found[::-1]


def _mount_point(path: Path) -> Path:
    while not path.is_mount():
        path = path.parent
    return path
