# SPDX-License-Identifier: Apache-2.0
"""kubectl, as the administrator of the lab's cluster."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from .lab_control import ROOT, Lab, LabError

# The first build of Kubernetes takes this long on two busy cores (seconds).
BUILD_LIMIT = 3600


@cache
def programs(name: str) -> Path:
    """The directory of what tools/NAME pins, built now if it is not in the cache yet."""
    built = subprocess.run(
        [str(ROOT / "tools" / "build"), name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=BUILD_LIMIT,
    )
    return Path(built.stdout.strip()) / "usr/local/bin"


def kubectl(lab: Lab, *arguments: str, limit: float = 60.0) -> str:
    """What kubectl says; a LabError if it fails, or takes longer than so many seconds."""
    kubeconfig = f"/run/flowferry/lab{lab.number}/kubeconfig"
    done = subprocess.run(
        [str(programs("kubernetes") / "kubectl"), f"--kubeconfig={kubeconfig}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
    )
    if done.returncode != 0:
        raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def pods(lab: Lab, app: str) -> list[dict[str, Any]]:
    """The pods of an application, as the API has them."""
    found = json.loads(kubectl(lab, "get", "pods", "-l", f"app={app}", "-o", "json"))
    items: list[dict[str, Any]] = found["items"]
    return items
