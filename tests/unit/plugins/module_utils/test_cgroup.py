# SPDX-License-Identifier: Apache-2.0
"""What is done with cgroups; the tests of migrations show that the kernel does as it is told."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import cgroup


def _file(root: Path) -> Path:
    """Where this process would enter the first of its groups, if they were mounted there."""
    _, controllers, path = Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)
    return root / controllers.removeprefix("name=") / path.lstrip("/") / "cgroup.procs"


def _wait_for_change(file: Path) -> None:
    file.write_text("")
    deadline = time.monotonic() + 5
    while file.read_text() != str(os.getpid()):
        assert time.monotonic() < deadline, "the group was not entered within 5 s"
        time.sleep(0.001)


def test_a_group_is_entered_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    file = _file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text("")
    changes = cgroup.ChangesOfGroup(30.0)
    _wait_for_change(file)
    _wait_for_change(file)
    changes.end()
    time.sleep(0.1)
    file.write_text("")
    time.sleep(0.1)
    assert file.read_text() == ""


def test_it_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever started it may be gone."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    file = _file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text("")
    cgroup.ChangesOfGroup(0.0)
    time.sleep(0.1)
    assert file.read_text() == ""


def test_without_a_group_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    before = threading.active_count()
    cgroup.ChangesOfGroup(30.0)
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline, "it goes on without a group"
        time.sleep(0.001)
