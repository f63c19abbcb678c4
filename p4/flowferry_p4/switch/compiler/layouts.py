# SPDX-License-Identifier: Apache-2.0
"""How a program's objects other than tables lie in maps: the contract with the control plane.

Numbers are in the host's byte order. The C structs are in templates/state.c.j2 and tables.c.j2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Source
from ..model import ActionProfile, Const, FieldList, Meter, Program, Register
from .names import identifier
from .slots import slot_count

REPLICAS = 128
"""Copies that a multicast group or a clone session may make."""

GROUP_SLOTS = 256
"""Members of a selector's group, each counted as often as its weight."""

MEMBER, GROUP = 0, 1
"""What the entry of an indirect table names, in the place of its action."""


@dataclass(frozen=True)
class CounterLayout:
    name: str
    map: str
    size: int


@dataclass(frozen=True)
class MeterLayout:
    """`map`: index (of a direct meter: the entry's slot) to rates and bursts."""

    name: str
    map: str
    size: int
    unit: str  # packets or bytes
    table: str | None


@dataclass(frozen=True)
class RegisterLayout:
    """`map`: index to a u64, or a u128 where the register is wider."""

    name: str
    map: str
    size: int
    width: int


@dataclass(frozen=True)
class ProfileLayout:
    """`members_IDENT`: member to action and arguments; `groups_IDENT`: group to its members."""

    name: str
    ident: str
    size: int
    arguments: int
    selector: bool


@dataclass(frozen=True)
class DigestLayout:
    """Widths of what a digest reports, each in one u64, or two where it is wider."""

    number: int
    name: str
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Message:
    """The text of a log_msg, or the assertion that failed."""

    text: str
    source: Source | None


def counter_map(name: str) -> str:
    return f"counter_{identifier(name)}"


def meter_map(name: str) -> str:
    return f"meter_{identifier(name)}"


def register_map(name: str) -> str:
    return f"register_{identifier(name)}"


def lay_out_counters(program: Program) -> dict[str, CounterLayout]:
    return {
        c.name: CounterLayout(c.name, counter_map(c.name), max(c.size, 1))
        for c in program.counters.values()
        if c.direct_table is None
    }


def lay_out_meter(meter: Meter, slots: int) -> MeterLayout:
    """`slots`: entries of the table that a direct meter belongs to."""
    size = slots if meter.direct_table else max(meter.size, 1)
    return MeterLayout(meter.name, meter_map(meter.name), size, meter.unit, meter.direct_table)


def lay_out_register(register: Register) -> RegisterLayout:
    return RegisterLayout(
        register.name, register_map(register.name), max(register.size, 1), register.width
    )


def lay_out_profile(profile: ActionProfile, program: Program) -> ProfileLayout:
    """Its members may have any action of any table that uses it."""
    tables = [*program.ingress.tables.values(), *program.egress.tables.values()]
    actions = {a for t in tables if t.profile == profile.name for a in t.actions.values()}
    slots = [slot_count(program.actions[a].parameters) for a in actions]
    return ProfileLayout(
        name=profile.name,
        ident=identifier(profile.name),
        size=max(profile.size, 1),
        arguments=max([1, *slots]),
        selector=profile.selector,
    )


def lay_out_digest(fields: FieldList, program: Program) -> DigestLayout:
    widths = tuple(
        (v.width or 64) if isinstance(v, Const) else program.width(v) for v in fields.values
    )
    return DigestLayout(fields.id, fields.name, widths)
