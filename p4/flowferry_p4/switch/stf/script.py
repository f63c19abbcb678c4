# SPDX-License-Identifier: Apache-2.0
"""The text of an STF test, read into statements."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import SwitchError


class BadScript(SwitchError):
    """The test does not say what it should; the text names the line."""


@dataclass(frozen=True)
class Call:
    action: str
    arguments: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Add:
    table: str
    priority: int | None
    match: tuple[tuple[str, str], ...]
    call: Call
    label: str | None


@dataclass(frozen=True)
class SetDefault:
    table: str
    call: Call


@dataclass(frozen=True)
class Remove:
    label: str | None  # None: everything


@dataclass(frozen=True)
class Member:
    profile: str
    number: int
    call: Call


@dataclass(frozen=True)
class Group:
    profile: str
    number: int
    members: tuple[tuple[int, int], ...]
    """Member and weight."""


@dataclass(frozen=True)
class ValueSet:
    name: str
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Packet:
    port: int
    data: bytes


@dataclass(frozen=True)
class Expect:
    port: int
    digits: str | None
    """Hexadecimal digits, `*` for any; None: any packet."""
    whole: bool
    """Nothing may follow the digits."""

    def matches(self, packet: bytes) -> bool:
        if self.digits is None:
            return True
        got = packet.hex()
        if len(got) < len(self.digits) or (self.whole and len(got) != len(self.digits)):
            return False
        return all(want in ("*", have) for want, have in zip(self.digits, got, strict=False))


@dataclass(frozen=True)
class Wait:
    """For what is expected; with `nothing_else`, and nothing but that."""

    nothing_else: bool = False


@dataclass(frozen=True)
class MirrorToPort:
    session: int
    port: int


@dataclass(frozen=True)
class MirrorToGroup:
    session: int
    group: int


@dataclass(frozen=True)
class MirrorDelete:
    session: int


@dataclass(frozen=True)
class GroupCreate:
    group: int


@dataclass(frozen=True)
class NodeCreate:
    """Nodes are numbered from 0, in the order of their creation."""

    instance: int
    ports: tuple[int, ...]


@dataclass(frozen=True)
class NodeAssociate:
    group: int
    node: int


@dataclass(frozen=True)
class Condition:
    operator: str
    number: int

    def holds(self, value: int) -> bool:
        return {
            "==": value == self.number, "!=": value != self.number,
            "<": value < self.number, "<=": value <= self.number,
            ">": value > self.number, ">=": value >= self.number,
        }[self.operator]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.operator} {self.number}"


@dataclass(frozen=True)
class CheckCounter:
    name: str
    index: int | str  # an entry's label, for a direct counter
    unit: str
    condition: Condition


@dataclass(frozen=True)
class CheckRegister:
    name: str
    index: int
    condition: Condition


@dataclass(frozen=True)
class CounterWrite:
    name: str
    index: int
    packets: int
    bytes: int


@dataclass(frozen=True)
class RegisterWrite:
    name: str
    index: int | None  # None: every cell
    value: int


@dataclass(frozen=True)
class MeterSet:
    name: str
    index: int | None  # None: every cell
    rates: tuple[tuple[float, int], ...]  # units in a microsecond, burst


@dataclass(frozen=True)
class Show:
    """Read and print: counter, register, meter or mirroring session."""

    kind: str
    name: str
    index: int


Statement: TypeAlias = (
    Add | SetDefault | Remove | Member | Group | ValueSet | Packet | Expect | Wait
    | MirrorToPort | MirrorToGroup | MirrorDelete | GroupCreate | NodeCreate | NodeAssociate
    | CheckCounter | CheckRegister | CounterWrite | RegisterWrite | MeterSet | Show
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    number: int
    text: str
    statement: Statement


_CALL = re.compile(r"(?P<action>[\w.$]+)\s*\((?P<arguments>[^)]*)\)\s*(?:=\s*\$?(?P<label>\w+))?$")
_ADD = re.compile(r"(?P<table>\S+)\s+(?:(?P<priority>\d+)\s+)?(?P<rest>.*)$")
_MATCH = re.compile(r"(?P<name>[^\s:]+)\s*:\s*(?P<value>\S+)\s*")
_CELL = re.compile(r"(?P<name>[\w.$]+)\s*\(\s*(?P<index>\$?\w+)\s*\)\s*(?P<rest>.*)$")
_COUNTER = re.compile(r"(?P<unit>packets|bytes)\s*(?P<operator>==|!=|<=|>=|<|>)\s*(?P<number>\d+)$")
_REGISTER = re.compile(r"(?P<operator>==|!=|<=|>=|<|>)\s*(?P<number>\w+)$")
_DATA = re.compile(r"[0-9a-f*]*$")


def parse(text: str) -> list[Line]:
    """Read a whole test; BadScript names the first line that is not understood."""
    lines = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        word, rest = _head(line)
        reader = _READERS.get(word.lower())
        if reader is None:
            raise BadScript(f"line {number}: '{word}' is no statement of STF")
        try:
            statement = reader(rest)
        except ValueError as error:
            raise BadScript(f"line {number}: {error} in '{line}'") from None
        lines.append(Line(number, line, statement))
    return lines


def _head(text: str) -> tuple[str, str]:
    """The first word, and what follows."""
    word, *rest = text.split(None, 1)
    return word, rest[0] if rest else ""


def _found(pattern: re.Pattern[str], text: str, what: str) -> re.Match[str]:
    found = pattern.match(text)
    if not found:
        raise ValueError(f"{what} is not understood")
    return found


def _call(text: str) -> tuple[Call, str | None]:
    found = _found(_CALL, text.strip(), "the action")
    arguments = []
    for part in filter(None, (p.strip() for p in found["arguments"].split(","))):
        name, colon, value = part.partition(":")
        if not colon:
            raise ValueError(f"the argument '{part}' has no value")
        arguments.append((name.strip(), value.strip()))
    return Call(found["action"], tuple(arguments)), found["label"]


def _add(text: str) -> Add:
    found = _found(_ADD, text, "the entry")
    rest = found["rest"]
    match = []
    opening = rest.rindex("(")
    start = len(rest[:opening].rstrip())
    while start and not rest[start - 1].isspace():
        start -= 1
    fields, call_text = rest[:start], rest[start:]
    at = 0
    while at < len(fields):
        part = _found(_MATCH, fields[at:], "the match")
        match.append((part["name"], part["value"]))
        at += part.end()
    call, label = _call(call_text)
    priority = int(found["priority"]) if found["priority"] else None
    return Add(found["table"], priority, tuple(match), call, label)


def _set_default(text: str) -> SetDefault:
    table, rest = _head(text)
    return SetDefault(table, _call(rest)[0])


def _remove(text: str) -> Remove:
    if not text:
        raise ValueError("what is to be removed is missing")
    return Remove(None if text.lower() == "all" else text.lstrip("$"))


def _member(text: str) -> Member:
    profile, rest = _head(text)
    given, call = _head(rest)
    return Member(profile, number(given), _call(call)[0])


def _group(text: str) -> Group:
    profile, given, *members = text.split()
    pairs = (word.partition(":") for word in members)
    weighted = tuple((number(member), number(weight or "1")) for member, _, weight in pairs)
    return Group(profile, number(given), weighted)


def _value_set(text: str) -> ValueSet:
    name, *members = text.split()
    return ValueSet(name, tuple(tuple(number(v) for v in m.split(",")) for m in members))


def _packet(text: str) -> Packet:
    port, data = _head(text)
    return Packet(int(port), bytes.fromhex(data))


def _expect(text: str) -> Expect:
    port, data = _head(text)
    digits = "".join(data.split()).lower()
    whole = digits.endswith("$")
    digits = digits.rstrip("$")
    _found(_DATA, digits, "the packet")
    return Expect(int(port), digits if digits or whole else None, whole)


def _check_counter(text: str) -> CheckCounter:
    found = _found(_CELL, text, "the counter")
    index = found["index"]
    cell: int | str = index.lstrip("$") if not index.isdigit() else int(index)
    if not found["rest"]:
        return CheckCounter(found["name"], cell, "packets", Condition("==", 0))
    check = _found(_COUNTER, found["rest"], "the condition")
    condition = Condition(check["operator"], int(check["number"]))
    return CheckCounter(found["name"], cell, check["unit"], condition)


def _check_register(text: str) -> CheckRegister:
    found = _found(_CELL, text, "the register")
    check = _found(_REGISTER, found["rest"], "the condition")
    condition = Condition(check["operator"], number(check["number"]))
    return CheckRegister(found["name"], int(found["index"]), condition)


def _rates(words: Sequence[str]) -> tuple[tuple[float, int], ...]:
    pairs = (word.split(":") for word in words)
    return tuple((float(rate), int(burst)) for rate, burst in pairs)


def number(text: str) -> int:
    """A number without wildcards, in any base."""
    digits = text.lower().lstrip("0") if text.isdigit() else text
    return int(digits or "0", 0)


def _numbers(make: Callable[..., Statement], count: int) -> Callable[[str], Statement]:
    def read(text: str) -> Statement:
        words = text.split()
        if len(words) != count:
            raise ValueError(f"{count} numbers are expected")
        return make(*(number(w) for w in words))

    return read


def _named(make: Callable[..., Statement], count: int) -> Callable[[str], Statement]:
    def read(text: str) -> Statement:
        name, *words = text.split()
        if len(words) != count:
            raise ValueError(f"a name and {count} numbers are expected")
        return make(name, *(number(w) for w in words))

    return read


def _node_create(text: str) -> NodeCreate:
    instance, *ports = (number(w) for w in text.split())
    return NodeCreate(instance, tuple(ports))


def _meter_set(text: str) -> MeterSet:
    name, index, *rates = text.split()
    return MeterSet(name, number(index), _rates(rates))


def _meter_array_set(text: str) -> MeterSet:
    name, *rates = text.split()
    return MeterSet(name, None, _rates(rates))


_READERS: dict[str, Callable[[str], Statement]] = {
    "add": _add,
    "setdefault": _set_default,
    "remove": _remove,
    "member": _member,
    "group": _group,
    "value_set": _value_set,
    "packet": _packet,
    "expect": _expect,
    "wait": lambda _: Wait(),
    "no_packet": lambda _: Wait(nothing_else=True),
    "mirroring_add": _numbers(MirrorToPort, 2),
    "mirroring_add_mc": _numbers(MirrorToGroup, 2),
    "mirroring_delete": _numbers(MirrorDelete, 1),
    "mirroring_get": _numbers(lambda session: Show("mirroring", "", session), 1),
    "mc_mgrp_create": _numbers(GroupCreate, 1),
    "mc_node_create": _node_create,
    "mc_node_associate": _numbers(NodeAssociate, 2),
    "check_counter": _check_counter,
    "check_register": _check_register,
    "counter_read": _named(lambda name, index: Show("counter", name, index), 1),
    "counter_write": _named(CounterWrite, 3),
    "register_read": _named(lambda name, index: Show("register", name, index), 1),
    "register_write": _named(RegisterWrite, 2),
    "register_reset": _named(lambda name: RegisterWrite(name, None, 0), 0),
    "meter_get_rates": _named(lambda name, index: Show("meter", name, index), 1),
    "meter_set_rates": _meter_set,
    "meter_array_set_rates": _meter_array_set,
}
