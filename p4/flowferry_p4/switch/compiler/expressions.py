# SPDX-License-Identifier: Apache-2.0
"""P4 expressions to C expressions.

BMv2 computes with unlimited precision and p4c masks every result to its width, so the C may compute
modulo 2**64: the mask makes both agree. Where they would not (a shift by 64 or more, saturation)
the C says so explicitly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..bmv2_json import COMPARISONS, Bool, Const, Expr, FieldRef, Lookahead, Op, Param, Valid
from ..errors import Refused, Source
from .names import Names, hexadecimal, mask

PLAIN = {"+", "-", "*", "&", "|", "^"}

UNKNOWN_METADATA = {
    "enq_timestamp": "queueing metadata",
    "enq_qdepth": "queueing metadata",
    "deq_timedelta": "queueing metadata",
    "deq_qdepth": "queueing metadata",
    "egress_rid": "multicast",
}
"""Standard metadata that would read as zero here, for the reason in the value."""


@dataclass(frozen=True)
class Scope:
    """What an expression may refer to where it stands."""

    names: Names
    source: Source | None = None
    parameter: Callable[[int], str] | None = None
    lookahead: Callable[[Lookahead], str] | None = None


def compile_expression(expression: Expr, scope: Scope) -> str:
    """C text of an expression; its value is a u64, 0 or 1 where the expression is a boolean."""
    match expression:
        case Const(value):
            return hexadecimal(value)
        case Bool(value):
            return "1ULL" if value else "0ULL"
        case FieldRef(header, field):
            if header == "standard_metadata" and field in UNKNOWN_METADATA:
                raise Refused(
                    f"standard_metadata.{field} ({UNKNOWN_METADATA[field]})", scope.source
                )
            return f"(u64){scope.names.field(expression)}"
        case Valid():
            return f"(u64){scope.names.field(expression)}"
        case Param(index):
            if scope.parameter is None:
                raise Refused("an action parameter outside of an action", scope.source)
            return scope.parameter(index)
        case Lookahead():
            if scope.lookahead is None:
                raise Refused("lookahead outside of the parser", scope.source)
            return scope.lookahead(expression)
        case Op("usat_cast", (value, width)):
            return _saturate(value, width, scope)
        case Op(op, operands):
            return _operation(op, [compile_expression(o, scope) for o in operands])


def _operation(op: str, operands: list[str]) -> str:
    if op == "?":
        condition, left, right = operands
        return f"({condition} ? {left} : {right})"
    if len(operands) == 1:
        (value,) = operands
        return {
            "not": f"(u64)!({value})",
            "~": f"(~({value}))",
            "-": f"(-({value}))",
            "d2b": f"(u64)(({value}) != 0)",
            "b2d": f"({value})",
        }[op]
    left, right = operands
    if op in COMPARISONS:
        return f"(u64)({left} {op} {right})"
    if op in PLAIN:
        return f"({left} {op} {right})"
    if op in ("<<", ">>"):
        return f"({right} < 64 ? {left} {op} ({right} & 63) : 0)"
    return f"(u64)(({left}) {'&&' if op == 'and' else '||'} ({right}))"


def _saturate(value: Expr, width: Expr, scope: Scope) -> str:
    """Saturating addition and subtraction: exact in 64 signed bits up to a width of 62."""
    if not isinstance(width, Const) or width.value > 62:
        raise Refused("saturating arithmetic on more than 62 bits", scope.source)
    text = compile_expression(value, scope)
    return f"saturate({text}, {hexadecimal(mask(width.value))})"


def constant(expression: Expr) -> int | None:
    """The value of an expression that is a constant, else None."""
    return expression.value if isinstance(expression, Const) else None
