# SPDX-License-Identifier: Apache-2.0
"""Action profiles: members, and the groups of a selector.

A group lies in its map as a list in which each member stands as often as its weight says, so that
the data plane picks one by a remainder.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import libbpf
from .bmv2_json import Action
from .compiler import GROUP_SLOTS
from .compiler.layouts import ProfileLayout
from .compiler.slots import fill
from .entries import Call, EntryExists, EntryMissing, TableFull

HIDDEN = 1 << 31
"""Members and groups from here on belong to one-shot entries."""


@dataclass(frozen=True)
class Group:
    members: tuple[tuple[int, int], ...]
    """Member and weight."""
    max_size: int = 0


class ProfileStore:
    """The members and groups of one action profile."""

    def __init__(
        self, layout: ProfileLayout, maps: libbpf.Object, actions: Mapping[int, Action]
    ) -> None:
        self.layout = layout
        self.members: dict[int, Call] = {}
        self.groups: dict[int, Group] = {}
        self._actions = actions
        self._members = maps.map(f"members_{layout.ident}")
        self._groups = maps.map(f"groups_{layout.ident}") if layout.selector else None
        self._hidden = HIDDEN

    def hidden_number(self) -> int:
        """A number for a member or a group that no controller uses."""
        self._hidden += 1
        return self._hidden

    # members
    def insert_member(self, number: int, call: Call) -> None:
        if number in self.members:
            raise EntryExists(f"{self.layout.name} already has member {number}")
        if len(self.members) >= self.layout.size:
            raise TableFull(f"{self.layout.name} is full ({self.layout.size} members)")
        self._put_member(number, call)

    def modify_member(self, number: int, call: Call) -> None:
        self.member(number)
        self._put_member(number, call)

    def delete_member(self, number: int) -> None:
        self.member(number)
        self._members.delete(struct.pack("=I", number))
        del self.members[number]

    def member(self, number: int) -> Call:
        try:
            return self.members[number]
        except KeyError:
            raise EntryMissing(f"{self.layout.name} has no member {number}") from None

    def _put_member(self, number: int, call: Call) -> None:
        filled = fill(self._actions[call.action], call.arguments)
        padded = filled + [0] * (self.layout.arguments - len(filled))
        value = struct.pack(f"=II{len(padded)}Q", call.action, 0, *padded)
        self._members.update(struct.pack("=I", number), value)
        self.members[number] = call

    # groups
    def insert_group(self, number: int, group: Group) -> None:
        if number in self.groups:
            raise EntryExists(f"{self.layout.name} already has group {number}")
        self._put_group(number, group)

    def modify_group(self, number: int, group: Group) -> None:
        self.group(number)
        self._put_group(number, group)

    def delete_group(self, number: int) -> None:
        self.group(number)
        if self._groups:
            self._groups.delete(struct.pack("=I", number))
        del self.groups[number]

    def group(self, number: int) -> Group:
        try:
            return self.groups[number]
        except KeyError:
            raise EntryMissing(f"{self.layout.name} has no group {number}") from None

    def groups_of(self, member: int) -> list[int]:
        return [n for n, g in self.groups.items() if any(m == member for m, _ in g.members)]

    def _put_group(self, number: int, group: Group) -> None:
        assert self._groups is not None, "only selectors have groups"
        slots = spread(group.members)
        if len(slots) > GROUP_SLOTS:
            raise TableFull(
                f"group {number} of {self.layout.name} has weights of {len(slots)} in all; "
                f"{GROUP_SLOTS} is the most"
            )
        padded = slots + [0] * (GROUP_SLOTS - len(slots))
        value = struct.pack(f"=I{GROUP_SLOTS}I", len(slots), *padded)
        try:
            self._groups.update(struct.pack("=I", number), value)
        except OSError as error:
            raise TableFull(f"{self.layout.name} takes no more groups: {error.strerror}") from error
        self.groups[number] = group


def spread(members: Sequence[tuple[int, int]]) -> list[int]:
    """Each member as often as its weight, weights divided by what they have in common."""
    common = math.gcd(*(weight for _, weight in members)) or 1
    return [member for member, weight in members for _ in range(weight // common)]
