# SPDX-License-Identifier: Apache-2.0
"""Tell a restored process from one that was started afresh, whatever program it runs.

At every exec the kernel puts 16 random bytes into a process's memory (AT_RANDOM of the auxiliary
vector). CRIU restores them with the rest of the memory; a program that is started again has others.
They seed stack protection, so only their hash leaves the node.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from .errors import FlowferryError

_AT_RANDOM = 25
_LENGTH = 16
_PAIR = struct.Struct("@LL")


def mark(pid: int) -> str:
    """The hash of a process's random bytes; empty when it has none, or is gone."""
    try:
        vector = dict(_PAIR.iter_unpack(Path(f"/proc/{pid}/auxv").read_bytes()))
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(vector[_AT_RANDOM])
            content = memory.read(_LENGTH)
    except (OSError, KeyError):
        return ""
    return hashlib.sha256(content).hexdigest()


def tree(root: int) -> list[int]:
    """A process and its descendants: what CRIU dumps. A shell that was entered is none of them."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:  # it has ended in the meantime
                continue
    return found


def marks(root: int) -> list[str]:
    """The marks of a process tree, sorted: process ids may differ on another node."""
    return sorted(filter(None, map(mark, tree(root))))


def require_same(title: str, before: list[str], root: int) -> None:
    """Refuse a copy that lacks a process of the source, or has one that was started afresh."""
    now = marks(root)
    if not before or now != before:
        raise FlowferryError(
            "started_afresh",
            f"{title} runs on the destination, but it is not what was checkpointed "
            f"({len(set(before) & set(now))} of {len(set(before))} processes are the old ones): it "
            "was started afresh instead of restored",
        )
