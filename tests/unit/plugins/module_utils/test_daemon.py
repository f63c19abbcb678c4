# SPDX-License-Identifier: Apache-2.0
"""A program in the background: started once, again when its files change, and ended."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import daemon as daemons
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

SERVE = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); " + (
    "time.sleep(600)"
)
NAME = f"test-{os.getpid()}"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[daemons.Daemon]:
    monkeypatch.setattr(daemons, "STATE", tmp_path / "state")
    monkeypatch.setattr(daemons, "LOGS", tmp_path / "logs")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "settings"
    settings.write_text("one")
    yield daemons.Daemon(
        NAME,
        [sys.executable, "-c", SERVE, str(port)],
        files=[str(settings)],
        ready=f"127.0.0.1:{port}",
    )
    daemons.stop(NAME, 10.0)


def test_it_runs_until_it_is_stopped(daemon: daemons.Daemon) -> None:
    assert daemons.difference(daemon) == "not running"
    pid = daemons.start(daemon, 30.0)
    assert daemons.difference(daemon) == ""
    assert daemons.record(NAME)["pid"] == pid
    assert daemons.stop(NAME, 10.0) is True
    assert daemons.difference(daemon) == "not running"
    assert daemons.stop(NAME, 10.0) is False


def test_other_files_or_arguments_start_it_again(daemon: daemons.Daemon) -> None:
    daemons.start(daemon, 30.0)
    assert "changed" in daemons.difference(replace(daemon, command=[*daemon.command, "more"]))
    Path(daemon.files[0]).write_text("two")
    assert "changed" in daemons.difference(daemon)
    daemons.start(daemon, 30.0)
    assert daemons.difference(daemon) == ""


def test_the_end_of_its_log_says_why_it_ended(daemon: daemons.Daemon) -> None:
    broken = replace(daemon, command=[sys.executable, "-c", "raise SystemExit('no settings')"])
    with pytest.raises(FlowferryError, match="no settings") as failed:
        daemons.start(broken, 30.0)
    assert failed.value.code == "daemon_failed"


def test_a_program_that_is_not_there_is_told_of(daemon: daemons.Daemon) -> None:
    with pytest.raises(FlowferryError, match="cannot run /nowhere"):
        daemons.start(replace(daemon, command=["/nowhere"]), 5.0)
