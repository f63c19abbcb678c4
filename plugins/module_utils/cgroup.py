# SPDX-License-Identifier: Apache-2.0
"""The cgroups of a workload (version 1): its freezer, its memory, and the way into them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from .errors import FlowferryError

ROOT = Path("/sys/fs/cgroup")
# The kernel freezes a group within a millisecond, unless a process is stuck in it (seconds).
LIMIT = 5.0
# A change of group does not wait this long (seconds) after another one; measured: twice as long.
_STAYS_READY = 0.01


def path_of(pid: int, controller: str) -> Path | None:
    """The directory of a process's group; None for the root group, and when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:  # it has ended in the meantime
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and path != "/":
            return ROOT / controller / path.lstrip("/")
    return None


def memory_bytes(pid: int) -> int:
    """What the group of a process uses, page cache included; 0 when that is not known."""
    group = path_of(pid, "memory")
    usage = group / "memory.usage_in_bytes" if group else None
    return int(usage.read_text()) if usage and usage.exists() else 0


def memory_limit(pid: int) -> int:
    """What the group of a process may use; 0 when that is not known, or not limited."""
    group = path_of(pid, "memory")
    limit = group / "memory.limit_in_bytes" if group else None
    told = int(limit.read_text()) if limit and limit.exists() else 0
    return told if told < 1 << 60 else 0


class ChangesOfGroup:
    """Keeps the kernel ready for processes that change their groups, until it is ended.

    The first change after a while waits until every processor has noticed (8 ms, up to 16); others
    soon after it do not (0.2 ms). So this process goes to the group that it is in, again and again.
    """

    def __init__(self, limit: float) -> None:
        self._ended = threading.Event()
        threading.Thread(target=self._change, args=(limit,), daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _change(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        with suppress(OSError):  # then whoever comes waits for itself
            group = _own_group()
            while group and time.monotonic() < deadline:
                group.write_text(str(os.getpid()))
                if self._ended.wait(_STAYS_READY):
                    return


def _own_group() -> Path | None:
    """Where this process enters a group that it is in; of whichever hierarchy is mounted."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        directory = ROOT / controllers.removeprefix("name=") / path.lstrip("/")
        if (directory / "cgroup.procs").exists():
            return directory / "cgroup.procs"
    return None


class Freezer:
    """A group of processes that the kernel stops and lets go as one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def of(cls, pid: int) -> Freezer | None:
        """The freezer of a process; None when it is in the root group, that cannot be frozen."""
        path = path_of(pid, "freezer")
        return cls(path) if path else None

    def pids(self) -> list[int]:
        """The processes in it and below it; none when there is no such group any more."""
        found: list[int] = []
        for group in [self.path, *self.path.rglob("*/")]:
            listed = group / "cgroup.procs"
            found += [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
        return found

    def freeze(self) -> None:
        """Stop every process; returns when the kernel says so."""
        self._set("FROZEN")

    def thaw(self) -> None:
        """Let every process go on where it was."""
        self._set("THAWED")

    def kill(self) -> None:
        """End every process; thawed only after the signal, so that nobody takes a step."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for group in [*self.path.rglob("*/"), self.path]:
            state = group / "freezer.state"
            with suppress(FileNotFoundError, NotADirectoryError):  # older Pythons list files, too
                state.write_text("THAWED")

    def end(self) -> None:
        """End every process, and the group with them."""
        deadline = time.monotonic() + LIMIT
        while self.path.exists():
            self.kill()
            with suppress(OSError):  # busy until the last one is gone
                self.path.rmdir()
                return
            if time.monotonic() > deadline:
                raise FlowferryError(
                    "command_failed",
                    f"processes {self.pids()} in {self.path} did not end within {LIMIT:g} s",
                )
            time.sleep(0.005)

    def _set(self, wanted: str) -> None:
        state = self.path / "freezer.state"
        if not state.exists():
            raise FlowferryError("not_running", f"the workload has ended by itself: no {self.path}")
        deadline = time.monotonic() + LIMIT
        state.write_text(wanted)
        while state.read_text().strip() != wanted:
            if time.monotonic() > deadline:
                raise FlowferryError(
                    "freeze",
                    f"{state} did not become {wanted} within {LIMIT:g} s: it is "
                    f"{state.read_text().strip()}",
                )
            time.sleep(0.0005)
            # A task that has begun a vfork since the kernel was told waits for a child that stands
            # still; it is stopped only when that is told again.
            state.write_text(wanted)
