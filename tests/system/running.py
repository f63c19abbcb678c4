# SPDX-License-Identifier: Apache-2.0
"""Whether two copies of a program ever run at the same time, by the kernel's word.

All nodes of the lab share this machine's kernel: one look at its freezer groups sees both nodes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.lab_control import NODES

FREEZER = Path("/sys/fs/cgroup/freezer")
KILLED = 1 << 8


class Sampler:
    """Looks again and again at which containers of the lab's nodes have the program, and run.

    A copy is known by the name of its program and by its host name, which a restore keeps.
    """

    def __init__(self, lab: int, program: str, host_name: str) -> None:
        self._hosts = {node: FREEZER / f"flowferry-lab{lab}-{node}" for node in NODES}
        self._program = program
        self._host_name = host_name
        self._ended = threading.Event()
        self.looks = 0
        self.together: list[list[str]] = []
        """What ran at the same time, for each moment with more than one."""
        self.places: set[str] = set()
        """Nodes where it ever ran."""

    @contextmanager
    def watching(self) -> Iterator[Sampler]:
        """Look every few milliseconds until the end of the block."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            running = self.running()
            if len(running) > 1:
                # Not of one moment: one may have been stopped before the other went on.
                running = [one for one in self.running() if one in running]
            self.looks += 1
            self.places |= {one.partition("/")[0] for one in running}
            if len(running) > 1:
                self.together.append(running)
            time.sleep(0.003)

    def running(self) -> list[str]:
        """NODE/GROUP of each that could execute an instruction now."""
        return [
            f"{node}/{group.relative_to(host)}"
            for node, host in self._hosts.items()
            for group in _containers(host)
            if self._runs(group)
        ]

    def _runs(self, group: Path) -> bool:
        try:
            pids = (group / "cgroup.procs").read_text().split()
            if not pids or (group / "freezer.state").read_text().strip() == "FROZEN":
                return False
            return any(self._is_it(Path("/proc", pid)) for pid in pids)
        except OSError:  # it ends at this moment
            return False

    def _is_it(self, process: Path) -> bool:
        if (process / "comm").read_text().strip() != self._program:
            return False
        if (process / "root/etc/hostname").read_text().strip() != self._host_name:
            return False
        told = dict(
            line.split(":\t", 1)
            for line in (process / "status").read_text().splitlines()
            if ":\t" in line
        )
        dying = int(told["ShdPnd"], 16) & KILLED or told["State"][0] in "ZX"
        return not dying


def _containers(host: Path) -> Iterator[Path]:
    """The groups of a host's containers, with those within: containerd's, and CRI-O's."""
    for directory, _, _ in os.walk(host):  # which takes it that groups end at any moment
        if "/k8s.io/" in directory or "/crio-" in directory:
            yield Path(directory)
