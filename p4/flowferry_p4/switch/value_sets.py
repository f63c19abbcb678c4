# SPDX-License-Identifier: Apache-2.0
"""Parser value sets: the members that a select compares with."""

from __future__ import annotations

import struct

from .backing import Backing
from .compiler import TableLayout
from .encoding import FieldMatch, Key, decode_key, encode_key, key_size
from .entries import TableFull
from .notebook import Place


class ValueSetStore:
    """The members of one value set, in their order."""

    def __init__(self, layout: TableLayout, backing: Backing) -> None:
        self.layout = layout
        self.members: tuple[Key, ...] = ()
        self._notes = backing.notes
        self._map = backing.maps.map(f"table_{layout.ident}")
        if backing.resumed:
            self._recall()

    @property
    def _place(self) -> Place:
        return ("value set", self.layout.name)

    def _recall(self) -> None:
        """What a process before this one left in the map; the order is in a note."""
        found = {
            decode_key(self.layout, key): None
            for key, _ in self._map.items(key_size(self.layout), 16)
        }
        order = [
            Key(tuple(FieldMatch(value) for value in member))
            for member in next(self._notes.candidates(self._place), [])
        ]
        known = [key for key in order if key in found]
        self.members = tuple(dict.fromkeys([*known, *found]))
        self._notes.recall(self._place, self._line(self.members))

    @staticmethod
    def _line(members: tuple[Key, ...]) -> list[list[int]]:
        return [[match.value for match in key.match] for key in members]

    def replace(self, members: tuple[Key, ...]) -> None:
        """What stays a member is one all the time."""
        if len(members) > self.layout.size:
            raise TableFull(f"{self.layout.name} takes {self.layout.size} members")
        self._notes.write(self._place, self._line(members))
        for key in set(self.members) - set(members):
            self._map.delete(encode_key(self.layout, key))
        for key in set(members) - set(self.members):
            self._map.update(encode_key(self.layout, key), struct.pack("=IIQ", 0, 0, 0))
        self.members = members
