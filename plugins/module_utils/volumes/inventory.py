# SPDX-License-Identifier: Apache-2.0
"""What there is of a volume on a node, down to the digests of its files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from .blocks import digests_of
from .difference import Known
from .tree import Tree, open_to_read


def inventory(tree: Tree) -> dict[str, Known]:
    """Everything that is in it, a directory before what is in it; nothing if it is not there."""
    if not os.path.lexists(tree.root):
        return {}
    known = {}
    for path, entry in tree.scan().items():
        digests = b""
        if entry.kind == "file":
            descriptor = open_to_read(tree, path)
            try:
                digests = digests_of(descriptor, entry.size)
            finally:
                os.close(descriptor)
        known[path] = Known(entry, digests)
    return known


def content_hash(path: str | Path, limit: int) -> str:
    """A hash of all that another node can have too; empty if there are more bytes than that."""
    digest = hashlib.sha256()
    with Tree(path) as tree:
        if sum(entry.size for entry in tree.scan().values()) > limit:
            return ""
        known = inventory(tree)
    for name in sorted(known):
        one = known[name].entry
        shown = [name, one.kind, one.mode, one.uid, one.gid, one.size, one.target, one.attributes]
        digest.update(json.dumps(shown).encode() + known[name].digests)
    return digest.hexdigest()
