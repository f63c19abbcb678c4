# SPDX-License-Identifier: Apache-2.0
"""Table entries and updates, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Key = tuple[str, tuple[tuple[str, Any], ...], int]
UpdateKind = Literal["INSERT", "MODIFY", "DELETE"]


@dataclass(frozen=True)
class Counter:
    """What a direct or indirect counter has seen."""

    packets: int
    bytes: int


@dataclass
class Entry:
    """One entry of one table.

    ``match`` and ``params`` map short names to values. What a person writes may take many forms;
    entries that come from a switch or from ``Schema.normalise`` have the normal one, so that
    comparing them is comparing what they mean. A default entry has ``is_default`` and no match;
    without an action it stands for the default that the program itself declares.
    """

    table: str
    match: dict[str, Any] = field(default_factory=dict)
    action: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    # What the switch tells beside the entry is no part of its identity.
    counter: Counter | None = field(default=None, compare=False)
    is_default: bool = False
    is_const: bool = field(default=False, compare=False)

    @property
    def key(self) -> Key:
        """What makes the entry this one and no other in its table (of a normalised entry)."""
        return (self.table, tuple(sorted(self.match.items())), self.priority)

    @property
    def label(self) -> str:
        """The entry's key in one line, for messages."""
        if self.is_default:
            return f"{self.table} default"
        parts = [f"{name}={value}" for name, value in self.match.items()]
        if self.priority:
            parts.append(f"priority={self.priority}")
        return " ".join([self.table, *parts])


@dataclass
class Update:
    """One change of one entry; several make one WriteRequest."""

    kind: UpdateKind
    entry: Entry

    @property
    def label(self) -> str:
        return f"{self.kind} {self.entry.label}"
