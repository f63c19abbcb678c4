# SPDX-License-Identifier: Apache-2.0
"""What becomes of the helper that an interrupted migration has left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import helper
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.processes import start_time
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.registry import open_workload

WORKLOAD = open_workload("process:it")
# One that goes on until it has done what it was asked for.
BUSY = "import signal; signal.signal(15, signal.SIG_IGN); print('busy', flush=True); input()"


@pytest.fixture
def previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setattr(helper, "STATE", tmp_path)
    monkeypatch.setattr(helper, "PATIENCE", 0.1)
    command = [sys.executable, "-c", BUSY]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "busy\n"
        noted = f"{process.pid} {start_time(process.pid)}"
        (tmp_path / "helper-process.it.pid").write_text(noted)
        yield process
        process.kill()


def test_one_that_does_not_end_is_ended(previous: subprocess.Popen[str], tmp_path: Path) -> None:
    helper.end_previous(WORKLOAD)
    assert previous.wait(10) == -9
    assert list(tmp_path.iterdir()) == []


def test_one_that_a_copy_has_its_memory_from_goes_on(
    previous: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "follows-process.it").touch()
    with pytest.raises(FlowferryError, match="run the playbook again") as caught:
        helper.end_previous(WORKLOAD)
    assert caught.value.code == "memory_follows" and previous.poll() is None
