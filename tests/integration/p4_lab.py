# SPDX-License-Identifier: Apache-2.0
"""An embedded switch without ports, and Ansible as people run it, for tests of the modules.

The switch runs in a network namespace that only its process holds: it is gone with the process.
It serves P4Runtime on a unix socket, which is reached across network namespaces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ROOT / "p4/compiled"
START_LIMIT = 30.0
PLAYBOOK_LIMIT = 120.0


def environment() -> dict[str, str]:
    """This process's environment, with the checkout's packages and collections first."""
    path = [str(ROOT / "p4"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@dataclass
class RunningSwitch:
    """The process of an embedded switch without program and ports."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, directory: Path) -> RunningSwitch:
        socket, log = directory / "p4rt", directory / "log"
        address = f"unix:{socket}"
        command = ["unshare", "--net", sys.executable, "-m", "flowferry_p4.switch", "--no-p4"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--device-id", "1", "--grpc-server-addr", address],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
            )
        running = cls(address, process, log)
        try:
            running.wait_until_ready(socket)
        except BaseException:
            process.kill()
            raise
        return running

    def wait_until_ready(self, socket: Path) -> None:
        deadline = time.monotonic() + START_LIMIT
        while not socket.exists():
            if self.process.poll() is not None:
                raise AssertionError(f"the switch ended at once:\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no switch after {START_LIMIT} s:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the switch did not end:\n{self.log.read_text()}") from None


@dataclass
class Playbook:
    """Runs tasks of one host, each on the controller, and returns their results."""

    directory: Path

    def run(self, *tasks: dict[str, Any], **defaults: Any) -> list[dict[str, Any]]:
        """Results of the tasks in order, failures too; ``defaults`` are for action group p4."""
        results = self.directory / "results.json"
        steps = [self._step(number, task) for number, task in enumerate(tasks)]
        names = ", ".join(f"result_{number}" for number in range(len(tasks)))
        content = f"{{{{ [{names}] | to_json }}}}"
        collect = {"ansible.builtin.copy": {"content": content, "dest": str(results)}}
        steps.append({**collect, "delegate_to": "localhost", "check_mode": False, "diff": False})
        play = {
            "hosts": "all",
            "gather_facts": False,
            "module_defaults": {"group/flowferry.core.p4": defaults},
            "tasks": steps,
        }
        playbook = self.directory / "play.json"
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        self._execute(playbook)
        found = json.loads(results.read_text(encoding="utf-8"))
        assert isinstance(found, list)
        return found

    @staticmethod
    def _step(number: int, task: dict[str, Any]) -> dict[str, Any]:
        """A task dict may carry "check" and "diff" beside the module."""
        step = {name: value for name, value in task.items() if name not in ("check", "diff")}
        return {
            **step,
            "check_mode": task.get("check", False),
            "diff": task.get("diff", False),
            "delegate_to": "localhost",
            "register": f"result_{number}",
            "ignore_errors": True,
        }

    def _execute(self, playbook: Path) -> None:
        command = [sys.executable, "-m", "ansible", "playbook", "-i", "switch1,", str(playbook)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment(), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")},
            capture_output=True,
            text=True,
            timeout=PLAYBOOK_LIMIT,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
