# SPDX-License-Identifier: Apache-2.0
"""Volumes at the source: what the plan has to know of them, and their way to the destination.

The first pass copies everything while the workload serves. Others follow as long as each has much
less to send than the one before, and the last one comes when the workload is frozen.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from ..storage import storage_of
from ..transfer import JsonLines
from .destination import SMALL, copied
from .inventory import content_hash
from .mark import Mark, fingerprint
from .model import Volume
from .sender import VolumeSender
from .tree import Tree, disk_usage, refuse_devices

# Another pass is worth its time while it sends more than this, and less than half of the last one.
_LITTLE = 1 << 20
_MOST_PASSES = 8
# Seconds that a question about the copying waits for its end, before it says how far it has come.
_PATIENCE = 2.0


def look(volumes: list[Volume]) -> list[Volume]:
    """Which storage they are on, and what is in those that nobody writes to."""
    for volume in volumes:
        path = Path(volume.path)
        volume.directory = path.is_dir()
        if not volume.directory and not path.is_file():
            raise FlowferryError(
                "volume_cannot_move",
                f"the {volume} is neither a directory nor a file, so it leads to a program or a "
                "device of its node, or to nothing; create the container without it",
            )
        volume.storage = storage_of(volume.path)
        volume.lineage = Mark.read(volume.path).lineage
        if volume.read_only:
            volume.content = content_hash(volume.path, SMALL)
    return volumes


def measure(volumes: list[Volume]) -> list[Volume]:
    """What is to be copied: its size, and the name of its lineage. Refuses what cannot be."""
    for volume in copied(volumes):
        with Tree(volume.path) as tree:
            entries = tree.scan()
        refuse_devices(Path(volume.path), entries)
        volume.size, volume.files = disk_usage(entries)
        volume.lineage = volume.lineage or uuid.uuid4().hex
    return volumes


class Copying:
    """One attempt to bring the volumes over, in a thread while the workload serves.

    ``connect`` opens the stream to the destination; ``mapped`` says which inodes the workload may
    write to through memory at this moment.
    """

    def __init__(
        self,
        volumes: Iterable[Volume],
        connect: Callable[[], JsonLines],
        mapped: Callable[[], set[int]],
    ) -> None:
        self._roots = [Path(volume.path) for volume in copied(volumes)]
        self._connect = connect
        self._mapped = mapped
        # A file that was mapped once may have been written to until it was not any more.
        self._ever_mapped: set[int] = set()
        self._lines: JsonLines | None = None
        self._sender: VolumeSender | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._lines = self._connect()
            self._sender = VolumeSender(self._lines, self._roots)
            before = 0
            for _ in range(_MOST_PASSES):
                sent = self._pass()
                if sent <= _LITTLE or (before and sent > before / 2):
                    break
                before = sent
        except Exception as error:  # whoever asks next hears of it
            self._error = error

    def _pass(self, *, last: bool = False) -> int:
        assert self._sender is not None
        self._ever_mapped |= self._mapped()
        return self._sender.send_difference(self._ever_mapped, last=last)

    def state(self) -> dict[str, Any]:
        """Whether all but the last difference is over, and how many bytes; waits a moment."""
        self._thread.join(_PATIENCE)
        if self._error is not None:
            raise as_failure(self._error)
        return {
            "done": not self._thread.is_alive(),
            "bytes": self._sender.sent if self._sender else 0,
        }

    @contextmanager
    def last_pass(self, limit: float) -> Iterator[dict[str, int]]:
        """The workload is frozen: send the rest within ``limit`` seconds, beside what is done
        meanwhile. Yields what at the end has the ``volume_bytes`` of it.
        """
        assert self._sender is not None and self._lines is not None
        self._sender.deadline = time.monotonic() + limit
        self._lines.connection.settimeout(limit)
        said: dict[str, int] = {}
        failed: list[Exception] = []

        def work() -> None:
            try:
                said["volume_bytes"] = self._pass(last=True)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield said
        finally:
            thread.join()
        if failed:
            raise as_failure(failed[0])

    def close(self) -> None:
        """End it, wherever it is."""
        if self._lines is not None:
            self._lines.shut_down()
        self._thread.join(_PATIENCE)


def as_failure(error: Exception) -> FlowferryError:
    """What a thread met, for whoever asked for it."""
    if isinstance(error, FlowferryError):
        return error
    return FlowferryError("transfer_failed", f"volumes: {type(error).__name__}: {error}")


def mapped_inodes(pids: Iterable[int]) -> set[int]:
    """Files that processes share as memory and may write to, by inode.

    The device is left out: what a mapping names is not always what the file system tells.
    """
    found = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        except OSError:  # it has ended in the meantime
            continue
        for line in lines:
            fields = line.split(maxsplit=5)
            if "w" in fields[1] and "s" in fields[1]:
                found.add(int(fields[4]))
    return found


def leave(volumes: Iterable[Volume]) -> None:
    """The workload has gone: what remains of its volumes is marked as left behind."""
    for volume in copied(volumes):
        if volume.is_lasting and os.path.lexists(volume.path):
            Mark(volume.lineage, left=fingerprint(volume.path)).write(volume.path)


def name_lineage(volumes: Iterable[Volume]) -> None:
    """Mark what is going to be copied, so that a later move knows its copies."""
    for volume in copied(volumes):
        if volume.is_lasting:
            Mark(volume.lineage).write(volume.path)
