# SPDX-License-Identifier: Apache-2.0
"""Statements of a test to P4Runtime, by the names of P4Info.

Names are given as far as they are unambiguous: `t` finds `ingress.t`.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from finsy.proto import p4i, p4r, p4r_grpc, rpc_status

from ..errors import SwitchError
from . import script
from .script import BadScript

LIMIT = 30.0
_LIMIT_PRIORITY = 1 << 24
_BITS = {"x": 4, "o": 3, "b": 1}


class ControlFailed(SwitchError):
    """The switch refuses what a statement asks for."""


def pattern(text: str, width: int) -> tuple[int, int]:
    """Value and mask of a number; `*` stands for a digit that does not matter."""
    full = (1 << width) - 1
    if "*" not in text:
        return script.number(text), full
    base, digits = text[:2].lower(), text[2:]
    if base[0] != "0" or base[1] not in _BITS:
        raise ValueError(f"'{text}' has wildcards and no base")
    bits = _BITS[base[1]]
    value = int(base + digits.replace("*", "0"), 0)
    mask = full
    for place, digit in enumerate(reversed(digits)):
        if digit == "*":
            mask &= ~(((1 << bits) - 1) << place * bits)
    return value & mask, mask


def prefix(text: str, width: int) -> tuple[int, int]:
    """Value and length of a prefix: `VALUE/LENGTH`, or wildcards at the end, or all of it."""
    value, slash, length = text.partition("/")
    if slash:
        return script.number(value), script.number(length)
    number, mask = pattern(text, width)
    return number, mask.bit_count()


def canonical(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def pick(name: str, candidates: Iterable[Any], what: str) -> Any:
    """The object whose name this is, or whose name ends so."""
    objects = list(candidates)
    for ending in (None, "." + name, name):
        found = [o for o in objects if _is_named(o.preamble, name, ending)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    problem = "is ambiguous" if found else "is not in the P4Info"
    raise BadScript(f"{what} {name} {problem}")


def _is_named(preamble: p4i.Preamble, name: str, ending: str | None) -> bool:
    names = (preamble.name, preamble.alias)
    return name in names if ending is None else any(n.endswith(ending) for n in names)


class Names:
    """P4Info by the names that tests use."""

    def __init__(self, p4info: p4i.P4Info) -> None:
        self.p4info = p4info
        self._actions = {a.preamble.id: a for a in p4info.actions}

    def table(self, name: str) -> p4i.Table:
        return pick(name, self.p4info.tables, "table")

    def entry(self, statement: script.Add) -> p4r.TableEntry:
        table = self.table(statement.table)
        result = p4r.TableEntry(table_id=table.preamble.id)
        given = {self._field(table, name): value for name, value in statement.match}
        for field in table.match_fields:
            part = _match(field, given.get(field.id))
            if part is not None:
                result.match.append(part)
        if any(f.match_type not in (f.EXACT, f.LPM) for f in table.match_fields):
            result.priority = 1 + min(statement.priority or 0, _LIMIT_PRIORITY)
        self.put_action(result, table, statement.call)
        return result

    def default(self, statement: script.SetDefault) -> p4r.TableEntry:
        table = self.table(statement.table)
        result = p4r.TableEntry(table_id=table.preamble.id, is_default_action=True)
        self.put_action(result, table, statement.call)
        return result

    def _field(self, table: p4i.Table, name: str) -> int:
        """Stacks are written `stack$1.field`, validity `header.valid` or `header.$valid$`."""
        plain = re.sub(r"\$(\d+)", r"[\1]", name)
        valid = re.sub(r"(\$valid\$|\bvalid)$", "isValid()", plain)
        for wanted in (plain, valid, f"{plain}$", f"{plain}.$valid$"):
            for field in table.match_fields:
                if field.name == wanted or field.name.endswith("." + wanted):
                    return int(field.id)
        known = ", ".join(f.name for f in table.match_fields)
        raise BadScript(f"table {table.preamble.name} has no key {name} (it has {known})")

    def put_action(self, entry: p4r.TableEntry, table: p4i.Table, call: script.Call) -> None:
        if call.action in ("$member", "$group"):
            number = script.number(dict(call.arguments).get("number", "0"))
            setattr(entry.action, f"action_profile_{call.action[1:]}_id", number)
        else:
            entry.action.action.CopyFrom(self.action(table, call))

    def action(self, table: p4i.Table, call: script.Call) -> p4r.Action:
        action = pick(call.action, (self._actions[r.id] for r in table.action_refs), "action")
        result = p4r.Action(action_id=action.preamble.id)
        parameters = {p.name: p for p in action.params}
        for name, value in call.arguments:
            if name not in parameters:
                raise BadScript(f"action {action.preamble.name} has no parameter {name}")
            parameter = parameters[name]
            full = (1 << parameter.bitwidth) - 1
            data = canonical(script.number(value) & full)
            result.params.add(param_id=parameter.id, value=data)
        return result

    def member(self, statement: script.Member) -> p4r.ActionProfileMember:
        profile = self.profile(statement.profile)
        table = next(t for t in self.p4info.tables if t.preamble.id in profile.table_ids)
        return p4r.ActionProfileMember(
            action_profile_id=profile.preamble.id,
            member_id=statement.number,
            action=self.action(table, statement.call),
        )

    def group(self, statement: script.Group) -> p4r.ActionProfileGroup:
        profile = self.profile(statement.profile)
        result = p4r.ActionProfileGroup(
            action_profile_id=profile.preamble.id,
            group_id=statement.number,
            max_size=profile.max_group_size,
        )
        for member, weight in statement.members:
            result.members.add(member_id=member, weight=weight)
        return result

    def profile(self, name: str) -> p4i.ActionProfile:
        return pick(name, self.p4info.action_profiles, "action profile")

    def value_set(self, statement: script.ValueSet) -> p4r.ValueSetEntry:
        info = pick(statement.name, self.p4info.value_sets, "value set")
        result = p4r.ValueSetEntry(value_set_id=info.preamble.id)
        for values in statement.members:
            member = result.members.add()
            for field, value in zip(info.match, values, strict=True):
                member.match.add(field_id=field.id).exact.value = canonical(value)
        return result


def _match(field: p4i.MatchField, text: str | None) -> p4r.FieldMatch | None:
    """The match of a field; None where it may be anything."""
    part = p4r.FieldMatch(field_id=field.id)
    width = field.bitwidth
    full = (1 << width) - 1
    match field.match_type:
        case field.EXACT:
            part.exact.value = canonical(script.number(text or "0"))
        case field.OPTIONAL if text is not None:
            part.optional.value = canonical(script.number(text))
        case field.LPM if text is not None:
            value, length = prefix(text, width)
            part.lpm.value, part.lpm.prefix_len = canonical(value), length
            return part if length else None
        case field.TERNARY if text is not None:
            low, and_, mask = text.partition("&&&")
            value, keep = (
                (script.number(low), script.number(mask)) if and_ else pattern(text, width)
            )
            if "/" in text:
                value, length = prefix(text, width)
                keep = full ^ (full >> length)
            part.ternary.value, part.ternary.mask = canonical(value & keep), canonical(keep)
            return part if keep else None
        case field.RANGE if text is not None:
            low, arrow, high = text.partition("->")
            first, last = script.number(low), script.number(high if arrow else low)
            part.range.low, part.range.high = canonical(first), canonical(last)
            return part if (first, last) != (0, full) else None
        case _:
            return None
    return part


class Control:
    """The primary of a switch, for the length of a test."""

    def __init__(self, address: str, device: int, names: Names) -> None:
        self.names = names
        self.device = device
        self._election = p4r.Uint128(low=1)
        self._channel = grpc.insecure_channel(
            address, options=(("grpc.max_receive_message_length", 64 << 20),)
        )
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        self._requests: queue.Queue[p4r.StreamMessageRequest | None] = queue.Queue()
        arbitration = p4r.StreamMessageRequest()
        arbitration.arbitration.device_id = device
        arbitration.arbitration.election_id.CopyFrom(self._election)
        self._requests.put(arbitration)
        self._stream = self._stub.StreamChannel(iter(self._requests.get, None))
        next(self._stream)

    def load(self, program: bytes) -> None:
        request = p4r.SetForwardingPipelineConfigRequest(
            device_id=self.device, election_id=self._election, action="VERIFY_AND_COMMIT"
        )
        request.config.p4info.CopyFrom(self.names.p4info)
        request.config.p4_device_config = program
        try:
            self._stub.SetForwardingPipelineConfig(request, timeout=LIMIT)
        except grpc.RpcError as error:
            raise ControlFailed(f"the program is refused: {error.details()}") from error

    def write(self, kind: str, entity: p4r.Entity) -> None:
        update = p4r.Update(type=kind, entity=entity)
        request = p4r.WriteRequest(
            device_id=self.device, election_id=self._election, updates=[update]
        )
        try:
            self._stub.Write(request, timeout=LIMIT)
        except grpc.RpcError as error:
            raise ControlFailed(_reason(error)) from error

    def read(self, entity: p4r.Entity) -> list[p4r.Entity]:
        request = p4r.ReadRequest(device_id=self.device, entities=[entity])
        try:
            answers = list(self._stub.Read(request, timeout=LIMIT))
        except grpc.RpcError as error:
            raise ControlFailed(_reason(error)) from error
        return [entity for answer in answers for entity in answer.entities]

    # arrays and counters
    def counter(self, statement: script.CheckCounter, entry: p4r.TableEntry | None) -> int:
        if entry is not None:
            asked = p4r.DirectCounterEntry(table_entry=entry)
            asked.table_entry.ClearField("action")
            (found,) = self.read(p4r.Entity(direct_counter_entry=asked))
            data = found.direct_counter_entry.data
        else:
            data = self.cell("counter", statement.name, int(statement.index)).counter_entry.data
        return int(data.packet_count if statement.unit == "packets" else data.byte_count)

    def cell(self, kind: str, name: str, index: int) -> p4r.Entity:
        """One cell of a counter, register or meter."""
        entity = self._cell(kind, name, index)
        (found,) = self.read(entity)
        return found

    def write_counter(self, statement: script.CounterWrite) -> None:
        entity = self._cell("counter", statement.name, statement.index)
        entity.counter_entry.data.packet_count = statement.packets
        entity.counter_entry.data.byte_count = statement.bytes
        self.write("MODIFY", entity)

    def register(self, name: str, index: int) -> int:
        data = self.cell("register", name, index).register_entry.data
        return int.from_bytes(data.bitstring, "big")

    def write_register(self, statement: script.RegisterWrite) -> None:
        entity = self._cell("register", statement.name, statement.index)
        entity.register_entry.data.bitstring = canonical(statement.value)
        self.write("MODIFY", entity)

    def set_meter(self, statement: script.MeterSet) -> None:
        entity = self._cell("meter", statement.name, statement.index)
        config = entity.meter_entry.config
        rates = [(round(rate * 1e6), burst) for rate, burst in statement.rates]
        (config.cir, config.cburst), (config.pir, config.pburst) = rates[0], rates[-1]
        self.write("MODIFY", entity)

    def _cell(self, kind: str, name: str, index: int | None) -> p4r.Entity:
        arrays = {
            "counter": self.names.p4info.counters,
            "register": self.names.p4info.registers,
            "meter": self.names.p4info.meters,
        }[kind]
        found = pick(name, arrays, kind)
        entity = p4r.Entity()
        entry = getattr(entity, f"{kind}_entry")
        setattr(entry, f"{kind}_id", found.preamble.id)
        if index is not None:
            entry.index.index = index
        return entity

    # replication
    def group(self, number: int, replicas: Sequence[tuple[int, int]], new: bool) -> None:
        entity = p4r.Entity()
        entry = entity.packet_replication_engine_entry.multicast_group_entry
        entry.multicast_group_id = number
        _put_replicas(entry, replicas)
        self.write("INSERT" if new else "MODIFY", entity)

    def session(self, kind: str, number: int, replicas: Sequence[tuple[int, int]]) -> None:
        entity = p4r.Entity()
        entry = entity.packet_replication_engine_entry.clone_session_entry
        entry.session_id = number
        _put_replicas(entry, replicas)
        self.write(kind, entity)

    def close(self) -> None:
        self._requests.put(None)
        self._stream.cancel()
        self._channel.close()


def _put_replicas(entry: Any, replicas: Sequence[tuple[int, int]]) -> None:
    """Instance and port of each; the numbered form of a port is the one every target knows."""
    for instance, port in replicas:
        entry.replicas.add(egress_port=port, instance=instance)


def _reason(error: grpc.RpcError) -> str:
    """What a failed call says, with the message of its one update."""
    metadata: Any = error.trailing_metadata() or ()
    for name, value in metadata:
        if name == "grpc-status-details-bin":
            for detail in rpc_status.Status.FromString(value).details:
                one = p4r.Error()
                if detail.Unpack(one) and one.message:
                    return str(one.message)
    return f"{error.code().name}: {error.details()}"
