# SPDX-License-Identifier: Apache-2.0
"""P4Info beside the BMv2 JSON: the ids of P4Runtime, and messages to entries and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from finsy.proto import p4i, p4r

from .cells import Counts
from .compiler import GROUP, MEMBER
from .compiler.names import mask
from .encoding import Call, FieldMatch, Key
from .entries import Entry
from .errors import BadProgram
from .model import Program, Table
from .rpc_errors import RpcFailure, invalid, not_found

EXACT, LPM, TERNARY, RANGE, OPTIONAL = (
    p4i.MatchField.EXACT,
    p4i.MatchField.LPM,
    p4i.MatchField.TERNARY,
    p4i.MatchField.RANGE,
    p4i.MatchField.OPTIONAL,
)
_KINDS = {"exact": (EXACT,), "lpm": (LPM,), "ternary": (TERNARY, OPTIONAL), "range": (RANGE,)}
_KINDS["optional"] = (OPTIONAL,)


def parse_bytes(data: bytes, width: int, what: str) -> int:
    """A P4Runtime byte string; leading zeros are accepted, an overflow is not."""
    if not data:
        raise RpcFailure(grpc.StatusCode.OUT_OF_RANGE, f"{what} has an empty value")
    value = int.from_bytes(data, "big")
    if value > mask(width):
        raise RpcFailure(
            grpc.StatusCode.OUT_OF_RANGE, f"{what}: {value:#x} does not fit in {width} bits"
        )
    return value


def canonical(value: int) -> bytes:
    """The shortest byte string of a value; zero is one byte."""
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


@dataclass(frozen=True)
class FieldSchema:
    id: int
    name: str
    width: int
    kind: int


@dataclass(frozen=True)
class ActionSchema:
    id: int
    name: str
    number: int  # id in the BMv2 JSON
    parameters: tuple[tuple[int, str, int], ...]  # id, name, width
    as_entry: bool
    as_default: bool


class TableSchema:
    """One table, as P4Info and the program agree on it."""

    def __init__(self, info: p4i.Table, table: Table, actions: dict[int, p4i.Action]) -> None:
        self.id = info.preamble.id
        self.name = table.name
        self.fields = tuple(
            FieldSchema(f.id, f.name, f.bitwidth, f.match_type) for f in info.match_fields
        )
        self._check_fields(table)
        self.actions = {
            ref.id: self._action(ref, actions[ref.id], table) for ref in info.action_refs
        }
        self._by_number = {a.number: a for a in self.actions.values()}
        self.indirect = bool(table.profile)
        self.idle_timeout = table.timed
        self.prioritised = any(f.kind in (TERNARY, RANGE, OPTIONAL) for f in self.fields)
        self.direct_resources = tuple(info.direct_resource_ids)
        self.constant = info.is_const_table or bool(
            table.entries and not info.has_initial_entries  # of a p4c that told neither
        )

    def _check_fields(self, table: Table) -> None:
        ours = [(k.width, k.match) for k in table.key]
        theirs = [(f.width, f.kind) for f in self.fields]
        agree = len(ours) == len(theirs) and all(
            width == w and kind in _KINDS[match]
            for (width, match), (w, kind) in zip(ours, theirs, strict=True)
        )
        if not agree:
            raise BadProgram(
                f"P4Info and BMv2 JSON disagree on the key of table {table.name}; "
                "they are not from the same compilation"
            )

    def _action(self, ref: p4i.ActionRef, info: p4i.Action, table: Table) -> ActionSchema:
        name = info.preamble.name
        if name not in table.actions:
            raise BadProgram(f"table {table.name} has no action {name} in the BMv2 JSON")
        return ActionSchema(
            id=ref.id,
            name=name,
            number=table.actions[name],
            parameters=tuple((p.id, p.name, p.bitwidth) for p in info.params),
            as_entry=ref.scope != p4i.ActionRef.DEFAULT_ONLY,
            as_default=ref.scope != p4i.ActionRef.TABLE_ONLY,
        )

    # messages to entries
    def key(self, message: p4r.TableEntry, any_priority: bool = False) -> Key:
        """The key of an entry; with `any_priority`, of a read, the priority may be left out."""
        given: dict[int, p4r.FieldMatch] = {}
        known = {f.id for f in self.fields}
        for part in message.match:
            if part.field_id not in known:
                raise invalid(f"table {self.name} has no match field {part.field_id}")
            if part.field_id in given:
                raise invalid(f"match field {part.field_id} of {self.name} is given twice")
            given[part.field_id] = part
        least = 0 if any_priority else 1
        if self.prioritised and message.priority < least:
            raise invalid(f"entries of table {self.name} need a priority greater than zero")
        if not self.prioritised and message.priority:
            raise invalid(f"entries of table {self.name} have no priority")
        matches = tuple(self._match(f, given.get(f.id)) for f in self.fields)
        return Key(matches, message.priority)

    def _match(self, field: FieldSchema, part: p4r.FieldMatch | None) -> FieldMatch:
        what = f"{self.name}.{field.name}"
        if part is None:
            return self._any(field, what)
        kind = part.WhichOneof("field_match_type")
        expected = {
            EXACT: "exact", LPM: "lpm", TERNARY: "ternary", RANGE: "range", OPTIONAL: "optional",
        }[field.kind]  # fmt: skip
        if kind != expected:
            raise invalid(f"{what} matches by {expected}, not by {kind}")
        match field.kind:
            case p4i.MatchField.EXACT:
                return FieldMatch(parse_bytes(part.exact.value, field.width, what))
            case p4i.MatchField.OPTIONAL:
                value = parse_bytes(part.optional.value, field.width, what)
                return FieldMatch(value, mask(field.width))
            case p4i.MatchField.LPM:
                return self._prefix(field, part.lpm, what)
            case p4i.MatchField.TERNARY:
                return self._masked(field, part.ternary, what)
        return self._range(field, part.range, what)

    def _any(self, field: FieldSchema, what: str) -> FieldMatch:
        if field.kind == EXACT:
            raise invalid(f"{what} is an exact match and must be given")
        return FieldMatch(0, mask(field.width) if field.kind == RANGE else 0)

    def _prefix(self, field: FieldSchema, part: p4r.FieldMatch.LPM, what: str) -> FieldMatch:
        value = parse_bytes(part.value, field.width, what)
        if not 0 < part.prefix_len <= field.width:
            raise invalid(
                f"{what}: a prefix length of {part.prefix_len} is not between 1 and "
                f"{field.width}; leave the field out to match everything"
            )
        if value & mask(field.width - part.prefix_len):
            raise invalid(f"{what}: bits are set behind the prefix of {part.prefix_len}")
        return FieldMatch(value, part.prefix_len)

    def _masked(self, field: FieldSchema, part: p4r.FieldMatch.Ternary, what: str) -> FieldMatch:
        value = parse_bytes(part.value, field.width, what)
        keep = parse_bytes(part.mask, field.width, f"the mask of {what}")
        if not keep:
            raise invalid(f"{what}: the mask is zero; leave the field out to match everything")
        if value & ~keep:
            raise invalid(f"{what}: bits are set outside of the mask")
        return FieldMatch(value, keep)

    def _range(self, field: FieldSchema, part: p4r.FieldMatch.Range, what: str) -> FieldMatch:
        low = parse_bytes(part.low, field.width, what)
        high = parse_bytes(part.high, field.width, what)
        if low > high:
            raise invalid(f"{what}: the range {low}..{high} is empty")
        if low == 0 and high == mask(field.width):
            raise invalid(f"{what}: the range is everything; leave the field out")
        return FieldMatch(low, high)

    def call(self, message: p4r.TableAction, default: bool = False) -> Call:
        """What an entry calls: an action, or of an indirect table a member or a group."""
        kind = message.WhichOneof("type") or "none"
        if self.indirect and not default:
            if kind == "action_profile_member_id":
                return Call(MEMBER, (message.action_profile_member_id,))
            if kind == "action_profile_group_id":
                return Call(GROUP, (message.action_profile_group_id,))
            raise invalid(f"table {self.name} takes a member or a group, and {kind} is given")
        if kind != "action":
            raise invalid(f"table {self.name} takes an action, and {kind} is given")
        return self.action_call(message.action, default)

    def action_call(self, message: p4r.Action, default: bool = False) -> Call:
        action = self.actions.get(message.action_id)
        if action is None:
            raise invalid(f"table {self.name} has no action {message.action_id}")
        if not (action.as_default if default else action.as_entry):
            role = "a default action" if default else "the action of an entry"
            raise RpcFailure(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{action.name} cannot be {role} in table {self.name}",
            )
        values = {p.param_id: p.value for p in message.params}
        if set(values) != {p[0] for p in action.parameters} or len(values) != len(message.params):
            names = ", ".join(p[1] for p in action.parameters) or "none"
            raise invalid(f"action {action.name} takes each of these parameters once: {names}")
        arguments = tuple(
            parse_bytes(values[number], width, f"{action.name}.{name}")
            for number, name, width in action.parameters
        )
        return Call(action.number, arguments)

    # entries to messages
    def message(self, entry: Entry) -> p4r.TableEntry:
        result = p4r.TableEntry(table_id=self.id, priority=entry.key.priority)
        for field, match in zip(self.fields, entry.key.match, strict=True):
            part = self._match_message(field, match)
            if part is not None:
                result.match.append(part)
        if not self.indirect:
            self._put_action(result, entry.call)
        elif entry.call.action == MEMBER:
            result.action.action_profile_member_id = entry.call.arguments[0]
        else:
            result.action.action_profile_group_id = entry.call.arguments[0]
        return result

    def default_message(self, call: Call | None) -> p4r.TableEntry:
        result = p4r.TableEntry(table_id=self.id, is_default_action=True)
        if call is not None:
            self._put_action(result, call)
        return result

    def _put_action(self, result: p4r.TableEntry, call: Call) -> None:
        result.action.action.CopyFrom(self.action_message(call))

    def action_message(self, call: Call) -> p4r.Action:
        action = self._by_number[call.action]
        result = p4r.Action(action_id=action.id)
        for (number, _, _), value in zip(action.parameters, call.arguments, strict=True):
            result.params.add(param_id=number, value=canonical(value))
        return result

    def _match_message(self, field: FieldSchema, match: FieldMatch) -> p4r.FieldMatch | None:
        part = p4r.FieldMatch(field_id=field.id)
        value = canonical(match.value)
        if field.kind == EXACT:
            part.exact.value = value
            return part
        if match == self._any(field, field.name):
            return None
        match field.kind:
            case p4i.MatchField.LPM:
                part.lpm.value, part.lpm.prefix_len = value, match.second
            case p4i.MatchField.TERNARY:
                part.ternary.value, part.ternary.mask = value, canonical(match.second)
            case p4i.MatchField.RANGE:
                part.range.low, part.range.high = value, canonical(match.second)
            case p4i.MatchField.OPTIONAL:
                part.optional.value = value
        return part


@dataclass(frozen=True)
class PacketHeader:
    """A controller header: its metadata ids, and where each lies in the header."""

    size: int
    fields: dict[int, tuple[str, int, int]]  # id: name, width, shift from the right

    def encode(self, metadata: Iterable[p4r.PacketMetadata]) -> bytes:
        value = 0
        missing = {number for number, (name, _, _) in self.fields.items() if name[0] != "_"}
        for item in metadata:
            if item.metadata_id not in self.fields:
                raise invalid(f"the packet-out header has no metadata {item.metadata_id}")
            name, width, shift = self.fields[item.metadata_id]
            value |= parse_bytes(item.value, width, f"packet-out {name}") << shift
            missing.discard(item.metadata_id)
        if missing:
            names = ", ".join(sorted(self.fields[m][0] for m in missing))
            raise invalid(f"the packet-out lacks metadata: {names}")
        return value.to_bytes(self.size, "big")

    def decode(self, header: bytes) -> list[p4r.PacketMetadata]:
        value = int.from_bytes(header, "big")
        return [
            p4r.PacketMetadata(metadata_id=number, value=canonical(value >> shift & mask(width)))
            for number, (_, width, shift) in self.fields.items()
        ]


class Schema:
    """A whole P4Info with the program it belongs to."""

    def __init__(self, p4info: p4i.P4Info, program: Program) -> None:
        self.p4info = p4info
        tables = {**program.ingress.tables, **program.egress.tables}
        actions = {a.preamble.id: a for a in p4info.actions}
        self.tables: dict[int, TableSchema] = {}
        for info in p4info.tables:
            name = info.preamble.name
            if name not in tables:
                raise BadProgram(f"the BMv2 JSON has no table {name}, which P4Info names")
            self.tables[info.preamble.id] = TableSchema(info, tables[name], actions)
        self.direct_counters = {c.preamble.id: c.direct_table_id for c in p4info.direct_counters}
        self.direct_meters = {m.direct_table_id: m for m in p4info.direct_meters}
        self.counters = {c.preamble.id: c for c in p4info.counters}
        _check_names("counter", p4info.counters, program.counters)
        self.meters = {m.preamble.id: m for m in p4info.meters}
        _check_names("meter", p4info.meters, program.meters)
        self.registers = {r.preamble.id: r for r in p4info.registers}
        _check_names("register", p4info.registers, program.registers)
        self.profiles = {p.preamble.id: p for p in p4info.action_profiles}
        profiles = {**program.ingress.profiles, **program.egress.profiles}
        _check_names("action profile", p4info.action_profiles, profiles)
        self.value_sets = {v.preamble.id: v for v in p4info.value_sets}
        _check_names("value set", p4info.value_sets, program.value_sets)
        self.digests = {d.preamble.id: d for d in p4info.digests}
        self.packet_in = self._packet_header("packet_in", program)
        self.packet_out = self._packet_header("packet_out", program)

    def table(self, number: int) -> TableSchema:
        try:
            return self.tables[number]
        except KeyError:
            raise not_found(f"the pipeline has no table {number}") from None

    def counted(self, table: TableSchema) -> bool:
        return any(number in self.direct_counters for number in table.direct_resources)

    def _packet_header(self, name: str, program: Program) -> PacketHeader | None:
        for info in self.p4info.controller_packet_metadata:
            if info.preamble.name != name:
                continue
            ids = {m.name: m.id for m in info.metadata}
            header = program.headers.get(name)
            widths = (
                [(f.name, f.width) for f in header.fields]
                if header
                else [(m.name, m.bitwidth) for m in info.metadata]
            )
            total = sum(width for _, width in widths)
            fields = {}
            at = total
            for field, width in widths:
                at -= width
                if field in ids:
                    fields[ids[field]] = (field, width, at)
            return PacketHeader((total + 7) // 8, fields)
        return None


def _check_names(what: str, declared: Iterable[Any], known: Iterable[str]) -> None:
    """The program has to have whatever P4Info names."""
    for info in declared:
        if info.preamble.name not in known:
            raise BadProgram(
                f"the BMv2 JSON has no {what} {info.preamble.name}, which P4Info names"
            )


def counter_data(counts: Counts) -> p4r.CounterData:
    return p4r.CounterData(packet_count=counts.packets, byte_count=counts.bytes)
