# SPDX-License-Identifier: Apache-2.0
"""Clients of the moving Redis, that run on the lab's client host."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from .lab_control import Lab, LabError


class RemoteClient:
    """A program that answers each line on its standard input with one line of JSON."""

    def __init__(self, lab: Lab, program: Path, *arguments: str) -> None:
        command = shlex.join(["python3", "-c", program.read_text(), *arguments])
        self.process = lab.popen("client", f"exec {command}")

    def seen(self, question: str = "") -> dict[str, Any]:
        """What it saw since the last time it was asked."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it printed says why
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            raise LabError(f"a traffic client ended: {line}{self.process.stdout.read()}")
        seen: dict[str, Any] = json.loads(line)
        return seen

    def end(self) -> dict[str, Any]:
        """Its standard input ends, and it with it; returns what it saw last, if it still ran."""
        try:
            output, _ = self.process.communicate("", timeout=90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return {}
        last: dict[str, Any] = json.loads(output) if output.startswith("{") else {}
        return last


class TrafficClient(RemoteClient):
    """One connection to Redis and what it sees; traffic_client.py says which kinds there are."""

    _PROGRAM = Path(__file__).with_name("traffic_client.py")

    def __init__(self, lab: Lab, kind: str, key: str, *options: str, address: str = "") -> None:
        super().__init__(lab, self._PROGRAM, kind, address or lab.address, "6379", key, *options)
