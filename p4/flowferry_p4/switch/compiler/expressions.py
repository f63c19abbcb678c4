# SPDX-License-Identifier: Apache-2.0
"""P4 expressions to C expressions.

BMv2 computes with unlimited precision and p4c masks every result to its width, so the C may compute
modulo 2**64, or modulo 2**128 where an operand or the result is wider: the mask makes both agree.
Where they would not (a shift by the register's width or more, saturation) the C says so explicitly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..bmv2_json import COMPARISONS, Bool, Const, Expr, FieldRef, Lookahead, Op, Param, Valid
from ..errors import Refused, Source
from .names import Names, Placed, hexadecimal, is_wide, mask

PLAIN = {"+", "-", "*", "&", "|", "^"}
NARROW = COMPARISONS | {"and", "or", "not", "d2b", "b2d", "usat_cast"}
"""Operations whose result is not as wide as their operands."""

WIDE_FUNCTIONS = {"<<": "shift_left", ">>": "shift_right", "*": "multiply"}
"""What BPF cannot do with a u128, and a function of the runtime does."""

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
    parameter: Callable[[int], Placed] | None = None
    lookahead: Callable[[Lookahead], str] | None = None


def compile_expression(expression: Expr, scope: Scope, wide: bool = False) -> str:
    """C text of an expression; its value is 0 or 1 where the expression is a boolean.

    Its type is u64, or u128 where an operand needs that or `wide` asks for it.
    """
    return _compile(expression, scope, wide or _needs_wide(expression, scope))


def _needs_wide(expression: Expr, scope: Scope) -> bool:
    """Whether a value of more than 64 bits takes part in what the expression computes."""
    match expression:
        case Const(value):
            return is_wide(value.bit_length())
        case FieldRef():
            return is_wide(scope.names.width(expression))
        case Param(index):
            return is_wide(_parameter(index, scope)[1])
        case Lookahead(_, width):
            return is_wide(width)
        case Op("?", (_, left, right)):
            return _needs_wide(left, scope) or _needs_wide(right, scope)
        case Op(op, operands) if op not in NARROW:
            return any(_needs_wide(o, scope) for o in operands)
    return False


def _parameter(index: int, scope: Scope) -> Placed:
    if scope.parameter is None:
        raise Refused("an action parameter outside of an action", scope.source)
    return scope.parameter(index)


def _compile(expression: Expr, scope: Scope, wide: bool) -> str:
    cast = "(u128)" if wide else "(u64)"
    match expression:
        case Const(value):
            return hexadecimal(value, wide)
        case Bool(value):
            return "1ULL" if value else "0ULL"
        case FieldRef(header, field):
            if header == "standard_metadata" and field in UNKNOWN_METADATA:
                raise Refused(
                    f"standard_metadata.{field} ({UNKNOWN_METADATA[field]})", scope.source
                )
            return f"{cast}{scope.names.field(expression)}"
        case Valid():
            return f"(u64){scope.names.field(expression)}"
        case Param(index):
            text, _ = _parameter(index, scope)
            return f"(u128){text}" if wide else text
        case Lookahead():
            if scope.lookahead is None:
                raise Refused("lookahead outside of the parser", scope.source)
            return f"{cast}{scope.lookahead(expression)}"
        case Op("usat_cast", (value, width)):
            return _saturate(value, width, scope)
        case Op("?", (condition, left, right)):
            chosen = compile_expression(condition, scope)
            return f"({chosen} ? {_compile(left, scope, wide)} : {_compile(right, scope, wide)})"
        case Op(op, operands) if op in NARROW:
            # What is compared or tested is as wide as it needs, whatever becomes of the answer.
            inner = any(_needs_wide(o, scope) for o in operands)
            return _operation(op, [_compile(o, scope, inner) for o in operands], inner)
        case Op(op, operands):
            return _operation(op, [_compile(o, scope, wide) for o in operands], wide)


def _operation(op: str, operands: list[str], wide: bool) -> str:
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
    if op in WIDE_FUNCTIONS and wide:
        return f"{WIDE_FUNCTIONS[op]}({left}, {right})"
    if op in PLAIN:
        return f"({left} {op} {right})"
    if op in ("<<", ">>"):
        return f"({right} < 64 ? {left} {op} ({right} & 63) : 0)"
    return f"(u64)(({left}) {'&&' if op == 'and' else '||'} ({right}))"


def _saturate(value: Expr, width: Expr, scope: Scope) -> str:
    """Saturating addition and subtraction: exact in 64 signed bits up to a width of 62."""
    if not isinstance(width, Const) or width.value > 62 or _needs_wide(value, scope):
        raise Refused("saturating arithmetic on more than 62 bits", scope.source)
    text = compile_expression(value, scope)
    return f"saturate({text}, {hexadecimal(mask(width.value))})"


def constant(expression: Expr) -> int | None:
    """The value of an expression that is a constant, else None."""
    return expression.value if isinstance(expression, Const) else None
