# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the module tests: a running switch, and Ansible as people run it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for p4_lab

from p4_lab import Playbook, RunningSwitch


@pytest.fixture
def switch() -> Iterator[RunningSwitch]:
    """A switch without a program."""
    if os.geteuid() != 0:
        pytest.skip("the embedded switch loads BPF programs, which needs root")
    # Not tmp_path: the path of a unix socket must be short.
    directory = Path(tempfile.mkdtemp(prefix="ff-switch-"))
    try:
        running = RunningSwitch.start(directory)
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def playbook(tmp_path: Path) -> Playbook:
    return Playbook(tmp_path)
