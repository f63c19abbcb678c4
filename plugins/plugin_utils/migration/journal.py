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
    """One file for each workload and switch; it exists while a migration is not finished."""

    def __init__(self, switch: str, workload: str) -> None:
        name = f"{switch}-{workload}".replace("/", "_").replace(":", "_")
        self.path = directory() / f"{name}.json"

    def read(self) -> dict[str, Any] | None:
        """The unfinished migration, None when there is none."""
        try:
            content: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        return content

    def write(self, plan: dict[str, Any], phase: str) -> None:
        """Say that ``phase`` begins. The file is replaced whole, never half written."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps({"plan": plan, "phase": phase, "pid": os.getpid()}))
        temporary.replace(self.path)

    def end(self) -> None:
        """The migration is finished, or rolled back."""
        self.path.unlink(missing_ok=True)
