# SPDX-License-Identifier: Apache-2.0
"""Ends a program that the module daemon has started, or starts it again as it was.

    python3 daemon_control.py NAME stop|start|restart|pause|continue
    python3 daemon_control.py all ended

Runs on hosts of the lab. To stop is to kill; a start waits until something listens at the port that
the program had, and fails if it has ended by itself. One that is paused stands still, with all that
it holds. "ended" tells of every program that should run and does not, with the end of its log.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 30.0
LOG_LINES = 20
RECORDS = Path("/run/flowferry/daemons")


def fields(pid: int) -> list[str]:
    """Of the process's state from the third on; empty when it has ended, with all its threads.

    Until the last has, its ports are taken, and a program that is started again may end for that.
    """
    try:
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        has_ended = found[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) < 2
    except OSError:
        return []
    return [] if has_ended else found


def ports(pid: int) -> list[int]:
    """The TCP ports that it listens at, beside those of loopback alone."""
    listed = subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in listed.splitlines() if f"pid={pid}," in line]
    return sorted({int(re.split(r"\s+", line)[3].rpartition(":")[2]) for line in lines})


class Program:
    """What is known of it, kept beside the record of the module daemon while it does not run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.record = RECORDS / f"{name}.json"
        self.kept = self.record.with_suffix(".stopped")
        self.log = Path("/var/log/flowferry") / f"{name}.log"

    def stop(self) -> None:
        record = json.loads(self.record.read_text())
        pid = record["pid"]
        if not fields(pid):
            return
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        self.kept.write_text(json.dumps({"command": command, "ports": ports(pid)}))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not fields(pid))

    def signal(self, number: int) -> None:
        os.kill(json.loads(self.record.read_text())["pid"], number)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One command at a time: a restart in the background may not be done yet."""
        with self.record.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def start(self, wait: bool) -> None:
        if not self.kept.exists():
            if ended := self.ended():
                sys.exit(ended)
            return
        kept, record = json.loads(self.kept.read_text()), json.loads(self.record.read_text())
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                kept["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        started = int(fields(process.pid)[19])
        self.record.write_text(json.dumps({**record, "pid": process.pid, "started": started}))
        self.kept.unlink()
        if wait:
            wait_for(lambda: self.ended() or all(listens(port) for port in kept["ports"]))
            if ended := self.ended():
                sys.exit(ended)

    def ended(self) -> str:
        """What it said last, if it does not run but should; else nothing."""
        pid = json.loads(self.record.read_text())["pid"]
        if fields(pid):
            return ""
        said = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"{self.name} (pid {pid}) has ended; it said:", *said])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{sys.argv[1]}: not done within {LIMIT:g} s")
        time.sleep(0.02)


def control(program: Program, action: str) -> None:
    if action in ("stop", "restart"):
        program.stop()
    if action in ("start", "restart"):
        program.start(wait=action == "start")
    if action in ("pause", "continue"):
        program.signal({"pause": signal.SIGSTOP, "continue": signal.SIGCONT}[action])


if __name__ == "__main__":
    if sys.argv[2] == "ended":
        programs = [Program(file.stem) for file in sorted(RECORDS.glob("*.json"))]
        print("\n".join(filter(None, (program.ended() for program in programs))))
    else:
        named = Program(sys.argv[1])
        with named.alone():
            control(named, sys.argv[2])
