# SPDX-License-Identifier: Apache-2.0
"""Primitives that reach beyond the packet's headers: counters, meters, registers, copies, reports.

Maps and their layouts are named here and described to the control plane by compiler.layouts.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import BadProgram
from ..model import (
    CalculationRef,
    Const,
    CounterRef,
    Expr,
    FieldList,
    MeterRef,
    Primitive,
    Program,
    RegisterRef,
    Text,
    Values,
)
from .expressions import Scope, compile_expression
from .layouts import Message, counter_map, meter_map, register_map
from .names import Names, hexadecimal, identifier, is_wide
from .operands import Operands

DIGEST, LOG, ASSERTION = range(3)
"""Kinds of records in the ring buffer `events`."""


class Externs(Operands):
    """Compiles calls of extern functions and methods."""

    def __init__(self, program: Program, names: Names) -> None:
        super().__init__(program, names)
        self.messages: list[Message] = []
        self.handlers = {
            "count": self._count,
            "execute_meter": self._meter,
            "register_read": self._register_read,
            "register_write": self._register_write,
            "modify_field_with_hash_based_offset": self._hash,
            "modify_field_rng_uniform": self._random,
            "generate_digest": self._digest,
            "clone_ingress_pkt_to_egress": self._clone,
            "clone_egress_pkt_to_egress": self._clone,
            "resubmit": self._again,
            "recirculate": self._again,
            "truncate": self._truncate,
            "assert": self._assert,
            "assume": self._assert,
            "log_msg": self._log,
        }

    # state
    def _count(self, primitive: Primitive, scope: Scope) -> list[str]:
        counter = self.reference(primitive, 0, CounterRef)
        index = self.value(primitive, 1, scope)
        return [f"count(&{counter_map(counter.name)}, {index}, skb, p);"]

    def _meter(self, primitive: Primitive, scope: Scope) -> list[str]:
        meter = self.program.meters[self.reference(primitive, 0, MeterRef).name]
        name = meter_map(meter.name)
        amount = "packets(skb)" if meter.unit == "packets" else "p->length"
        index = self.value(primitive, 1, scope)
        colour = f"meter(&{name}, &state_of_{name}, {index}, {amount})"
        return [self.assign(self.field(primitive, 2), colour)]

    def _register_read(self, primitive: Primitive, scope: Scope) -> list[str]:
        register = self.program.registers[self.reference(primitive, 1, RegisterRef).name]
        target = self.field(primitive, 0)
        kind = "u128" if is_wide(register.width) else "u64"
        return [
            f"{{ u64 index = {self.value(primitive, 2, scope)}; u32 at = index;",
            f"  {kind} *cell = bpf_map_lookup_elem(&{register_map(register.name)}, &at);",
            f"  if (cell && index <= 0xffffffff) {self.assign(target, '*cell')} }}",
        ]

    def _register_write(self, primitive: Primitive, scope: Scope) -> list[str]:
        register = self.program.registers[self.reference(primitive, 0, RegisterRef).name]
        wide = is_wide(register.width)
        value = self.value(primitive, 2, scope, wide)
        mask = hexadecimal((1 << register.width) - 1)
        return [
            f"{{ u64 index = {self.value(primitive, 1, scope)}; u32 at = index;",
            f"  {'u128' if wide else 'u64'} *cell ="
            f" bpf_map_lookup_elem(&{register_map(register.name)}, &at);",
            f"  if (cell && index <= 0xffffffff) *cell = ({value}) & {mask}; }}",
        ]

    # values
    def _hash(self, primitive: Primitive, scope: Scope) -> list[str]:
        calculation = self.reference(primitive, 2, CalculationRef)
        base, size = self.value(primitive, 1, scope), self.value(primitive, 3, scope)
        value = f"hash_{identifier(calculation.name)}(p) % at_least_1({size}) + {base}"
        return [self.assign(self.field(primitive, 0), value)]

    def _random(self, primitive: Primitive, scope: Scope) -> list[str]:
        low, high = self.value(primitive, 1, scope), self.value(primitive, 2, scope)
        store = self.assign(self.field(primitive, 0), "low + (span + 1 ? any % (span + 1) : any)")
        return [
            f"{{ u64 low = {low}, span = {high} - low, any = random64();",
            f"  if (low + span >= low) {store} }}",
        ]

    # what becomes of the packet
    def _clone(self, primitive: Primitive, scope: Scope) -> list[str]:
        session = self.value(primitive, 0, scope)
        fields = self._list_number(primitive, 1)
        return [f"p->clone = 1; p->clone_session = {session}; p->clone_fields = {fields};"]

    def _again(self, primitive: Primitive, scope: Scope) -> list[str]:
        return [f"p->{primitive.op} = 1; p->kept_fields = {self._list_number(primitive, 0)};"]

    def _truncate(self, primitive: Primitive, scope: Scope) -> list[str]:
        size = self.value(primitive, 0, scope)
        return [f"p->limit = shortest(p->limit, {size});"]

    def _list_number(self, primitive: Primitive, position: int) -> int:
        if len(primitive.arguments) <= position:
            return 0
        number = primitive.arguments[position]
        if not isinstance(number, Const):
            raise BadProgram(f"{primitive.source}: {primitive.op} names no list of fields")
        return number.value

    # reports
    def _digest(self, primitive: Primitive, scope: Scope) -> list[str]:
        number = self._list_number(primitive, 1)
        if number not in self.program.digests:
            raise BadProgram(f"{primitive.source}: a digest of fields that are not declared")
        return [f"p->digest = {number};"]

    def _assert(self, primitive: Primitive, scope: Scope) -> list[str]:
        condition = self.value(primitive, 0, scope)
        fragment = primitive.source.fragment if primitive.source else primitive.op
        told = " ".join(self._report(ASSERTION, fragment, (), primitive, scope))
        return [f"if (!({condition})) {{ {told} p->failed = 1; {scope.abort} }}"]

    def _log(self, primitive: Primitive, scope: Scope) -> list[str]:
        text = self.reference(primitive, 0, Text).text
        values: tuple[Expr, ...] = ()
        if len(primitive.arguments) > 1:
            values = self.reference(primitive, 1, Values).values
        return self._report(LOG, text, values, primitive, scope)

    def _report(
        self,
        kind: int,
        text: str,
        values: Iterable[Expr],
        primitive: Primitive,
        scope: Scope,
    ) -> list[str]:
        """A record for the control plane, which knows the text by the message's number."""
        compiled = [compile_expression(v, scope) for v in values]
        number = len(self.messages)
        self.messages.append(Message(text, primitive.source))
        return report(kind, number, compiled)

    def digest(self, fields: FieldList) -> list[str]:
        """Statements that report the fields of a digest."""
        scope = Scope(self.names)
        compiled = []
        for value in fields.values:
            text = compile_expression(value, scope)
            if not isinstance(value, Const) and is_wide(self.program.width(value)):
                compiled.append(f"(u64)({text} >> 64)")
            compiled.append(f"(u64){text}")
        return report(DIGEST, fields.id, compiled)


def report(kind: int, number: int, values: list[str]) -> list[str]:
    size = max(1, len(values))
    listed = ", ".join(values) or "0"
    return [
        f"{{ struct {{ u32 kind, number; u64 value[{size}]; }} event ="
        f" {{ {kind}, {number}, {{ {listed} }} }};",
        "  bpf_ringbuf_output(&events, &event, sizeof(event), 0); }",
    ]
