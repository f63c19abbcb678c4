# SPDX-License-Identifier: Apache-2.0
"""A P4 program as the compiler takes it: everything that it can meet has a type here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from .errors import BadProgram, Source

MAX_WIDTH = 128
"""Widest field the generated C holds, in bits: an IPv6 address, a pair of BPF registers."""


# --- expressions --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Const:
    value: int
    width: int | None = None


@dataclass(frozen=True)
class Bool:
    value: bool


@dataclass(frozen=True)
class FieldRef:
    header: str
    field: str


@dataclass(frozen=True)
class Valid:
    """Validity of a header: `isValid()`, or the hidden field `$valid$`."""

    header: str


@dataclass(frozen=True)
class Param:
    """A parameter of the enclosing action."""

    index: int


@dataclass(frozen=True)
class Lookahead:
    offset: int
    width: int


@dataclass(frozen=True)
class Op:
    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class LastField:
    """A field of the element of a header stack that was extracted last; parser only."""

    stack: str
    field: str


@dataclass(frozen=True)
class LastIndex:
    """The index of that element."""

    stack: str


Expr: TypeAlias = Const | Bool | FieldRef | Valid | Param | Lookahead | LastField | LastIndex | Op


# --- what primitives take besides expressions ---------------------------------------------------
@dataclass(frozen=True)
class HeaderRef:
    name: str


@dataclass(frozen=True)
class CounterRef:
    name: str


@dataclass(frozen=True)
class CalculationRef:
    name: str


@dataclass(frozen=True)
class StackRef:
    name: str


@dataclass(frozen=True)
class MeterRef:
    name: str


@dataclass(frozen=True)
class RegisterRef:
    name: str


@dataclass(frozen=True)
class Text:
    """A string; only `log_msg` takes it."""

    text: str


@dataclass(frozen=True)
class Values:
    """A list of values; only `log_msg` takes it."""

    values: tuple[Expr, ...]


Reference: TypeAlias = (
    HeaderRef | StackRef | CounterRef | MeterRef | RegisterRef | CalculationRef | Text | Values
)
"""An operand that has no value of its own."""

Argument: TypeAlias = Expr | Reference

COMPARISONS = frozenset(["==", "!=", ">", ">=", "<", "<="])
CASTS = frozenset(["usat_cast", "sat_cast", "two_comp_mod"])
"""Casts of a value (left) to a width (right): saturating, saturating and signed, signed."""
BINARY = COMPARISONS | CASTS | {"+", "-", "*", "<<", ">>", "&", "|", "^", "and", "or"}
UNARY = frozenset(["not", "~", "-", "d2b", "b2d"])


@dataclass(frozen=True)
class Primitive:
    op: str
    arguments: tuple[Argument, ...]
    source: Source | None = None


# --- declarations -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Field:
    name: str
    width: int
    offset: int
    signed: bool = False


@dataclass(frozen=True)
class Header:
    """One header or metadata instance, with the fields of its type."""

    name: str
    fields: tuple[Field, ...]
    metadata: bool

    @property
    def bits(self) -> int:
        return sum(f.width for f in self.fields)

    @property
    def bytes(self) -> int:
        return self.bits // 8

    def field(self, name: str) -> Field:
        for f in self.fields:
            if f.name == name:
                return f
        raise BadProgram(f"header {self.name} has no field {name}")


@dataclass(frozen=True)
class Stack:
    """A header stack: the headers it is made of."""

    name: str
    headers: tuple[str, ...]


@dataclass(frozen=True)
class Extract:
    header: str


@dataclass(frozen=True)
class ExtractNext:
    """Extract into the next element of a header stack."""

    stack: str


@dataclass(frozen=True)
class Fail:
    """End parsing with an error, by name."""

    error: str


@dataclass(frozen=True)
class Assign:
    target: FieldRef
    value: Expr


@dataclass(frozen=True)
class Verify:
    condition: Expr
    error: Expr


@dataclass(frozen=True)
class Advance:
    bits: Expr


ParserOp: TypeAlias = Extract | ExtractNext | Fail | Assign | Verify | Advance | Primitive
SelectPart: TypeAlias = FieldRef | Valid | Lookahead | LastField


@dataclass(frozen=True)
class Transition:
    """Go to `state` (None: accept) when every part of the key, masked, has its value.

    With a value set: when the set has the key.
    """

    values: tuple[int, ...] | None  # None: default
    masks: tuple[int, ...] | None
    state: str | None
    value_set: str | None = None


@dataclass(frozen=True)
class ParseState:
    name: str
    ops: tuple[ParserOp, ...]
    key: tuple[SelectPart, ...]
    transitions: tuple[Transition, ...]


@dataclass(frozen=True)
class Parser:
    start: str
    states: Mapping[str, ParseState]


@dataclass(frozen=True)
class ValueSet:
    name: str
    size: int
    source: Source | None = None


@dataclass(frozen=True)
class ActionParameter:
    name: str
    width: int


@dataclass(frozen=True)
class Action:
    id: int
    name: str
    parameters: tuple[ActionParameter, ...]
    primitives: tuple[Primitive, ...]
    source: Source | None = None


@dataclass(frozen=True)
class KeyField:
    name: str
    match: str  # exact, lpm, ternary, range, optional
    target: FieldRef | Valid
    width: int
    mask: int | None = None


@dataclass(frozen=True)
class DefaultEntry:
    action: int
    data: tuple[int, ...]
    const: bool


@dataclass(frozen=True)
class ConstEntry:
    """An entry written in the program: (value, mask or prefix or end) for each key field.

    `rank` is BMv2's priority, where the lowest number wins.
    """

    match: tuple[tuple[int, int | None], ...]
    rank: int
    action: int
    data: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    name: str
    match: str
    key: tuple[KeyField, ...]
    size: int
    counted: bool
    actions: Mapping[str, int]  # name -> action id
    next_by_action: Mapping[str, str | None]
    hit_next: str | None
    miss_next: str | None
    by_hit: bool
    default: DefaultEntry | None
    default_next: str | None
    entries: tuple[ConstEntry, ...]
    profile: str | None = None
    timed: bool = False
    meter: str | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Conditional:
    name: str
    condition: Expr
    true_next: str | None
    false_next: str | None
    source: Source | None = None


@dataclass(frozen=True)
class ActionProfile:
    """Actions that entries refer to; a selector picks one of a group by a hash of `inputs`."""

    name: str
    size: int
    algorithm: str | None  # None: no selector
    inputs: tuple[FieldRef | Valid, ...]
    source: Source | None = None

    @property
    def selector(self) -> bool:
        return self.algorithm is not None


@dataclass(frozen=True)
class Pipeline:
    name: str
    first: str | None
    tables: Mapping[str, Table]
    conditionals: Mapping[str, Conditional]
    profiles: Mapping[str, ActionProfile] = field(default_factory=dict)


@dataclass(frozen=True)
class Calculation:
    name: str
    algorithm: str
    inputs: tuple[Const | FieldRef, ...]
    with_payload: bool
    source: Source | None = None


@dataclass(frozen=True)
class Checksum:
    target: FieldRef
    calculation: str
    condition: Expr | None
    update: bool
    verify: bool
    source: Source | None = None


@dataclass(frozen=True)
class Counter:
    name: str
    size: int
    direct_table: str | None


@dataclass(frozen=True)
class Meter:
    name: str
    size: int
    unit: str  # packets or bytes
    direct_table: str | None
    target: FieldRef | None  # what a direct meter writes its colour to
    source: Source | None = None


@dataclass(frozen=True)
class Register:
    name: str
    size: int
    width: int
    source: Source | None = None


@dataclass(frozen=True)
class FieldList:
    """Fields that a digest reports, or that survive when a packet is copied or starts anew."""

    id: int
    name: str
    values: tuple[Const | FieldRef | Valid, ...]


@dataclass(frozen=True)
class Program:
    name: str
    headers: Mapping[str, Header]
    parser: Parser
    actions: Mapping[int, Action]
    ingress: Pipeline
    egress: Pipeline
    deparser: tuple[str, ...]
    calculations: Mapping[str, Calculation]
    checksums: tuple[Checksum, ...]
    counters: Mapping[str, Counter]
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    value_sets: Mapping[str, ValueSet] = field(default_factory=dict)
    meters: Mapping[str, Meter] = field(default_factory=dict)
    registers: Mapping[str, Register] = field(default_factory=dict)
    digests: Mapping[int, FieldList] = field(default_factory=dict)
    field_lists: Mapping[int, FieldList] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)

    def width(self, ref: FieldRef | Valid) -> int:
        if isinstance(ref, Valid):
            return 1
        return self.header(ref.header).field(ref.field).width

    def header(self, name: str) -> Header:
        try:
            return self.headers[name]
        except KeyError:
            raise BadProgram(f"the program names header {name} but does not declare it") from None
