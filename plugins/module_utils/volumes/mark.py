# SPDX-License-Identifier: Apache-2.0
"""What a node remembers of a volume that was moved: an attribute of the volume's own root.

A move leaves the volume on the source, where it grows stale, and marks it as left, with a hash of
what it is. When the workload comes back the copy is brought up to date by difference, if it is
still what was left: what anybody has changed since is never overwritten. The mark goes with the
volume when that is removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .tree import INODE, MARK, Tree

# File systems without such attributes: then nothing is remembered, and a way back is refused.
_UNABLE = {errno.ENOTSUP, errno.EPERM, errno.ENOENT}


@dataclass(frozen=True)
class Mark:
    """``lineage`` is what all copies have in common; at most one of the others is set."""

    lineage: str = ""
    left: str = ""
    """The fingerprint of what a move left."""
    receiving: bool = False
    """A move writes to it, or was interrupted while it did."""

    def write(self, path: str | Path) -> None:
        """Onto a volume."""
        content = {"lineage": self.lineage, "left": self.left, "receiving": self.receiving}
        try:
            os.setxattr(path, MARK, json.dumps(content).encode())
        except OSError as error:
            if error.errno not in _UNABLE:
                raise

    @staticmethod
    def remove(path: str | Path) -> None:
        """Off a volume."""
        with suppress(OSError):
            os.removexattr(path, MARK)

    @classmethod
    def read(cls, path: str | Path) -> Mark:
        """Of a volume; an empty one if there is none."""
        try:
            return cls(**json.loads(os.getxattr(path, MARK)))
        except (OSError, ValueError, TypeError):
            return cls()


def fingerprint(path: str | Path) -> str:
    """Changes whenever anything in the volume does, but not with its mark."""
    digest = hashlib.sha256()
    with Tree(path) as tree:
        entries = tree.scan()
    for name in sorted(entries):
        entry = entries[name]
        changed = entry.ctime_ns if name else 0
        shown = [entry.inode & INODE, entry.size, changed, entry.links, *entry.content]
        digest.update(json.dumps(shown).encode())
    return digest.hexdigest()
