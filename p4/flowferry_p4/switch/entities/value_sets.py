# SPDX-License-Identifier: Apache-2.0
"""Parser value sets."""

from __future__ import annotations

from collections.abc import Iterator

from finsy.proto import p4i, p4r

from ..dataplane import Dataplane
from ..encoding import FieldMatch, Key
from ..entries import EntryExists
from ..rpc_errors import invalid, not_found, unimplemented
from ..schema import Schema, canonical, parse_bytes
from ..value_sets import ValueSetStore
from .handler import Undo, only_modify


class ValueSets:
    """The members of value sets, each set as a whole."""

    def __init__(self, dataplane: Dataplane, schema: Schema) -> None:
        self.dataplane = dataplane
        self.schema = schema

    def write(self, kind: int, message: p4r.ValueSetEntry) -> Undo:
        only_modify(kind, "a value set")
        info, store = self._find(message.value_set_id)
        members = tuple(_key(info, member) for member in message.members)
        if len(set(members)) != len(members):
            raise EntryExists(f"a member of {info.preamble.name} is given twice")
        before = store.members
        store.replace(members)
        return lambda: store.replace(before)

    def read(self, message: p4r.ValueSetEntry) -> Iterator[p4r.Entity]:
        numbers = [message.value_set_id] if message.value_set_id else list(self.schema.value_sets)
        for number in numbers:
            info, store = self._find(number)
            result = p4r.ValueSetEntry(value_set_id=number)
            for key in store.members:
                member = result.members.add()
                for field, match in zip(info.match, key.match, strict=True):
                    part = member.match.add(field_id=field.id)
                    part.exact.value = canonical(match.value)
            yield p4r.Entity(value_set_entry=result)

    def _find(self, number: int) -> tuple[p4i.ValueSet, ValueSetStore]:
        if number not in self.schema.value_sets:
            raise not_found(f"the pipeline has no value set {number}")
        info = self.schema.value_sets[number]
        return info, self.dataplane.value_sets[info.preamble.name]


def _key(info: p4i.ValueSet, member: p4r.ValueSetMember) -> Key:
    given = {part.field_id: part for part in member.match}
    name = info.preamble.name
    if set(given) != {field.id for field in info.match} or len(given) != len(member.match):
        raise invalid(f"a member of {name} has each field once")
    for part in given.values():
        if part.WhichOneof("field_match_type") != "exact":
            raise unimplemented(f"members of {name} match exactly")
    return Key(
        tuple(
            FieldMatch(parse_bytes(given[f.id].exact.value, f.bitwidth, f"{name}.{f.name}"))
            for f in info.match
        )
    )
