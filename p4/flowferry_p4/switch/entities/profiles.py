# SPDX-License-Identifier: Apache-2.0
"""Members and groups of action profiles."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from finsy.proto import p4i, p4r

from ..compiler import GROUP, MEMBER
from ..dataplane import Dataplane
from ..encoding import Call
from ..entries import TableStore
from ..profiles import HIDDEN, Group, ProfileStore
from ..rpc_errors import RpcFailure, invalid, not_found, unimplemented
from ..schema import Schema, TableSchema
from .handler import DELETE, INSERT, MODIFY, Undo
from .oneshot import check_size, check_weight


class Profiles:
    """What members and groups have in common."""

    def __init__(self, dataplane: Dataplane, schema: Schema) -> None:
        self.dataplane = dataplane
        self.schema = schema

    def info(self, number: int) -> p4i.ActionProfile:
        if number not in self.schema.profiles:
            raise not_found(f"the pipeline has no action profile {number}")
        return self.schema.profiles[number]

    def store(self, info: p4i.ActionProfile) -> ProfileStore:
        return self.dataplane.profiles[info.preamble.name]

    def table(self, info: p4i.ActionProfile) -> TableSchema:
        """A table of the profile; all of them have the same actions."""
        for number in info.table_ids:
            if number in self.schema.tables:
                return self.schema.tables[number]
        raise invalid(f"no table uses the action profile {info.preamble.name}")

    def refuse_one_shot(self, store: ProfileStore) -> None:
        if any(number >= HIDDEN for number in store.members):
            raise invalid(f"the entries of {store.layout.name} are one-shot")

    def refuse_used(self, info: p4i.ActionProfile, call: Call, what: str) -> None:
        stores: list[TableStore] = [
            self.dataplane.tables[self.schema.tables[number].name]
            for number in info.table_ids
            if number in self.schema.tables
        ]
        if any(store.references[call] for store in stores):
            raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, f"{what} is used by an entry")

    def asked(self, number: int) -> list[p4i.ActionProfile]:
        return [self.info(number)] if number else list(self.schema.profiles.values())


def _check(kind: int, number: int, what: str) -> None:
    if kind not in (INSERT, MODIFY, DELETE):
        raise invalid("an update is INSERT, MODIFY or DELETE")
    if not 0 < number < HIDDEN:
        raise invalid(f"a {what} has a number from 1 to {HIDDEN - 1}")


class Members:
    """Members of action profiles."""

    def __init__(self, profiles: Profiles) -> None:
        self.profiles = profiles

    def write(self, kind: int, message: p4r.ActionProfileMember) -> Undo:
        info = self.profiles.info(message.action_profile_id)
        store = self.profiles.store(info)
        number = message.member_id
        _check(kind, number, "member")
        if kind == DELETE:
            return self._delete(info, store, number)
        self.profiles.refuse_one_shot(store)
        if not message.HasField("action"):
            raise invalid(f"member {number} of {info.preamble.name} has no action")
        call = self.profiles.table(info).action_call(message.action)
        if kind == INSERT:
            store.insert_member(number, call)
            return lambda: store.delete_member(number)
        before = store.member(number)
        store.modify_member(number, call)
        return lambda: store.modify_member(number, before)

    def _delete(self, info: p4i.ActionProfile, store: ProfileStore, number: int) -> Undo:
        before = store.member(number)
        groups = store.groups_of(number)
        if groups:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, f"member {number} is in group {groups[0]}"
            )
        self.profiles.refuse_used(info, Call(MEMBER, (number,)), f"member {number}")
        store.delete_member(number)
        return lambda: store.insert_member(number, before)

    def read(self, message: p4r.ActionProfileMember) -> Iterator[p4r.Entity]:
        for info in self.profiles.asked(message.action_profile_id):
            store = self.profiles.store(info)
            if message.member_id:
                numbers = [message.member_id] if message.member_id in store.members else []
            else:
                numbers = [n for n in store.members if n < HIDDEN]
            table = self.profiles.table(info)
            for number in numbers:
                result = p4r.ActionProfileMember(
                    action_profile_id=info.preamble.id, member_id=number
                )
                result.action.CopyFrom(table.action_message(store.members[number]))
                yield p4r.Entity(action_profile_member=result)


class Groups:
    """Groups of selectors."""

    def __init__(self, profiles: Profiles) -> None:
        self.profiles = profiles

    def write(self, kind: int, message: p4r.ActionProfileGroup) -> Undo:
        info = self.profiles.info(message.action_profile_id)
        store = self.profiles.store(info)
        number = message.group_id
        _check(kind, number, "group")
        if not store.layout.selector:
            raise invalid(f"{info.preamble.name} is no selector: it has no groups")
        if kind == DELETE:
            before = store.group(number)
            self.profiles.refuse_used(info, Call(GROUP, (number,)), f"group {number}")
            store.delete_group(number)
            return lambda: store.insert_group(number, before)
        self.profiles.refuse_one_shot(store)
        group = self._group(info, store, message)
        if kind == INSERT:
            store.insert_group(number, group)
            return lambda: store.delete_group(number)
        before = store.group(number)
        if before.max_size != group.max_size:
            raise invalid(f"max_size of group {number} stays {before.max_size}")
        store.modify_group(number, group)
        return lambda: store.modify_group(number, before)

    def _group(
        self, info: p4i.ActionProfile, store: ProfileStore, message: p4r.ActionProfileGroup
    ) -> Group:
        members = []
        for member in message.members:
            check_weight(member.weight, info)
            if member.watch_port or member.watch:
                raise unimplemented("watch ports are not supported")
            store.member(member.member_id)
            members.append((member.member_id, member.weight or 1))
        if len({number for number, _ in members}) != len(members):
            raise invalid(f"a member of group {message.group_id} is given twice")
        self._check_max_size(info, message.max_size)
        check_size(members, message.max_size, info)
        return Group(tuple(members), message.max_size)

    def _check_max_size(self, info: p4i.ActionProfile, max_size: int) -> None:
        most = info.max_group_size
        if most and not 0 < max_size <= most:
            raise invalid(f"max_size of a group of {info.preamble.name} is from 1 to {most}")
        if max_size < 0:
            raise invalid("max_size is not negative")

    def read(self, message: p4r.ActionProfileGroup) -> Iterator[p4r.Entity]:
        for info in self.profiles.asked(message.action_profile_id):
            store = self.profiles.store(info)
            if message.group_id:
                numbers = [message.group_id] if message.group_id in store.groups else []
            else:
                numbers = [n for n in store.groups if n < HIDDEN]
            for number in numbers:
                yield p4r.Entity(action_profile_group=_message(info, number, store.groups[number]))


def _message(info: p4i.ActionProfile, number: int, group: Group) -> p4r.ActionProfileGroup:
    result = p4r.ActionProfileGroup(
        action_profile_id=info.preamble.id, group_id=number, max_size=group.max_size
    )
    for member, weight in group.members:
        result.members.add(member_id=member, weight=0 if info.weights_disallowed else weight)
    return result
