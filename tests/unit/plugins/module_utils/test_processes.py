# SPDX-License-Identifier: Apache-2.0
"""What is said of processes: when one has ended, and whose namespaces it has."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import open_files
from ansible_collections.flowferry.core.plugins.module_utils.criu import (
    check_pipes,
    check_processes,
)
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.processes import (
    Process,
    descends,
    start_time,
)

# exit(2) as the kernel has it ends one thread; the other one waits for the end of standard input.
_EXIT = {"x86_64": 60, "aarch64": 93}
_OUTLIVED = f"""
import ctypes, os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
ctypes.CDLL(None).syscall({_EXIT[platform.machine()]}, 0)
"""


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        time.sleep(0.005)


def test_a_process_has_not_ended_before_its_last_thread() -> None:
    """It holds its ports until then, so that what is started again too early cannot listen."""
    command = [sys.executable, "-c", _OUTLIVED]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        _wait_for(lambda: _state(process.pid) == "Z", "its first thread ends")
        began, seen = start_time(process.pid), Process.read(process.pid)
        assert began > 0 and seen is not None and seen.started == str(began)
        process.stdin.close()
        _wait_for(lambda: start_time(process.pid) == 0, "its last thread ends")
        assert _state(process.pid) == "Z" and Process.read(process.pid) is None
    assert start_time(process.pid) == 0


def test_a_process_of_this_node_has_its_namespaces_in_whatever_second_they_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel makes their inodes when they are looked at, with the time of that moment."""
    seconds, true_stat = count(1), os.stat

    def later_each_time(*arguments: Any, **more: Any) -> os.stat_result:
        found = list(true_stat(*arguments, **more))
        return os.stat_result([*found[:7], *[next(seconds)] * 3])

    monkeypatch.setattr(os, "stat", later_each_time)
    process = Process.read(os.getpid())
    assert process is not None and process.foreign_namespaces() == []


def test_a_mount_namespace_of_its_own_is_seen() -> None:
    with subprocess.Popen(["unshare", "--mount", "sleep", "60"]) as child:
        try:

            def kinds() -> list[str]:
                process = Process.read(child.pid)
                return process.foreign_namespaces() if process else []

            _wait_for(lambda: kinds() == ["mnt"], "it has a mount namespace of its own")
        finally:
            child.kill()


def test_a_process_that_has_ended_since_it_was_seen_has_nothing() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        seen = Process.read(child.pid)
        child.kill()
    assert seen is not None and Process.read(child.pid) is None
    assert (seen.command(), seen.threads(), seen.resident_bytes()) == ("", [], 0)
    assert seen.foreign_namespaces() == []
    check_processes("it", [child.pid])
    assert open_files.find([child.pid]) == []


def test_a_process_that_was_born_since_the_tree_was_seen_is_of_it() -> None:
    """A pipe that it has does not lead outside; one of a stranger does."""
    program = "import os, time; os.pipe(); os.fork(); print(flush=True); time.sleep(60)"
    command = ["setsid", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            parent.stdout.readline()
            told = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
            _wait_for(lambda: bool(told.read_text()), "it has a child")
            child = int(told.read_text())
            streams = {f"pipe:[{os.fstat(parent.stdout.fileno()).st_ino}]"}
            assert descends(child, {parent.pid}) and not descends(parent.pid, {child})
            check_pipes("it", [parent.pid], streams)
            with pytest.raises(FlowferryError, match="outside") as caught:
                check_pipes("it", [child], streams)
            assert caught.value.code == "external_pipe"
        finally:
            os.killpg(parent.pid, 9)
