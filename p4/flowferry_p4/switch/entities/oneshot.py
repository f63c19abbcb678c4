# SPDX-License-Identifier: Apache-2.0
"""One-shot entries: a table entry with a set of actions, for which a group is made and forgotten.

Members and groups that are made here have numbers that no controller sees.
"""

from __future__ import annotations

from finsy.proto import p4i, p4r

from ..compiler import GROUP
from ..dataplane import Dataplane
from ..encoding import Call
from ..entries import Entry, TableStore
from ..profiles import HIDDEN, Group, ProfileStore
from ..rpc_errors import invalid, unimplemented
from ..schema import Schema, TableSchema
from .handler import Undo


class OneShots:
    """Makes and forgets the groups of one-shot entries."""

    def __init__(self, dataplane: Dataplane, schema: Schema) -> None:
        self.dataplane = dataplane
        self.schema = schema
        self._infos = {p.preamble.name: p for p in schema.profiles.values()}
        if dataplane.backing.resumed:
            self._forget_unused()

    def _forget_unused(self) -> None:
        """A process before this one may have ended between a group and the entry it was for."""
        for name, profile in self.dataplane.profiles.items():
            profile.forget_hidden(
                {
                    entry.call.arguments[0]
                    for store in self.dataplane.tables.values()
                    if store.layout.profile == name
                    for entry in store
                    if entry.call.action == GROUP
                }
            )

    def profile(self, store: TableStore) -> ProfileStore:
        return self.dataplane.profiles[store.layout.profile or ""]

    def make(
        self, table: TableSchema, store: TableStore, actions: p4r.ActionProfileActionSet
    ) -> tuple[Call, Undo]:
        """A group for an entry, and how it is forgotten again."""
        profile = self.profile(store)
        info = self._infos[profile.layout.name]
        if not profile.layout.selector:
            raise invalid(f"{profile.layout.name} is no selector: its entries name a member")
        self.refuse_mixture(store, one_shot=True)
        _check(actions, info)
        made: list[int] = []
        number = profile.hidden_number()

        def forget() -> None:
            if number in profile.groups:
                profile.delete_group(number)
            for member in made:
                profile.delete_member(member)

        try:
            for action in actions.action_profile_actions:
                member = profile.hidden_number()
                profile.insert_member(member, table.action_call(action.action))
                made.append(member)
            weights = [a.weight or 1 for a in actions.action_profile_actions]
            profile.insert_group(number, Group(tuple(zip(made, weights, strict=True))))
        except BaseException:
            forget()
            raise
        return Call(GROUP, (number,)), forget

    def again(self, table: TableSchema, store: TableStore, entry: Entry) -> Call:
        """What an entry called that is put back: made anew where it was one-shot."""
        if not entry.note.action_set:
            return entry.call
        actions = p4r.ActionProfileActionSet.FromString(entry.note.action_set)
        return self.make(table, store, actions)[0]

    def forget(self, store: TableStore, entry: Entry) -> None:
        """The entry calls its group no longer; nobody else knows one that was made for it."""
        if not entry.note.action_set:
            return
        profile = self.profile(store)
        (number,) = entry.call.arguments
        members = [member for member, _ in profile.group(number).members]
        profile.delete_group(number)
        for member in members:
            profile.delete_member(member)

    def refuse_mixture(self, store: TableStore, one_shot: bool) -> None:
        """All entries of a selector are one-shot, or none is."""
        profile = self.profile(store)
        numbers = [*profile.members, *profile.groups]
        if any((number >= HIDDEN) != one_shot for number in numbers):
            raise invalid(f"{profile.layout.name} is programmed in another way: one-shot or not")


def _check(actions: p4r.ActionProfileActionSet, info: p4i.ActionProfile) -> None:
    name = info.preamble.name
    if actions.action_selection_mode or actions.size_semantics:
        raise unimplemented(f"groups of {name} have the selector's own mode and size")
    for action in actions.action_profile_actions:
        check_weight(action.weight, info)
        if action.watch_port or action.watch:
            raise unimplemented("watch ports are not supported")
    check_size(
        [(i, a.weight or 1) for i, a in enumerate(actions.action_profile_actions)],
        info.max_group_size,
        info,
    )


def check_weight(weight: int, info: p4i.ActionProfile) -> None:
    name = info.preamble.name
    if info.weights_disallowed and weight:
        raise invalid(f"members of {name} have no weight")
    if not info.weights_disallowed and weight < 1:
        raise invalid(f"the weight of a member of {name} is at least 1")


def check_size(members: list[tuple[int, int]], most: int, info: p4i.ActionProfile) -> None:
    """The size of a group is the sum of its weights, or of its members where P4Info says so."""
    by_members = info.WhichOneof("selector_size_semantics") == "sum_of_members"
    size = len(members) if by_members else sum(weight for _, weight in members)
    if most and size > most:
        raise invalid(f"a group of {info.preamble.name} of size {size} exceeds {most}")
    heaviest = info.sum_of_members.max_member_weight if by_members else 0
    if heaviest and any(weight > heaviest for _, weight in members):
        raise invalid(f"a weight of {info.preamble.name} exceeds {heaviest}")
