# SPDX-License-Identifier: Apache-2.0
"""Reach the hosts of the embedded lab from Python, as its inventory does: by ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOST_NUMBERS = {"switch": 2, "client": 3, "node1": 11, "node2": 12}


class Lab:
    """One lab, by its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = Path(f"/run/flowferry/lab{number}")
        self.endpoint = f"198.19.{number}.100"

    def ssh(self, host: str) -> list[str]:
        """The beginning of a command that runs on a host."""
        options = ["-F", "none", "-i", str(self.state / "keys/controller")]
        options += ["-o", f"UserKnownHostsFile={self.state}/known_hosts"]
        options += ["-o", f"ControlPath={self.state}/ssh/demo-%C"]
        options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=120s", "-o", "LogLevel=ERROR"]
        return ["ssh", *options, f"root@198.18.{self.number}.{HOST_NUMBERS[host]}"]

    def run(self, host: str, command: str, timeout: float = 30.0) -> str:
        """Standard output of a command on a host; an error when it fails."""
        done = subprocess.run(
            [*self.ssh(host), command], capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{host}: `{command}` failed: {done.stderr or done.stdout}")
        return done.stdout

    def redis_info(self, *names: str) -> dict[str, str]:
        """Fields of Redis' INFO, asked from the client's host."""
        text = self.run("client", f"redis-cli -h {self.endpoint} INFO")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {name: fields[name].strip() for name in names}

    def playbook(self, name: str, *, quiet: bool = True, **variables: Any) -> dict[str, Any]:
        """Run a playbook; returns the result of its task "Migration" where it has one."""
        environment = dict(os.environ, FLOWFERRY_LAB_ID=str(self.number))
        environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
        environment["PYTHONPATH"] = str(ROOT / "p4")
        environment["ANSIBLE_STDOUT_CALLBACK"] = "ansible.posix.json"
        command = [str(Path(sys.executable).with_name("ansible-playbook"))]
        command += [str(ROOT / "playbooks" / f"{name}.yml"), "-e", json.dumps(variables)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        tasks = _tasks(done.stdout)
        if done.returncode != 0:
            failed = [task for task in tasks if task["result"].get("failed")]
            reason = failed[-1]["result"].get("msg") if failed else done.stdout[-2000:]
            raise RuntimeError(f"playbook {name} failed: {reason}\n{done.stderr[-2000:]}")
        found = [task["result"] for task in tasks if task["name"] == "Migration"]
        return found[-1] if found else {}


def _tasks(output: str) -> list[dict[str, Any]]:
    """The tasks of a run, by the JSON callback; progress lines stand before the JSON text."""
    start = output.find("{\n")
    if start < 0:
        return []
    plays = json.JSONDecoder().raw_decode(output[start:])[0]["plays"]
    return [
        {"name": task["task"]["name"], "host": host, "result": result}
        for play in plays
        for task in play["tasks"]
        for host, result in task["hosts"].items()
    ]


class Traffic:
    """A traffic client that runs on the client's host."""

    def __init__(self, lab: Lab, kind: str, key: str) -> None:
        source = (ROOT / "demo" / "traffic_client.py").read_text()
        script = "'" + source.replace("'", "'\\''") + "'"
        self.process = subprocess.Popen(
            [*lab.ssh("client"), f"python3 -c {script} {kind} {lab.endpoint} 6379 {key}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seen(self) -> dict[str, Any]:
        """What the client saw since the last time it was asked."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        return seen

    def end(self) -> dict[str, Any]:
        """End it; returns what it saw last."""
        output, _ = self.process.communicate("", timeout=10)
        last: dict[str, Any] = json.loads(output.splitlines()[-1])
        return last
