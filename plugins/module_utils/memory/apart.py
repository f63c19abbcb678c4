# SPDX-License-Identifier: Apache-2.0
"""A dump and a restore by CRIU of which large memory goes apart.

A checkpoint may consist of several dumps at the same time, by their numbers: of the containers of a
pod. Processes have the same ids in several of them, so that their keys have the number as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint import images
from ..criu_service import LAST_STEP
from . import vm
from .page_server import PageServer
from .post_copy_destination import PostCopyReceiver
from .post_copy_source import PostCopySender
from .regions import Regions
from .stream import Receiver, Sender

_NOTE = "memory.json"
_PID_BITS = 22


def key_of(number: int, pid: int) -> int:
    """What both ends call a process of a dump, which has this pid for CRIU."""
    return number << _PID_BITS | pid


def keys(number: int, pids: Mapping[int, int]) -> dict[int, int]:
    """This node's pids by the keys that processes of a dump have for both ends."""
    return {key_of(number, pid): here for pid, here in pids.items()}


@contextmanager
def sending(sender: Sender | None) -> Iterator[None]:
    """While all dumps of a checkpoint are made."""
    if sender is None:
        yield
        return
    sender.begin()
    try:
        yield
    finally:
        sender.finish()


class Outgoing:
    """The source's part of one dump."""

    def __init__(self, sender: Sender, number: int = 0) -> None:
        self._sender = sender
        self._number = number
        self._bytes = 0
        self._regions = Regions({})
        self._pages = PageServer(self._takes)

    @property
    def descriptor(self) -> int:
        """For CRIU, which inherits it: its page server."""
        return self._pages.theirs

    @contextmanager
    def dumping(self, directory: Path, files: Path, pids: Mapping[int, int]) -> Iterator[None]:
        """Beside CRIU's dump into ``files``; ``directory`` gets a note of what goes apart.

        ``pids`` has this node's pid for CRIU's.
        """
        self._regions = Regions(pids)
        known = keys(self._number, pids)
        self._sender.learn(known)
        self._pages.begin(files)
        try:
            yield
            self._pages.finish()
        finally:
            self._pages.close()
        note: dict[str, Any] = {"connections": self._sender.connections, "bytes": self._bytes}
        if isinstance(self._sender, PostCopySender):
            note["ranges"] = self._sender.named(known)
        (directory / _NOTE).write_text(json.dumps(note))

    def _takes(self, pid: int, start: int, size: int) -> bool:
        takes = self._regions.has(pid, start, start + size)
        if takes:
            self._bytes += size
            self._sender.send(key_of(self._number, pid), start, size)
        return takes


class Incoming:
    """The destination's part of one restore."""

    def __init__(
        self,
        receiver: Receiver | PostCopyReceiver | None,
        directory: Path,
        files: Path,
        number: int = 0,
    ) -> None:
        self._receiver = receiver
        self._number = number
        self._note = directory / _NOTE
        self._images = files

    @property
    def is_needed(self) -> bool:
        """Whether memory comes apart."""
        return self._note.exists()

    def begin(self) -> dict[str, Any]:
        """Before CRIU's restore; what is to be told to it."""
        if not self.is_needed or not isinstance(self._receiver, PostCopyReceiver):
            return {}
        ranges = {int(key): found for key, found in self._read()["ranges"].items()}
        by_pid = {key - key_of(self._number, 0): key for key in ranges}
        self._receiver.expect(self._images, by_pid, ranges)
        return {"lazy_pages": True}

    def at_step(self, step: str, pids: Mapping[int, int], group: Path) -> None:
        """CRIU has come to that step; ``pids`` has this node's pid for CRIU's, in that cgroup."""
        if step == LAST_STEP and self.is_needed:
            self.place(pids, group)

    def place(self, pids: Mapping[int, int], group: Path) -> None:
        """Every process is there and none runs: give them what has come apart, and still comes.

        What comes later ends all in the cgroup ``group`` if it does not come.
        """
        assert self._receiver is not None
        if isinstance(self._receiver, PostCopyReceiver):
            self._receiver.place(keys(self._number, pids), group)
            return
        note = self._read()
        with _kernels_own(self._images, pids):
            self._receiver.place(keys(self._number, pids), note["connections"], note["bytes"])

    def _read(self) -> Any:
        return json.loads(self._note.read_text())


@contextmanager
def _kernels_own(directory: Path, pids: Mapping[int, int]) -> Iterator[None]:
    """Keep what the kernel has told the threads of the copy about themselves.

    It writes to their memory on which processor they run (rseq(2)), and again only when that
    changes; what the source's were told is not true here.
    """
    kept = []
    for process, place in _told(directory):
        buffer = bytearray(place.size)
        vm.read(pids[process], [place], vm.address_of(buffer))
        kept.append((pids[process], place, buffer))
    yield
    for pid, place, buffer in kept:
        vm.write(pid, [place], vm.address_of(buffer))


def _told(directory: Path) -> Iterator[tuple[int, vm.Range]]:
    """Where the kernel tells threads about themselves, and of which process they are."""
    tree = directory / "pstree.img"
    for process in images.messages(images.read(tree), "PSTREE", "pstree_entry", tree):
        for thread in process.threads:
            path = directory / f"core-{thread}.img"
            if not path.exists():  # that of a process that has ended already
                continue
            for core in images.messages(images.read(path), "CORE", "core_entry", path):
                place = core.thread_core.rseq_entry
                if place.rseq_abi_pointer:
                    yield process.pid, vm.Range(place.rseq_abi_pointer, place.rseq_abi_size)
