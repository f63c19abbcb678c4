# SPDX-License-Identifier: Apache-2.0
"""Addresses are given by another plugin, which CNI calls delegation."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from .protocol import BAD_NETWORK, Call, CniError

# The results of 1.0 and 1.1 are alike for a plugin that gives addresses, and many know 1.0 only.
_VERSION = "1.0.0"
_SECONDS = 20.0


def give(call: Call) -> list[str]:
    """Addresses for an ADD, each without its network: nothing else is on a pod's cable."""
    answer = _run(call, "ADD", call.variables)
    found = [str(ip_interface(one["address"]).ip) for one in answer.get("ips") or []]
    if not found:
        raise CniError(BAD_NETWORK, f"ipam {_kind(call)} gave no address")
    return found


def take_back(call: Call) -> None:
    _run(call, "DEL", call.variables)


def take_back_of(call: Call, container: str, interface: str) -> None:
    """Of an attachment that the runtime does not know any more."""
    _run(call, "DEL", {**call.variables, "CNI_CONTAINERID": container, "CNI_IFNAME": interface})


def check(call: Call) -> None:
    _run(call, "CHECK", call.variables)


def _kind(call: Call) -> str:
    settings = call.network.get("ipam")
    kind = settings.get("type") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or not kind or "/" in kind:
        raise CniError(BAD_NETWORK, 'the network has no ipam.type, such as "flowferry-ipam"')
    return kind


def find(call: Call) -> str:
    kind = _kind(call)
    for folder in call.path:
        if os.access(Path(folder) / kind, os.X_OK):
            return str(Path(folder) / kind)
    raise CniError(BAD_NETWORK, f"no plugin {kind} in CNI_PATH ({':'.join(call.path)})")


def _run(call: Call, command: str, variables: Mapping[str, str]) -> dict[str, Any]:
    program = find(call)
    network = {**call.network, "cniVersion": _VERSION}
    environment = {**os.environ, **variables, "CNI_COMMAND": command}
    try:
        done = subprocess.run(
            [program],
            input=json.dumps(network),
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=_SECONDS,
        )
        answer = json.loads(done.stdout) if done.stdout.strip() else {}
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise CniError(BAD_NETWORK, f"{program} {command}: {error}") from error
    if done.returncode:
        text = answer.get("msg") or done.stderr.strip() or f"exit code {done.returncode}"
        raise CniError(int(answer.get("code") or BAD_NETWORK), f"ipam: {text}")
    return dict(answer)
