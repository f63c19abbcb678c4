# SPDX-License-Identifier: Apache-2.0
"""Let no new connection into a network namespace while what is in it stands still.

The switch holds what comes by the switch. A node reaches its own pods without it: a kubelet's probe
that connects to a frozen program would wait to be accepted, and CRIU dumps no such connection. A
request that is dropped is sent again by whoever wants to connect, a second later.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

TABLE = "flowferry_door"
# Before every other chain; connections of the namespace with itself are none of the node's.
_CLOSED = f"""table inet {TABLE} {{
  chain input {{
    type filter hook input priority -400
    iifname != "lo" tcp flags & (syn | ack) == syn drop
  }}
}}
"""
# The first line is for a table that is not there.
_OPEN = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
# Seconds; it is a matter of milliseconds.
_LIMIT = 10.0


class Door:
    """Of one network namespace. Without nft on the node it stays open, at the dump's risk."""

    def __init__(self, network: Path) -> None:
        self._network = network
        self._waiting: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        """Start now what close() wants to tell, so that it costs next to no time."""
        if self._waiting is None:
            self._waiting = self._start()

    def close(self) -> None:
        self.prepare()
        self._tell(_CLOSED)

    def open(self) -> None:
        """Undo close(), which may not have happened, or in another process."""
        self.forget()
        self.prepare()
        self._tell(_OPEN)

    def forget(self) -> None:
        """Undo prepare()."""
        if self._waiting is not None:
            self._tell("")

    def _start(self) -> subprocess.Popen[str] | None:
        if shutil.which("nft") is None:
            return None
        return subprocess.Popen(
            ["nsenter", f"--net={self._network}", "nft", "-f", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _tell(self, rules: str) -> None:
        """A namespace that is gone by now has no connections either."""
        process, self._waiting = self._waiting, None
        if process is None:
            return
        with suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(rules, timeout=_LIMIT)
        process.kill()
        process.wait()
