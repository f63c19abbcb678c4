# SPDX-License-Identifier: Apache-2.0
"""Names of a P4 program: from a p4info to entries by name, and back to P4Runtime messages.

Short names (the aliases of the p4info: "route" for "ingress.route") are what entries carry; full
names are accepted wherever a name is looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from finsy.proto import p4i, p4r
from google.protobuf import text_format

from .entries import Counter, Entry, Update
from .errors import BadValue, P4Error, UnknownName
from .matches import MatchCodec, codec_for
from .values import ValueType, decode, encode, kind_of

Named = TypeVar("Named", "Table", "Action", "CounterArray")


@dataclass(frozen=True)
class Value:
    """A named value: an action parameter or a packet metadata field."""

    id: int
    name: str
    type: ValueType


@dataclass(frozen=True)
class Field:
    """A match field of a table."""

    id: int
    name: str
    type: ValueType
    codec: MatchCodec

    @property
    def match_type(self) -> str:
        return self.codec.name


@dataclass(frozen=True)
class Action:
    id: int
    name: str
    full_name: str
    params: dict[str, Value]


@dataclass(frozen=True)
class CounterArray:
    """An indirect counter."""

    id: int
    name: str
    full_name: str
    size: int


@dataclass(frozen=True)
class Table:
    id: int
    name: str
    full_name: str
    fields: dict[str, Field]
    actions: dict[str, Action]
    entry_only: frozenset[str]
    default_only: frozenset[str]
    size: int
    has_counter: bool
    needs_priority: bool
    is_const: bool
    const_default: bool
    uses_profile: bool
    # What the program declares, None where the p4info does not tell (p4c before 1.2.4 did not).
    initial_default: Entry | None = field(default=None, compare=False)


def parse_p4info(p4info: str | p4i.P4Info) -> p4i.P4Info:
    """A p4info message from itself or from its text form (``*.p4info.txtpb``)."""
    if isinstance(p4info, p4i.P4Info):
        return p4info
    message = p4i.P4Info()
    try:
        text_format.Parse(p4info, message)
    except text_format.ParseError as error:
        raise BadValue(f"this is not a p4info in text form: {error}") from None
    return message


def cookie_of(p4info: str | p4i.P4Info, device_config: bytes) -> int:
    """A number that tells this pipeline from any other; what ``set_pipeline`` stores with it."""
    digest = hashlib.sha256(parse_p4info(p4info).SerializeToString(deterministic=True))
    digest.update(device_config)
    return int.from_bytes(digest.digest()[:8], "big")


class Schema:
    """Everything a p4info names, and the way from entries to messages and back."""

    def __init__(self, p4info: str | p4i.P4Info) -> None:
        self.p4info = parse_p4info(p4info)
        self._actions = [_action(message) for message in self.p4info.actions]
        self._action_by_id = {action.id: action for action in self._actions}
        self._tables = [self._table(message) for message in self.p4info.tables]
        self._table_by_id = {table.id: table for table in self._tables}
        self.tables: dict[str, Table] = {table.name: table for table in self._tables}
        self.counters: dict[str, CounterArray] = {
            message.preamble.alias: CounterArray(
                message.preamble.id, message.preamble.alias, message.preamble.name, message.size
            )
            for message in self.p4info.counters
        }

    # -- names

    def table(self, name: str) -> Table:
        return _find("table", name, self._tables)

    def action(self, table: Table, name: str) -> Action:
        return _find("action", name, table.actions.values(), where=f'table "{table.name}"')

    def counter(self, name: str) -> CounterArray:
        return _find("counter", name, self.counters.values())

    # -- packets

    @cached_property
    def packet_in(self) -> dict[int, Value]:
        return {value.id: value for value in self._metadata("packet_in")}

    @cached_property
    def packet_out(self) -> dict[str, Value]:
        return {value.name: value for value in self._metadata("packet_out")}

    def _metadata(self, header: str) -> list[Value]:
        for message in self.p4info.controller_packet_metadata:
            if message.preamble.alias == header:
                return [_value(item) for item in message.metadata]
        return []

    def encode_packet(self, payload: bytes, metadata: Mapping[str, object]) -> p4r.PacketOut:
        """A packet-out; metadata that is not given is 0, as padding always is."""
        for name in metadata:
            if name not in self.packet_out:
                raise UnknownName("metadata", name, self.packet_out, "the packet_out header")
        packet = p4r.PacketOut(payload=payload)
        for value in self.packet_out.values():
            number = _parse(value, metadata.get(value.name, 0), "packet_out metadata")
            packet.metadata.add(metadata_id=value.id, value=encode(number))
        return packet

    def decode_packet(self, packet: p4r.PacketIn) -> dict[str, int]:
        known = self.packet_in
        return {
            known[item.metadata_id].name: decode(item.value)
            for item in packet.metadata
            if item.metadata_id in known
        }

    # -- entries

    def normalise(self, entry: Entry) -> Entry:
        """The same entry in its normal form. Raises what is wrong with it, by name."""
        normal = self.decode_entry(self.encode_entry(entry))
        normal.counter = entry.counter
        normal.is_const = entry.is_const
        return normal

    def encode_entry(self, entry: Entry) -> p4r.TableEntry:
        table = self.table(entry.table)
        if table.uses_profile:
            raise P4Error(
                f'table "{table.name}" selects its actions through an action profile, which is '
                "not supported; use a table with direct actions"
            )
        message = p4r.TableEntry(table_id=table.id, is_default_action=entry.is_default)
        if entry.is_default:
            if entry.match or entry.priority:
                raise BadValue(
                    f'table "{table.name}": the default entry has neither match nor priority; '
                    "leave them out, or do not mark the entry as default"
                )
        else:
            self._encode_match(table, entry.match, message)
            message.priority = _priority(table, entry.priority)
        if entry.action is not None:
            message.action.CopyFrom(self._encode_action(table, entry))
        elif entry.params:
            raise BadValue(f'table "{table.name}": parameters are given, but no action')
        return message

    def _encode_match(
        self, table: Table, match: Mapping[str, object], message: p4r.TableEntry
    ) -> None:
        for name in match:
            if name not in table.fields:
                raise UnknownName("match field", name, table.fields, f'table "{table.name}"')
        for fld in table.fields.values():
            given = match.get(fld.name)
            where = f'table "{table.name}", match field "{fld.name}"'
            if given is None:
                if fld.codec.mandatory:
                    raise BadValue(f"{where}: a value is missing; an exact field always needs one")
                continue
            try:
                encoded = fld.codec.encode(fld.type, given)
            except ValueError as error:
                raise BadValue(f"{where}: {error}") from None
            if encoded is not None:
                encoded.field_id = fld.id
                message.match.append(encoded)

    def _encode_action(self, table: Table, entry: Entry) -> p4r.TableAction:
        assert entry.action is not None
        action = self.action(table, entry.action)
        where = f'table "{table.name}", action "{action.name}"'
        if entry.is_default and action.name in table.entry_only:
            raise BadValue(f"{where}: the program does not allow this action as the default")
        if not entry.is_default and action.name in table.default_only:
            raise BadValue(f"{where}: the program allows this action as the default only")
        for name in entry.params:
            if name not in action.params:
                raise UnknownName("parameter", name, action.params, where)
        message = p4r.TableAction()
        message.action.action_id = action.id
        for param in action.params.values():
            if entry.params.get(param.name) is None:
                raise BadValue(f'{where}: parameter "{param.name}" is missing')
            number = _parse(param, entry.params[param.name], f"{where}, parameter")
            message.action.params.add(param_id=param.id, value=encode(number))
        return message

    def decode_entry(self, message: p4r.TableEntry) -> Entry:
        table = self._table_by_id.get(message.table_id)
        if table is None:
            raise P4Error(
                f"the switch sent an entry of table id {message.table_id:#x}, which is not in the "
                "p4info; its pipeline was replaced meanwhile: open a new session"
            )
        entry = Entry(table.name, priority=message.priority, is_default=message.is_default_action)
        entry.is_const = message.is_const
        if not message.is_default_action:
            given = {match.field_id: match for match in message.match}
            for fld in table.fields.values():
                shown = fld.codec.decode(fld.type, given.get(fld.id))
                if shown is not None:
                    entry.match[fld.name] = shown
        if message.HasField("action"):
            self._decode_action(table, message.action, entry)
        if message.HasField("counter_data"):
            data = message.counter_data
            entry.counter = Counter(packets=data.packet_count, bytes=data.byte_count)
        return entry

    def _decode_action(self, table: Table, message: p4r.TableAction, entry: Entry) -> None:
        if message.WhichOneof("type") != "action":
            raise P4Error(
                f'an entry of table "{table.name}" uses an action profile, which is not supported'
            )
        action = self._action_by_id.get(message.action.action_id)
        if action is None:
            raise P4Error(
                f'table "{table.name}": the switch sent action id '
                f"{message.action.action_id:#x}, which is not in the p4info"
            )
        values = {param.param_id: decode(param.value) for param in message.action.params}
        entry.action = action.name
        entry.params = {
            param.name: param.type.show(values.get(param.id, 0)) for param in action.params.values()
        }

    def encode_update(self, update: Update) -> p4r.Update:
        """One update of a WriteRequest."""
        entry = update.entry
        if entry.is_default and update.kind != "MODIFY":
            raise BadValue(
                f'table "{entry.table}": the default entry always exists, so it can only be '
                f"changed by MODIFY, not by {update.kind}"
            )
        message = p4r.Update(type=p4r.Update.Type.Value(update.kind))
        message.entity.table_entry.CopyFrom(self.encode_entry(entry))
        if update.kind == "DELETE":
            message.entity.table_entry.ClearField("action")
        elif entry.action is None and not entry.is_default:
            raise BadValue(f"{update.label}: the entry has no action; name one")
        return message

    def write_request(self, updates: Iterable[Update], device_id: int) -> p4r.WriteRequest:
        """The updates as one request, without the credentials of a session."""
        encoded = [self.encode_update(update) for update in updates]
        return p4r.WriteRequest(device_id=device_id, updates=encoded)

    # -- building

    def _table(self, message: p4i.Table) -> Table:
        pre = message.preamble
        actions = {}
        entry_only = set()
        default_only = set()
        for ref in message.action_refs:
            action = self._action_by_id[ref.id]
            actions[action.name] = action
            if ref.scope == p4i.ActionRef.TABLE_ONLY:
                entry_only.add(action.name)
            elif ref.scope == p4i.ActionRef.DEFAULT_ONLY:
                default_only.add(action.name)
        fields = {item.name: _field(pre.alias, item) for item in message.match_fields}
        direct = {counter.preamble.id for counter in self.p4info.direct_counters}
        return Table(
            id=pre.id,
            name=pre.alias,
            full_name=pre.name,
            fields=fields,
            actions=actions,
            entry_only=frozenset(entry_only),
            default_only=frozenset(default_only),
            size=message.size,
            has_counter=bool(direct.intersection(message.direct_resource_ids)),
            needs_priority=any(fld.codec.needs_priority for fld in fields.values()),
            is_const=message.is_const_table,
            const_default=bool(message.const_default_action_id),
            uses_profile=bool(message.implementation_id),
            initial_default=self._initial_default(message),
        )

    def _initial_default(self, message: p4i.Table) -> Entry | None:
        """The default entry the program declares, None where the p4info does not tell."""
        call = message.initial_default_action
        action = self._action_by_id.get(call.action_id or message.const_default_action_id)
        if action is None or len(call.arguments) != len(action.params):
            return None
        given = {argument.param_id: decode(argument.value) for argument in call.arguments}
        params = {param.name: param.type.show(given[param.id]) for param in action.params.values()}
        return Entry(message.preamble.alias, action=action.name, params=params, is_default=True)


def _find(what: str, name: str, items: Iterable[Named], where: str = "") -> Named:
    known = list(items)
    for item in known:
        if name in (item.name, item.full_name):
            return item
    raise UnknownName(what, name, [item.name for item in known], where)


def _action(message: p4i.Action) -> Action:
    params = {item.name: _value(item) for item in message.params}
    return Action(message.preamble.id, message.preamble.alias, message.preamble.name, params)


def _value(item: p4i.Action.Param | p4i.ControllerPacketMetadata.Metadata) -> Value:
    kind = kind_of(item.name, item.bitwidth, tuple(item.annotations))
    return Value(item.id, item.name, ValueType(item.bitwidth, kind))


def _field(table: str, item: p4i.MatchField) -> Field:
    kind = kind_of(item.name, item.bitwidth, tuple(item.annotations))
    codec = codec_for(p4i.MatchField.MatchType.Name(item.match_type))
    if codec is None or not item.bitwidth:
        what = item.other_match_type or "a translated string"
        raise P4Error(
            f'table "{table}", match field "{item.name}": {what} is not supported; '
            "supported are exact, lpm, ternary, range and optional fields of bits"
        )
    return Field(item.id, item.name, ValueType(item.bitwidth, kind), codec)


def _parse(value: Value, given: object, where: str) -> int:
    try:
        return value.type.parse(given)
    except ValueError as error:
        raise BadValue(f'{where} "{value.name}": {error}') from None


def _priority(table: Table, priority: Any) -> int:
    if table.needs_priority and not (isinstance(priority, int) and priority > 0):
        raise BadValue(
            f'table "{table.name}": its entries may overlap (ternary, range or optional fields), '
            "so each needs a priority above 0; the highest wins"
        )
    if priority and not table.needs_priority:
        raise BadValue(
            f'table "{table.name}": its entries have no priority (only exact and lpm fields); '
            "leave it out"
        )
    return int(priority)
