# SPDX-License-Identifier: Apache-2.0
"""A container that stands still while its runtime takes it for one that runs, and dumps it.

CRI-O dumps only what runs: it has runc freeze the container's group, CRIU dump what is in it, and,
when the archive is written, runc let the group go. A container that had to stand still before that
would be refused. But runc asks only whether the group *itself* is frozen. So the processes are
moved into a group within it, whose freezer is nobody's but ours::

                    before | runc freezes | CRIU dumps | archive is written | afterwards
    container's     thawed | frozen       | thawed     | frozen             | thawed
    ours, within    frozen | frozen       | thawed     | frozen             | frozen

One of the two is frozen at every moment but while CRIU has stopped each process itself; it needs
both of them thawed for that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..cgroup import LIMIT, Freezer
from ..errors import FlowferryError

NAME = "flowferry"


class Standstill:
    """Of one container, by its freezer, and by the pattern of the archive that is written of it."""

    def __init__(self, freezer: Path | str, archive: str) -> None:
        self.outer = Path(freezer)
        self.inner = self.outer / NAME
        self._archive = Path(archive)
        self._given_up = threading.Event()
        self._watching: threading.Thread | None = None
        self._was_kept = False
        self._is_dumped = False

    def enter(self) -> None:
        """Move the processes into our group, which they do not notice."""
        try:
            self.inner.mkdir(exist_ok=True)
            self._move(self.outer, self.inner)
        except FileNotFoundError as error:
            raise FlowferryError(
                "not_running", f"the workload has ended by itself: no {self.outer}"
            ) from error

    def begin(self) -> None:
        """Stop them now; from here on the runtime may freeze and dump them."""
        self.enter()
        Freezer(self.inner).freeze()
        self._move(self.outer, self.inner)  # what has come from outside since, as by an exec
        self._given_up.clear()
        self._was_kept = self._is_dumped = False
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def keep(self) -> None:
        """The runtime has dumped it: it stands still, and has done so ever since begin()."""
        if self._watching is not None:
            self._watching.join(LIMIT)
        if not self._was_kept:
            raise FlowferryError(
                "checkpoint_failed",
                f"the container of {self.outer} may have run for a moment between its dump and "
                "the end of it, so that the dumps of its pod may not fit together; move it again, "
                "when the node is less busy",
            )

    def give_up(self) -> None:
        """Undo begin(), which may not have happened, or in another process."""
        self._end_watching()
        with suppress(FileNotFoundError):  # nor enter()
            (self.inner / "freezer.state").write_text("THAWED")

    def leave(self) -> None:
        """Undo enter(), too."""
        self.give_up()
        deadline = time.monotonic() + LIMIT
        with suppress(FileNotFoundError):  # the container has ended by itself
            while self.inner.exists():
                self._move(self.inner, self.outer)
                with suppress(OSError):  # a process was forked just now
                    self.inner.rmdir()
                self._refuse_after(deadline, self.inner)

    def clear(self) -> None:
        """Of a container that has ended, whose runtime gives up its group if ours stays in it."""
        self._end_watching()
        deadline = time.monotonic() + LIMIT
        while self.inner.exists() and time.monotonic() < deadline:
            with suppress(OSError):  # the last process ends just now, or the runtime was faster
                self.inner.rmdir()
                return
            time.sleep(0.005)

    def _end_watching(self) -> None:
        self._given_up.set()
        if self._watching is not None:
            self._watching.join()

    def _watch(self) -> None:
        with suppress(OSError, FlowferryError):  # the container has ended by itself
            if not self._until(self._is_frozen_by_the_runtime):
                return
            (self.inner / "freezer.state").write_text("THAWED")
            if not self._until(self._dump_is_over):
                return
            Freezer(self.inner).freeze()
            # Ours was frozen before the other one was thawed: so nothing took a step in between.
            self._was_kept = self._is_frozen_by_the_runtime()
            # The runtime finds it running, and has nothing to let go.
            (self.outer / "freezer.state").write_text("THAWED")

    def _is_frozen_by_the_runtime(self) -> bool:
        return (self.outer / "freezer.self_freezing").read_text().strip() == "1"

    def _dump_is_over(self) -> bool:
        """CRIU thaws the group for its work, and freezes it again; the archive comes later."""
        is_frozen = self._is_frozen_by_the_runtime()
        self._is_dumped |= not is_frozen
        return (self._is_dumped and is_frozen) or self._is_archived()

    def _is_archived(self) -> bool:
        return any(self._archive.parent.glob(self._archive.name))

    def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for it; False when the move is given up."""
        while not self._given_up.is_set():
            if condition():
                return True
            time.sleep(0.001)
        return False

    def _move(self, source: Path, target: Path) -> None:
        """All processes of one group, those too that are forked meanwhile."""
        deadline = time.monotonic() + LIMIT
        while pids := (source / "cgroup.procs").read_text().split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    (target / "cgroup.procs").write_text(pid)
            self._refuse_after(deadline, source)

    def _refuse_after(self, deadline: float, group: Path) -> None:
        if time.monotonic() > deadline:
            raise FlowferryError(
                "freeze",
                f"processes {Freezer(group).pids()} do not leave {group} within {LIMIT:g} s: are "
                "new ones started there again and again?",
            )


def container_freezer(found: Freezer | None) -> Freezer | None:
    """The container's own freezer, where a process of it is in ours, even one left behind."""
    if found is not None and found.path.name == NAME:
        return Freezer(found.path.parent)
    return found
