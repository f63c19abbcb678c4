# SPDX-License-Identifier: Apache-2.0
"""Which process trees are refused, with what words. What is refused has not been touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import criu
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.processes import Process, roots
from ansible_collections.flowferry.core.plugins.module_utils.runtimes import process
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.process import ProcessTree


@dataclass(frozen=True)
class Played(Process):
    """A process that is not there."""

    foreign: tuple[str, ...] = ()

    def command(self) -> str:
        return "played"

    def threads(self) -> list[int]:
        return [self.pid]

    def resident_bytes(self) -> int:
        return 1 << 20

    def foreign_namespaces(self) -> list[str]:
        return list(self.foreign)


def played(pid: int, parent: int = 1, session: int = 100, group: int = 100, **more: Any) -> Played:
    return Played(pid, parent, group, session, more.pop("terminal", 0), "1", **more)


ROOT = played(100)


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """What is in the namespace; the test changes it."""
    found: list[Process] = [ROOT]
    monkeypatch.setattr(process, "in_network", lambda namespace: found)
    monkeypatch.setattr(ProcessTree, "check_node", classmethod(lambda cls: None))
    endpoint = process.endpoints.endpoint_with("web", ["198.19.0.1"])
    monkeypatch.setattr(process.endpoints, "find", lambda namespace: endpoint)
    return found


def refused(code: str, *words: str) -> None:
    with pytest.raises(FlowferryError) as raised:
        ProcessTree("web").check_source()
    assert raised.value.code == code, raised.value
    for word in ('process tree "web"', *words):
        assert word in str(raised.value)


def test_nothing_in_the_namespace(tree: list[Process]) -> None:
    tree.clear()
    refused("unknown_workload", "ip netns list")


def test_no_address(tree: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.endpoints, "find", lambda namespace: None)
    refused("no_endpoint", "flowferry.core.endpoint")


def test_a_container_in_the_namespace(tree: list[Process]) -> None:
    tree[:] = [played(100, foreign=("mnt", "pid"))]
    refused("own_namespaces", "mnt, pid", "move a container by its runtime")


def test_two_trees(tree: list[Process]) -> None:
    tree.append(played(200, session=200, group=200))
    refused("several_trees", "100 (played), 200 (played)")


@pytest.mark.parametrize(
    "outsider",
    [played(100, session=7), played(100, group=7), played(100, terminal=34816)],
    ids=["session", "group", "terminal"],
)
def test_a_session_outside(tree: list[Process], outsider: Process) -> None:
    tree[:] = [outsider]
    refused("outside_session", "setsid nsenter --net=/run/netns/web PROGRAM")


def test_children_have_a_common_parent() -> None:
    assert roots([ROOT, played(101, parent=100), played(102, parent=101)]) == [ROOT]


def about(**more: Any) -> dict[str, Any]:
    return {"ids": [2**22 - 1], "directories": ["/"], "files": [], "memory_bytes": 0, **more}


def refused_there(code: str, tmp_path: Path, **more: Any) -> str:
    with pytest.raises(FlowferryError) as raised:
        ProcessTree("web").check_destination(about(**more), tmp_path)
    assert raised.value.code == code
    return str(raised.value)


def test_a_destination_that_can_take_it(tree: list[Process], tmp_path: Path) -> None:
    tree.clear()
    ProcessTree("web").check_destination(about(), tmp_path)


def test_memory_that_goes_apart_has_to_be_free_there_but_not_in_dev_shm(
    tree: list[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.clear()
    room = SimpleNamespace(free=64 << 20)
    monkeypatch.setattr(criu.shutil, "disk_usage", lambda _: room)
    large = {"memory_bytes": 120 << 20, "apart_bytes": 100 << 20}
    ProcessTree("web").check_destination(about(**large), tmp_path)
    room.free = 50 << 20  # twice what remains and 16 MB are more
    assert "56 MB" in refused_there("no_space", tmp_path, **large)
    room.free = 64 << 20
    message = refused_there("no_space", tmp_path, memory_bytes=1 << 50, apart_bytes=(1 << 50) - 1)
    assert "of memory available" in message


def test_others_in_the_namespace_there(tree: list[Process], tmp_path: Path) -> None:
    assert "ip netns pids web" in refused_there("name_taken", tmp_path)


def test_an_id_that_is_taken(tree: list[Process], tmp_path: Path) -> None:
    tree.clear()
    message = refused_there("pid_taken", tmp_path, ids=[os.getpid()])
    assert f"id {os.getpid()}, which is taken on the destination by" in message


def test_a_directory_that_is_not_there(tree: list[Process], tmp_path: Path) -> None:
    tree.clear()
    missing = str(tmp_path / "nowhere")
    assert missing in refused_there("no_file", tmp_path, directories=[missing])


@pytest.fixture
def reader() -> Iterator[subprocess.Popen[bytes]]:
    """A child that reads a pipe which this process holds the other end of."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    yield child
    child.communicate()


def test_a_pipe_to_the_outside(reader: subprocess.Popen[bytes]) -> None:
    with pytest.raises(FlowferryError, match=f"leads to process {os.getpid()} outside") as raised:
        criu.check_pipes("it", [reader.pid])
    assert raised.value.code == "external_pipe"


def test_a_pipe_of_its_own(tmp_path: Path) -> None:
    """Both of its ends are held by processes that are asked about."""
    ready = tmp_path / "ready"
    script = f"import os, time; os.pipe(); open({str(ready)!r}, 'w').close(); time.sleep(60)"
    null = subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-c", script], stdin=null, stdout=null, stderr=null)
    try:
        wait_until(ready.exists)
        criu.check_pipes("it", [child.pid])
    finally:
        child.kill()
        child.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the child did not start"
        time.sleep(0.01)


def test_processes_whose_limits_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node that is itself a container without CAP_SYS_RESOURCE."""

    def refuse(pid: int, limit: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    criu.check_limits("it", [os.getpid()])
    monkeypatch.setattr(criu.resource, "prlimit", refuse)
    with pytest.raises(FlowferryError, match=f"process {os.getpid()} runs as user") as raised:
        criu.check_limits("it", [os.getpid()])
    assert raised.value.code == "other_user"
    assert "(Operation not permitted)" in str(raised.value)


def test_processes_that_have_ended_have_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int, limit: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(criu.resource, "prlimit", gone)
    criu.check_limits("it", [os.getpid()])
