# SPDX-License-Identifier: Apache-2.0
"""The source's end: passes over volumes, each of which sends what the last one has not."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from ..transfer import JsonLines
from .blocks import Comparison, Run
from .difference import Known, Steps, difference
from .stream import next_line, receive_inventory
from .tree import Entry, Tree, identity, open_to_read, refuse_devices

_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


class VolumeSender:
    """Volumes of a workload, and what the destination has of them."""

    def __init__(self, lines: JsonLines, roots: Sequence[Path]) -> None:
        self._lines = lines
        self._trees = [Tree(root) for root in roots]
        self.known = receive_inventory(lines, len(roots))
        self.sent = 0
        """Bytes of content so far."""
        self.deadline = math.inf
        """When (monotonic clock) a pass has taken too long."""

    def close(self) -> None:
        """Let the volumes go."""
        for tree in self._trees:
            tree.close()

    def send_difference(self, mapped: Collection[int], *, last: bool = False) -> int:
        """One pass; returns the bytes of content that it sent.

        Before the ``last`` one the workload runs, and files may change or vanish while they are
        read. At the last one they stand still.
        """
        before = self.sent
        for number, (tree, known) in enumerate(zip(self._trees, self.known)):
            one = _Pass(self, tree, known, last)
            now = tree.scan({path: each.entry for path, each in known.items()})
            refuse_devices(tree.root, now)
            self.step(volume=number)
            one.run(difference(known, now, mapped), now)
            tree.let_go()
        self.step(op="end", last=last)
        answer = next_line(self._lines)
        if "error" in answer:
            raise FlowferryError("transfer_failed", f"the destination says: {answer['error']}")
        return self.sent - before

    def step(self, data: bytes = b"", **message: Any) -> None:
        """Say one thing, with the data that belongs to it."""
        if time.monotonic() > self.deadline:
            raise FlowferryError(
                "transfer_failed",
                "too much has changed in the volumes since they were copied to be sent while the "
                "workload is held; move it when it writes less",
            )
        self._lines.send(message)
        if data:
            self._lines.connection.sendall(data)
            self.sent += len(data)


class _Pass:
    """One pass over one volume; it keeps ``known`` as the destination is."""

    def __init__(
        self, sender: VolumeSender, tree: Tree, known: dict[str, Known], last: bool
    ) -> None:
        self._sender = sender
        self._tree = tree
        self._known = known
        self._last = last
        self._aside: dict[int, Known] = {}

    def run(self, steps: Steps, now: dict[str, Entry]) -> None:
        step = self._sender.step
        for path, number in steps.aside.items():
            step(op="aside", path=path, number=number)
            self._aside[number] = self._known.pop(path)
        for path in steps.removed:
            step(op="remove", path=path)
            del self._known[path]
        for entry, origin in steps.made:
            self._make(entry, origin)
        for entry in steps.looked_at:
            self._update(entry)
        for entry in [*steps.others, *steps.directories]:
            if entry.path in self._known:
                step(op="attributes", entry=entry.as_dict())
                self._known[entry.path] = Known(entry, settled=entry.settled)

    def _make(self, entry: Entry, origin: str | int | None) -> None:
        path = entry.path
        if isinstance(origin, int):
            self._sender.step(op="back", path=path, number=origin)
            before = self._aside.pop(origin)
            self._known[path] = Known(before.entry, before.digests)
        elif isinstance(origin, str):
            before_link = self._known.get(origin)
            if before_link is not None:
                self._sender.step(op="another name", path=path, of=origin)
                # Its content is sent under the first name; what it is then, the next pass sees.
                self._known[path] = Known(entry, before_link.digests)
        elif entry.kind == "file":
            self._send_file(entry, Known(entry), fresh=True)
        else:
            self._sender.step(op="make", entry=entry.as_dict())
            self._known[path] = Known(entry, settled=entry.settled)

    def _update(self, entry: Entry) -> None:
        if entry.path in self._known:
            self._send_file(entry, self._known[entry.path], fresh=False)

    def _send_file(self, entry: Entry, before: Known, *, fresh: bool) -> None:
        path = entry.path
        try:
            descriptor = open_to_read(self._tree, path)
        except OSError as error:
            self._gone(path, error)
            return
        try:
            found = self._tree.entry(path)
            info = os.fstat(descriptor)
            if found.inode != entry.inode or identity(info) != entry.inode or found.kind != "file":
                self._gone(path, None)
                return
            comparison = Comparison(descriptor, found.size, b"" if fresh else before.digests)
            opened = fresh
            if fresh:
                self._sender.step(op="file", path=path, fresh=True)
            for run in comparison.differences():
                if not opened:
                    self._sender.step(op="file", path=path, fresh=False)
                    opened = True
                self._send_run(run)
            if opened or found.size != before.entry.size or found.content != before.entry.content:
                if not opened:
                    self._sender.step(op="file", path=path, fresh=False)
                self._sender.step(op="close", entry=found.as_dict())
            self._known[path] = Known(found, bytes(comparison.digests), found.settled)
        except FileNotFoundError as error:
            self._gone(path, error)
        finally:
            os.close(descriptor)

    def _send_run(self, run: Run) -> None:
        offset, length, data = run
        if data:
            self._sender.step(data, op="data", at=offset, length=length)
        else:
            self._sender.step(op="hole", at=offset, length=length)

    def _gone(self, path: str, error: OSError | None) -> None:
        """It went away, or is another file now: the next pass will see."""
        if self._last or (error is not None and error.errno not in _VANISHED):
            raise FlowferryError(
                "transfer_failed",
                f"{self._tree.root / path} in a volume cannot be read as it was a moment ago "
                f"({error or 'it is another file now'}); is there something else that writes to "
                "the volume?",
            )
