# SPDX-License-Identifier: Apache-2.0
"""Programs that serve in the background as units of systemd, on hosts that it runs.

A unit of ours is written whole, and has the fingerprint of what it was started from in a comment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import FlowferryError

RUNS = Path("/run/systemd/system")
UNITS = Path("/etc/systemd/system")

# Containers outlive their engine, and what is frozen by cgroup is not systemd's to look after:
# only the program itself is ended, and its cgroup is its own.
_UNIT = """\
# Written by flowferry.core.daemon.
# fingerprint: {fingerprint}
[Unit]
Description={name}, for Flowferry
Wants=network-online.target
After=network-online.target

[Service]
{environment}ExecStart={command}
StandardOutput=append:{log}
StandardError=inherit
Restart=on-failure
RestartSec=2
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"""


def unit_of(name: str) -> str:
    """The name of the unit that runs the program of this name."""
    return f"flowferry-{name}.service"


def text(
    name: str, command: Sequence[str], environment: dict[str, str], log: Path, fingerprint: str
) -> str:
    """The unit. Its program is found now, since systemd does not look in every place of PATH."""
    program = shutil.which(command[0])
    if program is None:
        raise FlowferryError("daemon_failed", f"{name}: there is no {command[0]} on this host")
    variables = (f"{key}={value}" for key, value in sorted(environment.items()))
    return _UNIT.format(
        name=name,
        fingerprint=fingerprint,
        environment="".join(f"Environment={_quoted(one)}\n" for one in variables),
        command=" ".join(_quoted(word).replace("$", "$$") for word in (program, *command[1:])),
        log=log,
    )


def _quoted(word: str) -> str:
    """As systemd reads it, which expands % everywhere."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def record(name: str) -> dict[str, Any]:
    """``pid`` and ``fingerprint`` of the program that runs; empty when it does not."""
    path = UNITS / unit_of(name)
    found = re.search(r"^# fingerprint: (\w+)$", path.read_text(), re.M) if path.exists() else None
    if found is None:
        return {}
    shown = _systemctl("show", "--property=ActiveState,MainPID", unit_of(name))
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if state.get("ActiveState") not in ("active", "reloading") or state.get("MainPID", "0") == "0":
        return {}
    return {"pid": int(state["MainPID"]), "fingerprint": found[1]}


def start(name: str, unit: str) -> None:
    """Write the unit, and start it, now and whenever the host starts."""
    (UNITS / unit_of(name)).write_text(unit)
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", unit_of(name))
    _systemctl("restart", unit_of(name))


def stop(name: str) -> None:
    """End it and remove the unit."""
    path = UNITS / unit_of(name)
    if path.exists():
        _systemctl("disable", "--quiet", "--now", unit_of(name))
        path.unlink()
        _systemctl("daemon-reload")


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stderr.strip() or done.stdout.strip()
        raise FlowferryError("daemon_failed", f"systemctl {' '.join(arguments)} failed: {told}")
    return done.stdout
