# SPDX-License-Identifier: Apache-2.0
"""Programs that serve in the background: units where systemd runs the host, else by themselves.

The lab's hosts are namespaces whose init only reaps. What runs, and from which files it was
started, is kept beside its pid: a program is started again when one of them has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from . import units
from .errors import FlowferryError
from .processes import start_time

STATE = Path("/run/flowferry/daemons")
LOGS = Path("/var/log/flowferry")
LOG_LINES = 12


@dataclass(frozen=True)
class Daemon:
    """What is to run, and what tells that it serves: HOST:PORT, a unix socket, an https URL.

    An URL is asked with the files ``authority`` and ``certificate`` (with its key).
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    ready: str = ""
    authority: str = ""
    certificate: str = ""

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    def fingerprint(self) -> str:
        """Changes with the command, its environment, and the content of the files."""
        told = [self.command, sorted(self.environment.items())]
        kept = hashlib.sha256(json.dumps(told).encode())
        for name in self.files:
            kept.update(hashlib.sha256(Path(name).read_bytes()).digest())
        return kept.hexdigest()


def record(name: str) -> dict[str, Any]:
    """What start() wrote about the running program; empty when it does not run."""
    if units.RUNS.is_dir():
        return units.record(name)
    try:
        kept: dict[str, Any] = json.loads((STATE / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return kept if start_time(kept["pid"]) == kept["started"] else {}


def difference(daemon: Daemon) -> str:
    """Why the program would have to be started; empty when it runs as it should."""
    kept = record(daemon.name)
    if not kept:
        return "not running"
    if kept["fingerprint"] != daemon.fingerprint():
        return "command, environment or files have changed"
    return ""


def start(daemon: Daemon, timeout: float) -> int:
    """End an older one, start this one, wait until it answers; returns its pid."""
    stop(daemon.name, timeout)
    for directory in (STATE, LOGS):
        directory.mkdir(parents=True, exist_ok=True)
    if units.RUNS.is_dir():
        return _start_unit(daemon, timeout)
    with daemon.log.open("ab") as log:
        try:
            process = subprocess.Popen(
                daemon.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, **daemon.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise FlowferryError(
                "daemon_failed", f"{daemon.name}: cannot run {daemon.command[0]}: {error.strerror}"
            ) from error
    kept = {
        "pid": process.pid,
        "started": start_time(process.pid),
        "fingerprint": daemon.fingerprint(),
    }
    partial = STATE / f"{daemon.name}.partial"
    partial.write_text(json.dumps(kept))
    partial.replace(STATE / f"{daemon.name}.json")

    def ended() -> str:
        return "" if process.poll() is None else f"with status {process.returncode}"

    _wait_until_ready(daemon, ended, timeout)
    return process.pid


def _start_unit(daemon: Daemon, timeout: float) -> int:
    """The same by systemd, which starts it again when it fails, and when the host starts."""
    command, environment = daemon.command, daemon.environment
    unit = units.text(daemon.name, command, environment, daemon.log, daemon.fingerprint())
    units.start(daemon.name, unit)

    def ended() -> str:
        return "" if record(daemon.name) else f"as unit {units.unit_of(daemon.name)}"

    _wait_until_ready(daemon, ended, timeout)
    return int(record(daemon.name)["pid"])


def _wait_until_ready(daemon: Daemon, ended: Callable[[], str], timeout: float) -> None:
    def answers() -> bool:
        if how := ended():
            raise FlowferryError(
                "daemon_failed",
                f"{daemon.name} ended {how}; {daemon.log} says: {_tail(daemon.log)}",
            )
        return not daemon.ready or _serves(daemon)

    if not _poll(answers, timeout):
        raise FlowferryError(
            "daemon_failed",
            f"{daemon.name} does not answer at {daemon.ready} within {timeout:g} s; {daemon.log} "
            f"says: {_tail(daemon.log)}",
        )


def _serves(daemon: Daemon) -> bool:
    if not daemon.ready.startswith("https://"):
        return _accepts(daemon.ready)
    context = ssl.create_default_context(cafile=daemon.authority)
    context.load_cert_chain(daemon.certificate)
    try:
        with urlopen(daemon.ready, timeout=2.0, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _accepts(address: str) -> bool:
    """Whether somebody listens at HOST:PORT, or at the path of a unix socket."""
    family = socket.AF_UNIX if address.startswith("/") else socket.AF_INET
    host, _, port = address.rpartition(":")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address if family == socket.AF_UNIX else (host, int(port)))
        except OSError:
            return False
    return True


def stop(name: str, timeout: float) -> bool:
    """End the program, kindly first; True when it ran."""
    kept = record(name)
    if units.RUNS.is_dir():
        units.stop(name)
        return bool(kept)
    if kept:
        pid, started = int(kept["pid"]), int(kept["started"])

        def ended() -> bool:
            return start_time(pid) != started

        os.kill(pid, signal.SIGTERM)
        if not _poll(ended, timeout):
            os.kill(pid, signal.SIGKILL)
            _poll(ended, timeout)
    (STATE / f"{name}.json").unlink(missing_ok=True)
    return bool(kept)


def _poll(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return "\n".join(lines[-LOG_LINES:]) or "-"
