# SPDX-License-Identifier: Apache-2.0
"""The embedded lab from Python: playbooks, commands on its hosts, questions to its switch.

The demo, the benchmark and the system tests use it. Hosts are reached as the lab's inventory does
it, by ssh.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowferry_p4.client import Session

ROOT = Path(__file__).resolve().parents[1]
NODES = {"node1": 1, "node2": 2}
"""Each node's port at the switch."""
HOST_NUMBERS = {"switch": 2, "client": 3, "node1": 11, "node2": 12}
CONTROL_NUMBER = {"control": 4}
"""The host of the control plane, which the Kubernetes lab has beside the others."""


class LabError(AssertionError):
    """What was expected of the lab is not so: a test fails with it, a program ends with it."""


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
    def outcomes(self) -> list[dict[str, Any]]:
        """The results of all its migrations, in order."""
        return [result for task, _, result in self.results if task == "Migration"]

    @property
    def failure(self) -> dict[str, Any]:
        """``code`` and ``message`` of a migration that failed; empty when it did not."""
        found: dict[str, Any] = self.outcome.get("failure", {})
        return found

    def must_succeed(self) -> Played:
        """Itself; a LabError that says why if it failed."""
        if self.returncode != 0:
            failed = [
                f"{task}: {result['msg']}"
                for task, _, result in self.results
                if result.get("failed") and "msg" in result
            ]
            told = failed or [self.stdout[-6000:]]
            raise LabError("\n".join([*told, self.stderr[-2000:]]).strip())
        return self


