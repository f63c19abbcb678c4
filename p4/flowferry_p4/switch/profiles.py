# SPDX-License-Identifier: Apache-2.0
"""Action profiles: members, and the groups of a selector.

A group lies in its map as a list in which each member stands as often as its weight says, so that
the data plane picks one by a remainder.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from .backing import Backing
from .compiler import GROUP_SLOTS
from .compiler.layouts import ProfileLayout
from .encoding import Call, decode_value, encode_value
from .entries import EntryExists, EntryMissing, TableFull
from .model import Action
from .notebook import Place

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
        self, layout: ProfileLayout, backing: Backing, actions: Mapping[int, Action]
    ) -> None:
        self.layout = layout
        self._notes = backing.notes
        maps = backing.maps
        self.members: dict[int, Call] = {}
        self.groups: dict[int, Group] = {}
        self._actions = actions
        self._members = maps.map(f"members_{layout.ident}")
        self._groups = maps.map(f"groups_{layout.ident}") if layout.selector else None
        self._hidden = HIDDEN
        if backing.resumed:
            self._recall()

    def _recall(self) -> None:
        """What a process before this one left in the maps."""
        for key, value in self._members.items(4, 8 + 8 * self.layout.arguments):
            (number,) = struct.unpack("=I", key)
            self.members[number] = decode_value(self._actions, value)[0]
        if self._groups:
            for key, value in self._groups.items(4, 4 + 4 * GROUP_SLOTS):
                (number,) = struct.unpack("=I", key)
                count, *slots = struct.unpack(f"={1 + GROUP_SLOTS}I", value)
                self.groups[number] = self._recall_group(number, slots[:count])
        self._hidden = max([HIDDEN, *self.members, *self.groups])

    def _recall_group(self, number: int, slots: list[int]) -> Group:
        for line in self._notes.candidates(self._place(number)):
            members, max_size = line
            group = Group(tuple((member, weight) for member, weight in members), max_size)
            if spread(group.members) == slots:
                self._notes.recall(self._place(number), line)
                return group
        # Of a one-shot entry, whose weights are in its note.
        return Group(tuple((member, 1) for member in dict.fromkeys(slots)))

    def forget_hidden(self, used: Set[int]) -> None:
        """Forget hidden groups but for those that an entry uses, and members that are in none."""
        for number in [n for n in self.groups if n >= HIDDEN and n not in used]:
            self.delete_group(number)
        for number in [n for n in self.members if n >= HIDDEN and not self.groups_of(n)]:
            self.delete_member(number)

    def _place(self, group: int) -> Place:
        return ("group", self.layout.name, group)

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
        value = encode_value(self._actions[call.action], call, 0, self.layout.arguments)
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
        self._notes.forget(self._place(number))

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
        if number < HIDDEN:
            self._notes.write(self._place(number), [group.members, group.max_size])
        try:
            self._groups.update(struct.pack("=I", number), value)
        except OSError as error:
            raise TableFull(f"{self.layout.name} takes no more groups: {error.strerror}") from error
        self.groups[number] = group


def spread(members: Sequence[tuple[int, int]]) -> list[int]:
    """Each member as often as its weight, weights divided by what they have in common."""
    common = math.gcd(*(weight for _, weight in members)) or 1
    return [member for member, weight in members for _ in range(weight // common)]
