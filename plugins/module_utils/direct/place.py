# SPDX-License-Identifier: Apache-2.0
"""What a node keeps for a pod whose application was moved to it directly.

A directory, which the containers of the pod see at /.flowferry and cannot write to: it has the
program that waits there for the application, and a file for each container as soon as that has
come. It is needed as long as the pod lives, since its containers may be started again.
"""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path

from ..cri.kubelet_process import kubelet_root
from ..errors import FlowferryError
from .application import PROGRAM

PLACES = Path("/var/lib/flowferry/direct")
PREPARED = Path("/var/lib/flowferry/prepared")
"""Where every node has the program for prepared workloads, in a directory for each version."""
# Nobody makes a pod so long (seconds) after its place.
_UNUSED_LIMIT = 3600.0


class PodPlace:
    """That of one pod, by a name that no other one has."""

    def __init__(self, name: str) -> None:
        if not name or "/" in name or name.startswith("."):
            raise FlowferryError("bad_workload", f'"{name}" is no name of a place')
        self.path = PLACES / name

    def make(self, containers: list[str], program: str) -> None:
        """Before its pod is made; ``program`` is in base64."""
        collect()
        for container in containers:
            directory = self.path / container
            directory.mkdir(parents=True, exist_ok=True)
            file = directory / Path(PROGRAM).name
            file.write_bytes(base64.b64decode(program))
            file.chmod(0o755)

    def belongs_to(self, uid: str) -> None:
        """From now on it is there as long as that pod."""
        (self.path / "uid").write_text(uid)

    def has_come(self, container: str, pid: int) -> None:
        """The application is there, by its process id in the container.

        So the placeholder ends when it does, and starts it by its own command the next time.
        """
        waiting = self.path / container / "moved.new"
        waiting.write_text(str(pid))
        waiting.rename(waiting.with_name("moved"))

    def remove(self) -> None:
        """Its pod is gone."""
        shutil.rmtree(self.path, ignore_errors=True)


def collect() -> None:
    """Remove the places of pods that were deleted, as pods are at any time."""
    pods = Path(kubelet_root(), "pods")
    for place in PLACES.iterdir() if PLACES.is_dir() else []:
        uid = place / "uid"
        if uid.exists():
            is_used = (pods / uid.read_text()).exists()
        else:
            is_used = time.time() - place.stat().st_mtime < _UNUSED_LIMIT
        if not is_used:
            shutil.rmtree(place, ignore_errors=True)
