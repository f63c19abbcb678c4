# SPDX-License-Identifier: Apache-2.0
"""Files of a container in /dev/shm, which the runtime mounts anew, and empty, for each pod."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .errors import FlowferryError

PLACE = "/dev/shm"
# What runtimes call their mount; the kubelet's own, for a volume of memory, is called tmpfs.
_SOURCE = "shm"


def check_shared_memory(title: str, container: str, pids: Iterable[int]) -> None:
    """Refuse a container that has such files open or mapped: the copy would not find them."""
    for pid in pids:
        with suppress(OSError):  # it has ended in the meantime
            process = Path(f"/proc/{pid}")
            used = used_files(process) if _is_the_runtimes(process) else set()
            if used:
                raise FlowferryError(
                    "volume_cannot_move",
                    f"container {container} of {title} has files in {PLACE} open, which would stay "
                    f"behind: {', '.join(sorted(used)[:3])}. Mount a volume there, which is "
                    "copied (emptyDir with medium: Memory), or have the program use another kind "
                    "of memory",
                )


def used_files(process: Path) -> set[str]:
    """Paths in /dev/shm that a process, by its directory in /proc, has mapped or open."""
    mapped = (line.split(maxsplit=5)[5:] for line in _lines(process / "maps"))
    found = [part.strip() for parts in mapped for part in parts]
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    # A file without a name is in the checkpoint itself.
    return {one for one in found if one.startswith(f"{PLACE}/") and not one.endswith(" (deleted)")}


def _is_the_runtimes(process: Path) -> bool:
    for line in _lines(process / "mountinfo"):
        fields, _, rest = line.partition(" - ")
        if fields.split()[4] == PLACE:
            return rest.split()[1] == _SOURCE
    return False


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()
