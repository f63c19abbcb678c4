# SPDX-License-Identifier: Apache-2.0
"""Parser value sets: the members that a select compares with."""

from __future__ import annotations

import struct

from . import libbpf
from .compiler import TableLayout
from .entries import Key, TableFull, encode_key


class ValueSetStore:
    """The members of one value set, in their order."""

    def __init__(self, layout: TableLayout, maps: libbpf.Object) -> None:
        self.layout = layout
        self.members: tuple[Key, ...] = ()
        self._map = maps.map(f"table_{layout.ident}")

    def replace(self, members: tuple[Key, ...]) -> None:
        """What stays a member is one all the time."""
        if len(members) > self.layout.size:
            raise TableFull(f"{self.layout.name} takes {self.layout.size} members")
        for key in set(self.members) - set(members):
            self._map.delete(encode_key(self.layout, key))
        for key in set(members) - set(self.members):
            self._map.update(encode_key(self.layout, key), struct.pack("=IIQ", 0, 0, 0))
        self.members = members
