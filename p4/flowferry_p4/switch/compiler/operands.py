# SPDX-License-Identifier: Apache-2.0
"""The operands of primitives, as the code that compiles primitives asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from ..errors import Refused
from ..model import FieldRef, HeaderRef, Primitive, Program, Reference
from .expressions import Scope, compile_expression
from .names import Names, hexadecimal, mask

Handler = Callable[[Primitive, Scope], list[str]]
R = TypeVar("R", bound=Reference)


class Operands:
    """Base of what compiles primitives of one program."""

    handlers: Mapping[str, Handler]

    def __init__(self, program: Program, names: Names) -> None:
        self.program = program
        self.names = names

    def assign(self, target: FieldRef, value: str) -> str:
        """Statements, in one line, that store a number into a field, cut to the field's width."""
        width = self.program.width(target)
        store = f"{self.names.field(target)} = ({value}) & {hexadecimal(mask(width))};"
        if self.program.header(target.header).metadata:
            return store
        return f"{store} {self.names.changed(target.header)} = 1;"

    def field(self, primitive: Primitive, position: int) -> FieldRef:
        argument = primitive.arguments[position]
        if not isinstance(argument, FieldRef):
            raise Refused(f"{primitive.op} to something that is not a field", primitive.source)
        return argument

    def header(self, primitive: Primitive, position: int) -> str:
        return self.reference(primitive, position, HeaderRef).name

    def reference(self, primitive: Primitive, position: int, kind: type[R]) -> R:
        """An operand that names something of the program."""
        argument = primitive.arguments[position]
        if not isinstance(argument, kind):
            raise Refused(f"operand {position + 1} of {primitive.op}", primitive.source)
        return argument

    def value(self, primitive: Primitive, position: int, scope: Scope, wide: bool = False) -> str:
        argument = primitive.arguments[position]
        if isinstance(argument, Reference):
            raise Refused(f"operand {position + 1} of {primitive.op}", primitive.source)
        return compile_expression(argument, scope, wide)
