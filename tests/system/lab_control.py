# SPDX-License-Identifier: Apache-2.0
"""What system tests do with the lab: playbooks, commands on its hosts, questions to the switch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowferry_p4.client import Session

ROOT = Path(__file__).resolve().parents[2]
NODES = {"node1": 1, "node2": 2}
"""Each node's port at the switch."""
_HOST_NUMBERS = {"switch": 2, "client": 3, "node1": 11, "node2": 12}


@dataclass
class Played:
    """A playbook's end."""

    returncode: int
    stdout: str
    stderr: str
    results: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Task name, host and result, in order."""

    def task(self, name: str, host: str = "localhost") -> dict[str, Any]:
        """The result of the task of this name on this host; empty when it did not run."""
        found = [result for task, at, result in self.results if (task, at) == (name, host)]
        return found[-1] if found else {}

    @property
    def outcome(self) -> dict[str, Any]:
        """The result of the migration task; empty when the play did not come to it."""
        return self.task("Migration")

    @property
    def failure(self) -> dict[str, Any]:
        """``code`` and ``message`` of a migration that failed; empty when it did not."""
        found: dict[str, Any] = self.outcome.get("failure", {})
        return found

    def must_succeed(self) -> Played:
        """Itself; an AssertionError with all output if it failed."""
        assert self.returncode == 0, f"{self.stdout[-6000:]}\n{self.stderr[-2000:]}"
        return self


class Lab:
    """One running lab and the workload in it."""

    def __init__(self, number: int, state: Path) -> None:
        self.number = number
        self.state = state
        """XDG_STATE_HOME of the playbooks: where journals are."""
        self.address = f"198.19.{number}.100"
        """The endpoint of Redis."""
        self.switch_address = f"198.18.{number}.2:9559"
        self._directory = Path(f"/run/flowferry/lab{number}")

    # -- playbooks

    def start(self) -> None:
        """Bring the lab up, and Redis on node1."""
        self.playbook("lab.yml").must_succeed()
        self.playbook("demo_workload.yml").must_succeed()

    def end(self) -> None:
        """Take everything away."""
        self.playbook("teardown.yml").must_succeed()

    def playbook(
        self,
        playbook: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> Played:
        """Run ``playbooks/NAME`` with ``extra`` variables; the caller looks at how it ended."""
        completed = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), f"playbooks/{playbook}"]
            + ["-e", json.dumps(extra), *options],
            cwd=ROOT,
            env={**self._environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        results = _results(completed.stdout)
        return Played(completed.returncode, completed.stdout, completed.stderr, results)

    def migrate(self, destination: str, *options: str, **more: Any) -> Played:
        """Move Redis (or ``workload=NAME``) to a node."""
        return self.playbook(
            "migrate.yml", *options, **{"workload": "redis", "destination": destination, **more}
        )

    def migrate_with_fault(self, destination: str, fault: str) -> Played:
        """Move Redis while a party dies after a phase, PHASE:keeper, :source or :destination."""
        return self.playbook(
            "migrate.yml",
            environment={"FLOWFERRY_FAULT": fault},
            workload="redis",
            destination=destination,
        )

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "p4"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
            "FLOWFERRY_LAB_ID": str(self.number),
            "XDG_STATE_HOME": str(self.state),
        }

    # -- hosts

    def ssh(self, host: str, command: str) -> list[str]:
        """The command line that runs ``command`` (for a shell) on a host of the lab."""
        options = [
            "ControlMaster=auto",
            "ControlPersist=300s",
            f"ControlPath={self._directory}/ssh/%C",
            f"UserKnownHostsFile={self._directory}/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "PasswordAuthentication=no",
            "LogLevel=ERROR",
        ]
        login = f"root@198.18.{self.number}.{_HOST_NUMBERS[host]}"
        key = str(self._directory / "keys" / "controller")
        flags = [part for option in options for part in ("-o", option)]
        return ["ssh", "-F", "none", "-i", key, *flags, login, command]

    def run(self, host: str, command: str, *, check: bool = True) -> str:
        """Standard output of ``command`` on a host; an AssertionError if it fails."""
        completed = subprocess.run(
            self.ssh(host, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check:
            told = f"{completed.stdout}\n{completed.stderr}"
            assert completed.returncode == 0, f"{host}: `{command}` failed: {told}"
        return completed.stdout.strip()

    def popen(self, host: str, command: str) -> subprocess.Popen[str]:
        """Start ``command`` on a host, its standard input and output at hand."""
        return subprocess.Popen(
            self.ssh(host, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    # -- the workload

    def holders(self) -> list[str]:
        """The nodes on which Redis runs."""
        listed = "podman ps --filter name=^redis$ --format '{{.Names}}'"
        return [node for node in NODES if self.run(node, listed) == "redis"]

    def location(self) -> str:
        """The one node on which Redis runs."""
        found = self.holders()
        assert len(found) == 1, f"Redis should run on one node, it runs on {found}"
        return found[0]

    def elsewhere(self) -> str:
        """The node on which Redis does not run."""
        return next(node for node in NODES if node != self.location())

    def redis(self, *words: str) -> str:
        """The answer of Redis to a command, asked from the client through the switch."""
        script = f"""
import socket
s = socket.create_connection(("{self.address}", 6379), 5)
s.sendall(b"{" ".join(words)}\\r\\n")
f = s.makefile("rb")
head = f.readline().decode().strip()
print(f.read(int(head[1:])).decode() if head[0] == "$" else head)
"""
        return self.run("client", f"python3 -c '{script}'")

    def run_id(self) -> str:
        """The identity of the Redis process that answers; a restart would change it."""
        lines = self.redis("INFO", "server").splitlines()
        return next(line.split(":")[1] for line in lines if line.startswith("run_id:"))

    # -- the switch

    def session(self, **options: Any) -> Session:
        """A P4Runtime client of the lab's switch; one that only reads unless ``primary=True``."""
        return Session.open(self.switch_address, **{"primary": False, **options})

    def traces(self) -> list[Any]:
        """Entries of a migration that are at the switch."""
        with self.session() as session:
            tables = ("hold_to", "hold_from", "guard")
            return [entry for table in tables for entry in session.read(table)]

    def journals(self) -> list[Path]:
        """Journals of migrations that are not finished."""
        return sorted(self.state.rglob("*.json"))

    def helpers(self) -> list[str]:
        """Helpers that run on the nodes: node and pid."""
        command = "cat /run/flowferry/helper-*.pid 2>/dev/null || true"
        return [f"{node} {self.run(node, command)}" for node in NODES if self.run(node, command)]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll until it is so; an AssertionError that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def _results(output: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Of the JSON that the callback prints last; progress and warnings may stand before it."""
    lines = output.splitlines()
    if "{" not in lines:
        return []
    content = json.loads("\n".join(lines[lines.index("{") :]))
    return [
        (task["task"]["name"], host, result)
        for play in content["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
    ]
