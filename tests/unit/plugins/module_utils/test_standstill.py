# SPDX-License-Identifier: Apache-2.0
"""A container that stands still while it is dumped, by the kernel's own freezer.

The test does to its group what runc and CRIU do: runc freezes it, CRIU stops each process, thaws
the group for its work and freezes it again, runc lets it go.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.cgroup import Freezer
from ansible_collections.flowferry.core.plugins.module_utils.cri.standstill import (
    Standstill,
    container_freezer,
)
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

HIERARCHY = Path("/sys/fs/cgroup/freezer")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not HIERARCHY.is_dir(), reason="needs root and the freezer of cgroup v1"
)
COUNT = 'i=0; while :; do i=$((i+1)); echo $i >"$0.new"; mv "$0.new" "$0"; done'


def until(condition: object, what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


class Counting:
    """A container whose processes count up, and fork while they do."""

    def __init__(self, directory: Path) -> None:
        self.freezer = HIERARCHY / f"flowferry-unit-{os.getpid()}"
        self.freezer.mkdir()
        self.count = directory / "count"
        self.archive = directory / "checkpoint-a-2026-11-25T08:55:44Z.tar"
        self.program = subprocess.Popen(["sh", "-c", COUNT, str(self.count)])
        (self.freezer / "cgroup.procs").write_text(str(self.program.pid))
        until(self.count.exists, "it counts")

    def end(self) -> None:
        Freezer(self.freezer).kill()
        self.program.wait(10)
        for group in (self.freezer / "flowferry", self.freezer):
            until(lambda group=group: not group.exists() or self._removed(group), f"no {group}")

    @staticmethod
    def _removed(group: Path) -> bool:
        try:
            group.rmdir()
        except OSError:  # a child of the program ends just now
            return False
        return True

    def standstill(self) -> Standstill:
        return Standstill(self.freezer, str(self.archive.parent / "checkpoint-a-[0-9]*T*.tar"))

    def set(self, state: str) -> None:
        (self.freezer / "freezer.state").write_text(state)

    def is_let_go_within(self) -> bool:
        return (self.freezer / "flowferry/freezer.self_freezing").read_text() == "0\n"

    def counted(self) -> str:
        return self.count.read_text()

    def signal(self, number: int) -> None:
        for pid in Freezer(self.freezer).pids():
            os.kill(pid, number)

    def goes_on(self) -> None:
        before = self.counted()
        until(lambda: self.counted() != before, "it goes on")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Counting]:
    made = Counting(tmp_path)
    yield made
    made.end()


def test_of_a_container_that_has_ended_nothing_of_ours_is_left(container: Counting) -> None:
    standstill = container.standstill()
    standstill.clear()  # nothing was begun
    standstill.begin()
    Freezer(container.freezer).kill()
    standstill.clear()
    assert container.freezer.exists() and not standstill.inner.exists()


def test_no_step_is_taken_before_during_and_after_the_dump(container: Counting) -> None:
    standstill = container.standstill()
    standstill.enter()
    container.goes_on()
    standstill.begin()
    before = container.counted()
    container.set("FROZEN")  # runc pause
    until(container.is_let_go_within, "CRIU can work")
    container.signal(signal.SIGSTOP)  # as CRIU has them stopped
    container.set("THAWED")
    time.sleep(0.02)  # the dump itself
    container.set("FROZEN")
    container.archive.touch()  # as the runtime begins it, for a look that came too late
    standstill.keep()
    container.signal(signal.SIGCONT)  # as CRIU lets them go
    # What runc finds: nothing that it would have to let go.
    assert (container.freezer / "freezer.self_freezing").read_text() == "0\n"
    time.sleep(0.02)
    assert container.counted() == before
    standstill.leave()
    container.goes_on()
    assert not standstill.inner.exists()


def test_what_has_run_before_it_was_frozen_again_is_told(container: Counting) -> None:
    """The archive was begun, and runc has let it go, before anybody has looked."""
    standstill = container.standstill()
    standstill.begin()
    container.set("FROZEN")
    until(container.is_let_go_within, "CRIU can work")
    container.set("THAWED")
    container.archive.touch()
    with pytest.raises(FlowferryError, match="may have run for a moment") as raised:
        standstill.keep()
    assert raised.value.code == "checkpoint_failed"
    standstill.leave()
    container.goes_on()


def test_a_move_that_is_given_up_leaves_nothing(container: Counting) -> None:
    """Not even what another helper has begun, which has died."""
    container.standstill().begin()
    container.set("FROZEN")
    another = container.standstill()
    another.leave()
    container.set("THAWED")
    container.goes_on()
    assert not another.inner.exists()
    another.leave()


def test_a_process_that_came_from_outside_stands_still_too(container: Counting) -> None:
    standstill = container.standstill()
    standstill.enter()
    with subprocess.Popen(["sleep", "60"]) as beside:
        (container.freezer / "cgroup.procs").write_text(str(beside.pid))
        standstill.begin()
        assert str(beside.pid) in (standstill.inner / "cgroup.procs").read_text().split()
        assert (standstill.inner / "freezer.state").read_text() == "FROZEN\n"
        Freezer(container.freezer).kill()  # ends what is frozen within, too
        assert beside.wait(10) == -signal.SIGKILL
    assert container.program.wait(10) == -signal.SIGKILL


def test_a_container_that_has_ended_is_told(tmp_path: Path) -> None:
    gone = Standstill(HIERARCHY / "flowferry-unit-none", str(tmp_path / "*"))
    gone.leave()
    with pytest.raises(FlowferryError, match="has ended by itself") as raised:
        gone.begin()
    assert raised.value.code == "not_running"


def test_the_containers_freezer_is_the_one_around_ours() -> None:
    for path in ("/f/crio-1", "/f/crio-1/flowferry"):
        found = container_freezer(Freezer(path))
        assert found is not None and found.path == Path("/f/crio-1")
    assert container_freezer(None) is None
