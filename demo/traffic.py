# SPDX-License-Identifier: Apache-2.0
"""Clients of the moving Redis, that run on the lab's client host."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from .lab_control import Lab, LabError

_PROGRAM = Path(__file__).with_name("traffic_client.py")


class TrafficClient:
    """One connection and what it sees; traffic_client.py says which kinds there are."""

    def __init__(self, lab: Lab, kind: str, key: str) -> None:
        script = shlex.quote(_PROGRAM.read_text())
        command = f"exec python3 -c {script} {kind} {lab.address} 6379 {key}"
        self.process = lab.popen("client", command)

    def seen(self) -> dict[str, Any]:
        """What it saw since the last time it was asked."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            raise LabError(f"a traffic client ended: {line}{self.process.stdout.read()}")
        seen: dict[str, Any] = json.loads(line)
        return seen

    def end(self) -> dict[str, Any]:
        """Its standard input ends, and it with it; returns what it saw last, if it still ran."""
        output, _ = self.process.communicate("", timeout=20)
        last: dict[str, Any] = json.loads(output) if output.startswith("{") else {}
        return last