class Lab:
    """One running lab and the workload in it."""

    playbook_limit = 240
    """Seconds that a playbook may take."""

    def __init__(self, number: int, state: Path | None = None) -> None:
        self.number = number
        self.state = state
        """XDG_STATE_HOME of the playbooks: where journals are; the user's own if None."""
        self.data_network = f"198.19.{number}"
        self.address = f"{self.data_network}.100"
        self.port = 6379
        """The endpoint of Redis."""
        self.switch_address = f"198.18.{number}.2:9559"
        self._directory = Path(f"/run/flowferry/lab{number}")

    @classmethod
    def chosen(cls) -> Lab:
        """The lab that FLOWFERRY_LAB_ID in the environment names, as for the playbooks."""
        return cls(int(os.environ.get("FLOWFERRY_LAB_ID") or 0))

    # -- playbooks

    def start(self) -> None:
        """Bring the lab up, with every runtime of containers on its nodes, and Redis on node1."""
        self.playbook("lab.yml", lab_runtimes="podman,docker").must_succeed()
        self.playbook("demo_workload.yml").must_succeed()

    def require_running(self) -> None:
        """A LabError that says what to do, unless every host answers."""
        remedy = f"start it with `FLOWFERRY_LAB_ID={self.number} make lab`"
        if not self._directory.is_dir():
            raise LabError(f"lab {self.number} does not run; {remedy}")
        for host in HOST_NUMBERS:
            try:
                self.run(host, "true")
            except LabError as error:
                told = f"lab {self.number}: {host} does not answer; {remedy}. {error}"
                raise LabError(told) from error

    def end(self) -> None:
        """Take everything away."""
        self.playbook("teardown.yml").must_succeed()

    def playbook(
        self,
        playbook: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        watched: bool = False,
        **extra: Any,
    ) -> Played:
        """Run ``playbooks/NAME``, or a file, with ``extra`` variables; the caller looks at its end.

        ``watched``: what it says while it runs goes to this program's output.
        """
        completed = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                str(Path("playbooks", playbook)),
            ]
            + ["-e", json.dumps(extra), *options],
            cwd=ROOT,
            env={**self._environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sys.stdout if watched else subprocess.PIPE,
            text=True,
            timeout=self.playbook_limit,
        )
        results = _results(completed.stdout)
        return Played(completed.returncode, completed.stdout, completed.stderr or "", results)

    def module(self, host: str, name: str, /, *options: str, **arguments: Any) -> dict[str, Any]:
        """The result of a module of this collection on a host; the caller looks at ``failed``."""
        completed = subprocess.run(
            [str(Path(sys.executable).parent / "ansible"), host, "-m", f"flowferry.core.{name}"]
            + ["-a", json.dumps(arguments), *options],
            cwd=ROOT,
            env={**self._environment(), "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        results = _results(completed.stdout)
        if not results:
            raise LabError(f"{name} on {host}: {completed.stdout}\n{completed.stderr}")
        return results[-1][2]

    def migrate(self, destination: str, *options: str, **more: Any) -> Played:
        """Move Redis (or ``workload=NAME``) to a node."""
        return self.playbook(
            "migrate.yml", *options, **{"workload": "redis", "destination": destination, **more}
        )

    def migrate_each(self, moves: Sequence[Mapping[str, Any]]) -> Played:
        """Several moves one after the other, by one run of Ansible, which starts only once.

        Each is given as the variables of ``playbooks/migrate.yml``; the first failure is the last.
        """
        playbook = str(ROOT / "playbooks" / "migrate.yml")
        plays = [{"import_playbook": playbook, "vars": dict(move)} for move in moves]
        with tempfile.TemporaryDirectory(prefix="ff-moves-") as directory:
            file = Path(directory) / "moves.yml"
            file.write_text(json.dumps(plays))  # which is YAML
            return self.playbook(str(file))

    def migrate_with_fault(self, destination: str, fault: str) -> Played:
        """Move Redis while a party dies after a phase, PHASE:keeper, :source or :destination."""
        return self.playbook(
            "migrate.yml",
            environment={"FLOWFERRY_FAULT": fault},
            workload="redis",
            destination=destination,
        )

    def _environment(self) -> dict[str, str]:
        state = {} if self.state is None else {"XDG_STATE_HOME": str(self.state)}
        return {
            **os.environ,
            **state,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "p4"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
            "FLOWFERRY_LAB_ID": str(self.number),
        }

    # -- hosts

    def ssh(self, host: str, command: str, *, log_in: bool = False) -> list[str]:
        """The command line that runs ``command`` (for a shell) on a host of the lab.

        It shares one connection with others, unless it is to ``log_in`` anew.
        """
        return ["ssh", *self._ssh_options(log_in), self._login(host), command]

    def _ssh_options(self, log_in: bool) -> list[str]:
        options = [
            f"UserKnownHostsFile={self._directory}/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "PasswordAuthentication=no",
            "LogLevel=ERROR",
        ]
        if not log_in:
            options += ["ControlMaster=auto", "ControlPersist=300s"]
            options += [f"ControlPath={self._directory}/ssh/%C"]
        key = str(self._directory / "keys" / "controller")
        return ["-F", "none", "-i", key, *(part for option in options for part in ("-o", option))]

    def _login(self, host: str) -> str:
        return f"root@198.18.{self.number}.{(HOST_NUMBERS | CONTROL_NUMBER)[host]}"

    def copy(self, source: str, destination: str, path: str) -> None:
        """scp a file from one host to the same path on another one."""
        ends = [f"{self._login(host)}:{path}" for host in (source, destination)]
        command = ["scp", "-q", "-3", *self._ssh_options(log_in=True), *ends]
        completed = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if completed.returncode != 0:
            raise LabError(f"scp from {source} to {destination} failed: {completed.stderr}")

    def run(self, host: str, command: str, *, check: bool = True, log_in: bool = False) -> str:
        """Standard output of ``command`` on a host; a LabError if it fails."""
        completed = subprocess.run(
            self.ssh(host, command, log_in=log_in),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if check and completed.returncode != 0:
            raise LabError(f"{host}: `{command}` failed: {completed.stdout}\n{completed.stderr}")
        return completed.stdout.strip()

    def popen(self, host: str, command: str) -> subprocess.Popen[str]:
        """Start ``command`` on a host; its output, errors too, and its standard input at hand.

        ssh gets no standard error of this program's: it would make it non-blocking for others.
        """
        return subprocess.Popen(
            self.ssh(host, f"exec 2>&1; {command}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    # -- the workload

    def holders(self) -> list[str]:
        """The nodes on which Redis runs."""
        listed = "podman ps --filter name=^redis$ --format '{{.Names}}'"
        return [node for node in NODES if self.run(node, listed) == "redis"]

    def location(self) -> str:
        """The one node on which Redis runs."""
        found = self.holders()
        if len(found) != 1:
            raise LabError(f"Redis should run on one node, it runs on {found or 'none'}")
        return found[0]

    def elsewhere(self) -> str:
        """The node on which Redis does not run."""
        return next(node for node in NODES if node != self.location())

    def redis(self, *words: str) -> str:
        """The answer of Redis to a command, asked from the client through the switch."""
        script = f"""
import socket
s = socket.create_connection(("{self.address}", {self.port}), 5)
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
            names = [f"{table}{suffix}" for table in tables for suffix in ("", "_ipv6")]
            return [entry for name in names for entry in session.read(name)]

    def journals(self) -> list[Path]:
        """Journals of migrations that are not finished."""
        assert self.state is not None, "a lab of its own has a state directory of its own"
        return sorted(self.state.rglob("*.json"))

    def helpers(self) -> list[str]:
        """Helpers that run on the nodes: node and pid."""
        command = "cat /run/flowferry/helper-*.pid 2>/dev/null || true"
        return [f"{node} {self.run(node, command)}" for node in NODES if self.run(node, command)]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll until it is so; a LabError that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {seconds:g} s: {what}")
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
