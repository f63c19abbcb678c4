# SPDX-License-Identifier: Apache-2.0
"""P4 primitives (the statements of actions and parser states) to C statements."""

from __future__ import annotations

from ..errors import Refused
from ..model import CalculationRef, Const, Expr, FieldRef, Primitive, Program, StackRef
from .expressions import Scope
from .externs import Externs
from .names import Names, hexadecimal, is_wide
from .operands import Operands

DROP_PORT = 511
"""The port number that means "drop", as in BMv2."""

NOT_HERE = {
    "assign_VL": "varbit field",
    "assign_union": "header union",
    "assign_union_stack": "header union stack",
    "assign_header_stack": "assignment of a whole header stack",
}
"""Primitives that BMv2 has and this target has not, by the name a P4 programmer knows."""


class Primitives(Operands):
    """Compiles the primitives of one program."""

    def __init__(self, program: Program, names: Names) -> None:
        super().__init__(program, names)
        self.externs = Externs(program, names)
        self.handlers = {
            **self.externs.handlers,
            "assign": self._assign,
            "modify_field": self._assign,
            "assign_header": self._assign_header,
            "copy_header": self._assign_header,
            "add_header": self._add_header,
            "remove_header": self._remove_header,
            "push": self._push,
            "pop": self._pop,
            "mark_to_drop": self._drop,
            "drop": self._drop,
            "exit": lambda primitive, scope: ["return 1;"],
            "no_op": lambda primitive, scope: [],
        }

    def compile(self, primitive: Primitive, scope: Scope) -> list[str]:
        handler = self.handlers.get(primitive.op)
        if handler is None:
            name = NOT_HERE.get(primitive.op, primitive.op)
            raise Refused(name, primitive.source)
        return handler(primitive, scope)

    def _assign(self, primitive: Primitive, scope: Scope) -> list[str]:
        target = self.field(primitive, 0)
        wide = is_wide(self.program.width(target))
        return [self.assign(target, self.value(primitive, 1, scope, wide))]

    def _assign_header(self, primitive: Primitive, scope: Scope) -> list[str]:
        return self._copy(self.header(primitive, 0), self.header(primitive, 1))

    def _copy(self, target: str, origin: str) -> list[str]:
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
        name = self.header(primitive, 0)
        zero = "".join(
            f" {self.names.field(FieldRef(name, f.name))} = 0;"
            for f in self.program.header(name).fields
        )
        valid = self.names.valid(name)
        return [f"if (!{valid}) {{{zero} {valid} = 1; p->reshaped = 1; }}"]

    def _remove_header(self, primitive: Primitive, scope: Scope) -> list[str]:
        valid = self.names.valid(self.header(primitive, 0))
        return [f"if ({valid}) {{ {valid} = 0; p->reshaped = 1; }}"]

    # header stacks: elements move, and those that nothing moves to are invalid
    def _push(self, primitive: Primitive, scope: Scope) -> list[str]:
        headers, count = self._stack(primitive)
        moves = [
            statement
            for index in range(len(headers) - 1, count - 1, -1)
            for statement in self._copy(headers[index], headers[index - count])
        ]
        return [*moves, *self._invalid(headers[:count])]

    def _pop(self, primitive: Primitive, scope: Scope) -> list[str]:
        headers, count = self._stack(primitive)
        kept = max(len(headers) - count, 0)
        moves = [
            statement
            for index in range(kept)
            for statement in self._copy(headers[index], headers[index + count])
        ]
        return [*moves, *self._invalid(headers[kept:])]

    def _stack(self, primitive: Primitive) -> tuple[tuple[str, ...], int]:
        count = primitive.arguments[1]
        if not isinstance(count, Const):
            raise Refused(f"{primitive.op} by a computed number", primitive.source)
        stack = self.program.stacks[self.reference(primitive, 0, StackRef).name]
        return stack.headers, count.value

    def _invalid(self, headers: tuple[str, ...]) -> list[str]:
        return [*(f"{self.names.valid(h)} = 0;" for h in headers), "p->reshaped = 1;"]

    def _drop(self, primitive: Primitive, scope: Scope) -> list[str]:
        dropped = {"egress_spec": DROP_PORT, "mcast_grp": 0}
        present = {f.name for f in self.program.header("standard_metadata").fields}
        return [
            self.assign(FieldRef("standard_metadata", name), hexadecimal(value))
            for name, value in dropped.items()
            if name in present
        ]


def used_calculations(program: Program) -> list[str]:
    """Calculations that a hash uses; checksums have their own way."""
    found: list[str] = []
    for action in program.actions.values():
        for primitive in action.primitives:
            for argument in primitive.arguments:
                if isinstance(argument, CalculationRef) and argument.name not in found:
                    found.append(argument.name)
    return found


def jump_target(value: Expr, primitive: Primitive) -> int:
    if not isinstance(value, Const):
        raise Refused("a jump to a computed place", primitive.source)
    return value.value
