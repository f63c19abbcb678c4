# SPDX-License-Identifier: Apache-2.0
"""Whether two nodes mean the same storage by a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .open_files import is_shared

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def storage_of(path: str | Path) -> dict[str, Any]:
    """What tells whether another node's path means the same (is_same); else empty."""
    try:
        info = Path(path).stat()
    except OSError:
        return {}
    kind, source, inside = _mount_of(os.path.realpath(path))
    return {
        "boot": _BOOT_ID.read_text().strip(),
        "device": info.st_dev,
        "inode": info.st_ino,
        "type": kind,
        "source": source,
        "inside": inside,
    }


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Proven, not assumed: the same inode, of one kernel's device or of one shared file system."""
    if not one or not other or one["inode"] != other["inode"]:
        return False
    if (one["boot"], one["device"]) == (other["boot"], other["device"]):
        return True
    names = ("type", "source", "inside")
    return is_shared(one["type"]) and all(one[name] == other[name] for name in names)


def _mount_of(path: str) -> tuple[str, str, str]:
    """Type and source of the file system that a path is on, and the path within it."""
    best = ("", "", "", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        root, point = (field.encode().decode("unicode_escape") for field in fields.split()[3:5])
        is_below = path == point or path.startswith(point.rstrip("/") + "/")
        if is_below and len(point) >= len(best[0]):
            kind, source = rest.split()[:2]
            best = (point, root, kind, source)
    point, root, kind, source = best
    inside = os.path.normpath(Path(root, os.path.relpath(path, point or "/")))
    return kind, source, inside
