# SPDX-License-Identifier: Apache-2.0
"""P4 primitives (the statements of actions and parser states) to C statements."""

from __future__ import annotations

from collections.abc import Callable

from ..bmv2_json import (
    CalculationRef,
    Const,
    CounterRef,
    Expr,
    FieldRef,
    HeaderRef,
    Primitive,
    Program,
    Text,
)
from ..errors import BadProgram, Refused
from .expressions import Scope, compile_expression
from .names import Names, hexadecimal, identifier, is_wide, mask

DROP_PORT = 511
"""The port number that means "drop", as in BMv2."""

MULTICAST_GROUP = FieldRef("standard_metadata", "mcast_grp")

NOT_HERE = {
    "clone_ingress_pkt_to_egress": "clone",
    "clone_egress_pkt_to_egress": "clone",
    "resubmit": "resubmit",
    "recirculate": "recirculate",
    "generate_digest": "digest",
    "execute_meter": "meter",
    "register_read": "register",
    "register_write": "register",
    "truncate": "truncate",
    "push": "header stack",
    "pop": "header stack",
    "assign_VL": "varbit field",
    "assign_union": "header union",
    "assign_header_stack": "header stack",
    "assert": "assert",
    "assume": "assume",
}
"""Primitives that BMv2 has and this target has not, by the name a P4 programmer knows."""


class Primitives:
    """Compiles the primitives of one program."""

    def __init__(self, program: Program, names: Names) -> None:
        self.program = program
        self.names = names
        self.handlers: dict[str, Callable[[Primitive, Scope], list[str]]] = {
            "assign": self._assign,
            "modify_field": self._assign,
            "assign_header": self._assign_header,
            "copy_header": self._assign_header,
            "add_header": self._add_header,
            "remove_header": self._remove_header,
            "mark_to_drop": self._drop,
            "drop": self._drop,
            "count": self._count,
            "exit": lambda primitive, scope: ["return 1;"],
            "modify_field_with_hash_based_offset": self._hash,
            "modify_field_rng_uniform": self._random,
            "log_msg": lambda primitive, scope: [],
            "no_op": lambda primitive, scope: [],
        }

    def compile(self, primitive: Primitive, scope: Scope) -> list[str]:
        handler = self.handlers.get(primitive.op)
        if handler is None:
            name = NOT_HERE.get(primitive.op, primitive.op)
            raise Refused(name, primitive.source)
        return handler(primitive, scope)

    # operands
    def assign(self, target: FieldRef, value: str) -> str:
        """A statement that stores a number into a field, cut to the field's width."""
        width = self.program.width(target)
        return f"{self.names.field(target)} = ({value}) & {hexadecimal(mask(width))};"

    def _field(self, primitive: Primitive, position: int) -> FieldRef:
        argument = primitive.arguments[position]
        if not isinstance(argument, FieldRef):
            raise Refused(f"{primitive.op} to something that is not a field", primitive.source)
        return argument

    def _header(self, primitive: Primitive, position: int) -> str:
        argument = primitive.arguments[position]
        if not isinstance(argument, HeaderRef):
            raise Refused(f"{primitive.op} of something that is not a header", primitive.source)
        return argument.name

    def _value(self, primitive: Primitive, position: int, scope: Scope, wide: bool = False) -> str:
        argument = primitive.arguments[position]
        if isinstance(argument, (HeaderRef, CounterRef, CalculationRef, Text)):
            raise Refused(f"this operand of {primitive.op}", primitive.source)
        return compile_expression(argument, scope, wide)

    # one method a primitive
    def _assign(self, primitive: Primitive, scope: Scope) -> list[str]:
        target = self._field(primitive, 0)
        if target == MULTICAST_GROUP and not _is_zero(primitive.arguments[1]):
            raise Refused("multicast", primitive.source)
        wide = is_wide(self.program.width(target))
        return [self.assign(target, self._value(primitive, 1, scope, wide))]

    def _assign_header(self, primitive: Primitive, scope: Scope) -> list[str]:
        target, origin = self._header(primitive, 0), self._header(primitive, 1)
        fields = zip(
            self.program.header(target).fields, self.program.header(origin).fields, strict=True
        )
        copies = [
            f"{self.names.field(FieldRef(target, t.name))}"
            f" = {self.names.field(FieldRef(origin, o.name))};"
            for t, o in fields
        ]
        if self.program.header(target).metadata:
            return copies
        valid = f"{self.names.valid(target)} = {self.names.valid(origin)};"
        return [*copies, valid, "p->reshaped = 1;"]

    def _add_header(self, primitive: Primitive, scope: Scope) -> list[str]:
        name = self._header(primitive, 0)
        zero = "".join(
            f" {self.names.field(FieldRef(name, f.name))} = 0;"
            for f in self.program.header(name).fields
        )
        valid = self.names.valid(name)
        return [f"if (!{valid}) {{{zero} {valid} = 1; p->reshaped = 1; }}"]

    def _remove_header(self, primitive: Primitive, scope: Scope) -> list[str]:
        valid = self.names.valid(self._header(primitive, 0))
        return [f"if ({valid}) {{ {valid} = 0; p->reshaped = 1; }}"]

    def _drop(self, primitive: Primitive, scope: Scope) -> list[str]:
        target = FieldRef("standard_metadata", "egress_spec")
        return [self.assign(target, hexadecimal(DROP_PORT))]

    def _count(self, primitive: Primitive, scope: Scope) -> list[str]:
        counter = primitive.arguments[0]
        if not isinstance(counter, CounterRef):
            raise Refused("count of something that is not a counter", primitive.source)
        index = self._value(primitive, 1, scope)
        return [f"count(&{counter_map(counter.name)}, {index}, skb, p);"]

    def _hash(self, primitive: Primitive, scope: Scope) -> list[str]:
        target = self._field(primitive, 0)
        calculation = primitive.arguments[2]
        if not isinstance(calculation, CalculationRef):
            raise BadProgram(f"{primitive.source}: a hash without a calculation")
        base, size = self._value(primitive, 1, scope), self._value(primitive, 3, scope)
        value = f"hash_{identifier(calculation.name)}(p) % at_least_1({size}) + {base}"
        return [self.assign(target, value)]

    def _random(self, primitive: Primitive, scope: Scope) -> list[str]:
        low, high = self._value(primitive, 1, scope), self._value(primitive, 2, scope)
        value = f"{low} + random64() % at_least_1({high} - {low} + 1)"
        return [self.assign(self._field(primitive, 0), value)]


def counter_map(name: str) -> str:
    return f"counter_{identifier(name)}"


def used_calculations(program: Program) -> list[str]:
    """Calculations that a hash uses; checksums have their own way."""
    found: list[str] = []
    for action in program.actions.values():
        for primitive in action.primitives:
            for argument in primitive.arguments:
                if isinstance(argument, CalculationRef) and argument.name not in found:
                    found.append(argument.name)
    return found


def _is_zero(value: object) -> bool:
    return isinstance(value, Const) and value.value == 0


def jump_target(value: Expr, primitive: Primitive) -> int:
    if not isinstance(value, Const):
        raise Refused("a jump to a computed place", primitive.source)
    return value.value
