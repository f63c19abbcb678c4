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


# As much of systemctl as units needs: it starts what the unit says, and shows whether it runs.
SYSTEMCTL = """#!{python}
import os, re, shlex, signal, subprocess, sys
from pathlib import Path
directory = Path({directory!r})
pid_file, asked = directory / "pid", sys.argv[1:]
with (directory / "asked").open("a") as asked_file:
    print(asked[0], file=asked_file)
pid = pid_file.read_text() if pid_file.exists() else "0"
if asked[0] == "restart":
    unit = (directory / asked[-1]).read_text()
    command = re.search("^ExecStart=(.*)$", unit, re.M)[1]
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command)]
    log = (directory / "log").open("ab")
    process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    pid_file.write_text(str(process.pid))
elif asked[0] == "disable" and pid != "0":
    os.kill(int(pid), signal.SIGTERM)
    pid_file.unlink()
elif asked[0] == "show":
    print("ActiveState=" + ("active" if pid != "0" else "inactive"), "MainPID=" + pid, sep="\\n")
"""


@pytest.fixture
def units_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where units are, on a host that systemd seems to run."""
    directory = tmp_path / "units"
    directory.mkdir()
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(python=sys.executable, directory=str(directory)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(daemons.units, "RUNS", directory)
    monkeypatch.setattr(daemons.units, "UNITS", directory)
    return directory


def test_systemd_runs_it_where_it_runs_the_host(
    units_directory: Path, daemon: daemons.Daemon
) -> None:
    pid = daemons.start(daemon, 30.0)
    asked = (units_directory / "asked").read_text().split()
    assert [one for one in asked if one != "show"] == ["daemon-reload", "enable", "restart"]
    assert daemons.record(NAME)["pid"] == pid
    assert daemons.difference(daemon) == ""
    Path(daemon.files[0]).write_text("two")
    assert "changed" in daemons.difference(daemon)
    assert daemons.stop(NAME, 10.0) is True
    assert not list(units_directory.glob("*.service"))
    assert daemons.difference(daemon) == "not running"


def test_a_unit_has_arguments_as_they_are(units_directory: Path, daemon: daemons.Daemon) -> None:
    odd = replace(daemon, command=["sh", "-c", 'echo "$HOME" 100% \\'], environment={"A": "b c"})
    unit = daemons.units.text(NAME, odd.command, odd.environment, odd.log, "f")
    assert 'Environment="A=b c"\n' in unit
    assert '"-c" "echo \\"$$HOME\\" 100%% \\\\"\n' in unit


def test_a_unit_of_no_program_is_told_of(units_directory: Path, daemon: daemons.Daemon) -> None:
    with pytest.raises(FlowferryError, match="there is no /nowhere"):
        daemons.start(replace(daemon, command=["/nowhere"]), 5.0)
