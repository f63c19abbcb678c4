# SPDX-License-Identifier: Apache-2.0
"""P4 expressions to C expressions.

BMv2 computes with unlimited precision and p4c masks every result to its width, so the C may compute
modulo 2**64, or modulo 2**128 where an operand or the result is wider: the mask makes both agree.
Where they would not (a shift by the register's width or more, saturation, signed values) the C says
so explicitly. A signed value is sign-extended to the register wherever it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Refused, Source
from ..model import (
    CASTS,
    COMPARISONS,
    Bool,
    Const,
    Expr,
    FieldRef,
    LastField,
    LastIndex,
    Lookahead,
    Op,
    Param,
    Valid,
)
from .names import Names, Placed, hexadecimal, is_wide

PLAIN = {"+", "-", "*", "&", "|", "^"}
NARROW = COMPARISONS | CASTS | {"and", "or", "not", "d2b", "b2d"}
"""Operations whose result is not as wide as their operands."""

WIDE_FUNCTIONS = {"<<": "shift_left", ">>": "shift_right", "*": "multiply"}
"""What BPF cannot do with a u128, and a function of the runtime does."""


@dataclass(frozen=True)
class Scope:
    """What an expression may refer to where it stands."""

    names: Names
    source: Source | None = None
    parameter: Callable[[int], Placed] | None = None
    lookahead: Callable[[Lookahead], str] | None = None
    abort: str = "return 1;"
    """How the code at hand ends when an assertion fails."""


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
        case Op(op, (_, Const(width))) if op in CASTS:
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


def _is_signed(expression: Expr, scope: Scope) -> bool:
    """Whether the value may be negative, as BMv2 computes it."""
    match expression:
        case Const(value):
            return value < 0
        case FieldRef():
            return scope.names.signed(expression)
        case Op("two_comp_mod" | "sat_cast"):
            return True
        case Op("&", operands):
            return all(_is_signed(o, scope) for o in operands)
        case Op("<<" | ">>", (left, _)):
            return _is_signed(left, scope)
        case Op("?", (_, left, right)):
            return _is_signed(left, scope) or _is_signed(right, scope)
        case Op("+" | "*" | "|" | "^" | "~" | "-", operands):
            return any(_is_signed(o, scope) for o in operands)
    return False


def _compile(expression: Expr, scope: Scope, wide: bool) -> str:
    cast = "(u128)" if wide else "(u64)"
    match expression:
        case Const(value):
            return hexadecimal(value, wide)
        case Bool(value):
            return "1ULL" if value else "0ULL"
        case FieldRef():
            text = scope.names.field(expression)
            if scope.names.signed(expression):
                return _extend(text, scope.names.width(expression), wide)
            return f"{cast}{text}"
        case Valid():
            return f"(u64){scope.names.field(expression)}"
        case Param(index):
            text, _ = _parameter(index, scope)
            return f"(u128){text}" if wide else text
        case Lookahead():
            if scope.lookahead is None:
                raise Refused("lookahead outside of the parser", scope.source)
            return f"{cast}{scope.lookahead(expression)}"
        case LastField() | LastIndex():
            raise Refused("the last element of a header stack outside of the parser", scope.source)
        case Op(op, (value, width)) if op in CASTS:
            return _cast(op, value, width, scope, wide)
        case Op("?", (condition, left, right)):
            chosen = compile_expression(condition, scope)
            return f"({chosen} ? {_compile(left, scope, wide)} : {_compile(right, scope, wide)})"
        case Op(op, operands) if op in NARROW:
            # What is compared or tested is as wide as it needs, whatever becomes of the answer.
            inner = any(_needs_wide(o, scope) for o in operands)
            signed = any(_is_signed(o, scope) for o in operands)
            return _operation(op, [_compile(o, scope, inner) for o in operands], inner, signed)
        case Op(op, operands):
            signed = _is_signed(operands[0], scope)
            return _operation(op, [_compile(o, scope, wide) for o in operands], wide, signed)


def _extend(text: str, width: int, wide: bool) -> str:
    """The value of the lowest `width` bits, as two's complement."""
    if is_wide(width):
        return f"((u128)((s128)((u128){text} << {128 - width}) >> {128 - width}))"
    value = f"((s64)((u64){text} << {64 - width}) >> {64 - width})"
    return f"((u128)(s128){value})" if wide else f"((u64){value})"


def _operation(op: str, operands: list[str], wide: bool, signed: bool) -> str:
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
        kind = ("(s128)" if wide else "(s64)") if signed else ""
        return f"(u64)({kind}{left} {op} {kind}{right})"
    if op == ">>" and signed:  # a negative value is filled with ones
        return f"{'signed_shift_right' if wide else 'signed_shift'}({left}, {right})"
    if op in WIDE_FUNCTIONS and wide:
        return f"{WIDE_FUNCTIONS[op]}({left}, {right})"
    if op in PLAIN:
        return f"({left} {op} {right})"
    if op in ("<<", ">>"):
        return f"({right} < 64 ? {left} {op} ({right} & 63) : 0)"
    return f"(u64)(({left}) {'&&' if op == 'and' else '||'} ({right}))"


def _cast(op: str, value: Expr, width: Expr, scope: Scope, wide: bool) -> str:
    """Casts to a signed type, and the casts in which p4c wraps saturating arithmetic."""
    if not isinstance(width, Const):
        raise Refused("a cast to a computed width", scope.source)
    bits = width.value
    if op == "two_comp_mod":
        inner = is_wide(bits) or _needs_wide(value, scope)
        return _extend(f"({_compile(value, scope, inner)})", bits, wide)
    if not (isinstance(value, Op) and value.op in ("+", "-") and len(value.operands) == 2):
        raise Refused("saturation of something that is not a sum or a difference", scope.source)
    inner = is_wide(bits)
    left, right = (_compile(o, scope, inner) for o in value.operands)
    signed = op == "sat_cast"
    widen = ("(u128)(s128)(s64)" if signed else "(u128)") if wide and not inner else ""
    name = f"{'signed_' if signed else ''}{'wide_' if inner else ''}{_SATURATING[value.op]}"
    return f"{widen}{name}({left}, {right}, {bits})"


_SATURATING = {"+": "add", "-": "subtract"}


def constant(expression: Expr) -> int | None:
    """The value of an expression that is a constant, else None."""
    return expression.value if isinstance(expression, Const) else None
