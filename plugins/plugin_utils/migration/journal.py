# SPDX-License-Identifier: Apache-2.0
"""The journal: which migration is under way, and how far it came. On the controller."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def directory() -> Path:
    """Where journals are kept (XDG base directories, state)."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "flowferry"


class Journal:
    """One file for each workload and switch; it exists while a migration is not finished.

    Its first line has the plan; each phase that begins is one line more.
    """

    def __init__(self, switch: str, workload: str) -> None:
        name = f"{switch}-{workload}".replace("/", "_").replace(":", "_")
        self.path = directory() / f"{name}.json"
        self._written = ""

    def read(self) -> dict[str, Any] | None:
        """The unfinished migration, None when there is none."""
        try:
            first, *phases = self.path.read_text().splitlines()
        except FileNotFoundError:
            return None
        content: dict[str, Any] = json.loads(first)
        # The last one may have been cut short, and has not begun then.
        begun = [json.loads(phase) for phase in phases if phase.endswith('"')]
        return {**content, "phase": begun[-1]} if begun else content

    def write(self, plan: dict[str, Any], phase: str) -> None:
        """Say that ``phase`` begins, and what the plan has become by now.

        A new plan replaces the file whole, so that it is never half written. That takes most of a
        millisecond, in which clients would wait.
        """
        text = json.dumps(plan)
        if text == self._written:
            with self.path.open("a") as file:
                file.write(f"{json.dumps(phase)}\n")
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        temporary.write_text(f'{{"plan": {text}, "phase": "{phase}", "pid": {os.getpid()}}}\n')
        temporary.replace(self.path)
        self._written = text

    def end(self) -> None:
        """The migration is finished, or rolled back."""
        self.path.unlink(missing_ok=True)
        self._written = ""
