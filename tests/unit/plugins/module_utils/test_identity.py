# SPDX-License-Identifier: Apache-2.0
"""A process that was started again is told from the old one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.identity import (
    marks,
    require_same,
    tree,
)

PROGRAM = "import os, sys, time; {} print(flush=True); sys.stdin.read()"


@contextmanager
def running(before: str = "") -> Iterator[int]:
    """The pid of a program that waits; it has done ``before``."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(before)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.readline()
    try:
        yield program.pid
    finally:
        program.communicate()


def test_a_process_keeps_its_mark() -> None:
    assert marks(os.getpid())[:1] == marks(os.getpid())[:1] != [""]


def test_the_same_program_started_again_has_another_mark() -> None:
    with running() as old, running() as new:
        before = marks(old)
        require_same('container "a"', before, old)
        with pytest.raises(FlowferryError, match="0 of 1 processes are the old ones") as refused:
            require_same('container "a"', before, new)
    assert refused.value.code == "started_afresh"


def test_a_child_belongs_to_the_tree_and_has_its_parents_mark() -> None:
    with running("os.fork() or sys.exit(time.sleep(60));") as parent:
        pids = tree(parent)
        assert len(pids) == 2 and pids[0] == parent
        first, second = marks(parent)
        assert first == second
        os.kill(pids[1], 9)


def test_a_process_that_is_gone_is_not_the_old_one() -> None:
    with running() as pid:
        before = marks(pid)
    with pytest.raises(FlowferryError, match="started afresh"):
        require_same('container "a"', before, pid)
