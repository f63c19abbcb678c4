# SPDX-License-Identifier: Apache-2.0
"""What was measured, as JSON lines: first the run, then one line for each thing that was measured.

``run``      where and how: commit, machine, parameters
``move``     one move: what clients saw, what the mover said
``trace``    round trips of the ping-pong client around one move
``updates``  times of the switch's route updates
``steps``    the steps of a move, each taken alone
``failure``  a series that could not be measured, and why
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.lab_control import ROOT, Lab

Record = dict[str, Any]


@dataclass
class Results:
    """A file of records, read."""

    run: Record
    moves: list[Record] = field(default_factory=list)
    traces: list[Record] = field(default_factory=list)
    updates: list[Record] = field(default_factory=list)
    steps: list[Record] = field(default_factory=list)
    failures: list[Record] = field(default_factory=list)

    def of(self, series: str, **wanted: Any) -> list[Record]:
        """The moves of a series that have these values."""
        return [
            move
            for move in self.moves
            if move["series"] == series
            and all(move.get(name) == value for name, value in wanted.items())
        ]


def read(path: Path) -> Results:
    """Raises ValueError when the file is not one of ours."""
    kinds: dict[str, list[Record]] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            kinds.setdefault(record["record"], []).append(record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a record of a benchmark") from error
    if len(kinds.get("run", [])) != 1:
        raise ValueError(f"{path}: it should hold one run, it holds {len(kinds.get('run', []))}")
    return Results(
        kinds["run"][0],
        kinds.get("move", []),
        kinds.get("trace", []),
        kinds.get("updates", []),
        kinds.get("steps", []),
        kinds.get("failure", []),
    )


def append(path: Path, kind: str, **values: Any) -> None:
    """Write one record."""
    with path.open("a") as file:
        file.write(json.dumps({"record": kind, **values}) + "\n")


def begin(path: Path, lab: Lab, command: str, parameters: Record, versions: dict[str, str]) -> None:
    """A new file, which says where the rest was measured; ``versions`` has commands by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    append(
        path,
        "run",
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=command,
        parameters=parameters,
        **_commit(),
        machine=_machine(),
        versions={name: lab.run("node1", command) for name, command in versions.items()},
    )


def _commit() -> Record:
    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    # Where a collection was installed there is no repository.
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    # Results of an earlier run are among docs, and are being replaced.
    changed = git("status", "--porcelain", "-uno", "--", ".", ":(exclude)docs")
    return {"commit": commit, "changed_since": bool(changed)}


def _machine() -> Record:
    processors = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": processors[0] if processors else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
