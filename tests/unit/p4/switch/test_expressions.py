# SPDX-License-Identifier: Apache-2.0
"""P4 expressions as C: the value the C has is the value P4 gives."""

from __future__ import annotations

import pytest
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.compiler.expressions import Scope, compile_expression
from flowferry_p4.switch.compiler.names import Names
from flowferry_p4.switch.errors import Refused, Source
from flowferry_p4.switch.model import (
    Bool,
    Const,
    Expr,
    FieldRef,
    LastIndex,
    Lookahead,
    Op,
    Param,
    Valid,
)

from tests.unit.p4.switch.native import evaluate
from tests.unit.p4.switch.small_program import small

FULL = (1 << 64) - 1


@pytest.fixture(scope="module")
def names() -> Names:
    import json

    return Names(load(json.dumps(small())))


def scope(names: Names) -> Scope:
    return Scope(names, Source("small.p4", 3), parameter=lambda i: (f"v{i}", 64))


A, B = Param(0), Param(1)
MASK8 = Const(0xFF)

CASES: list[tuple[str, Expr, int, int, int]] = [
    ("constant", Const(7), 0, 0, 7),
    ("true", Bool(True), 0, 0, 1),
    ("add", Op("+", (A, B)), 3, 4, 7),
    ("add_masked", Op("&", (Op("+", (A, B)), MASK8)), 0xFF, 2, 1),
    ("subtract_masked", Op("&", (Op("-", (A, B)), MASK8)), 1, 2, 0xFF),
    ("subtract_64", Op("-", (A, B)), 0, 1, FULL),
    ("multiply", Op("&", (Op("*", (A, B)), MASK8)), 0x81, 2, 2),
    ("and_bits", Op("&", (A, B)), 0b1100, 0b1010, 0b1000),
    ("or_bits", Op("|", (A, B)), 0b1100, 0b1010, 0b1110),
    ("xor_bits", Op("^", (A, B)), 0b1100, 0b1010, 0b0110),
    ("invert_masked", Op("&", (Op("~", (A,)), MASK8)), 0x0F, 0, 0xF0),
    ("negate_masked", Op("&", (Op("-", (A,)), MASK8)), 1, 0, 0xFF),
    ("shift_left", Op("<<", (A, B)), 1, 63, 1 << 63),
    ("shift_left_far", Op("<<", (A, B)), 1, 64, 0),
    ("shift_right", Op(">>", (A, B)), 1 << 63, 63, 1),
    ("shift_right_far", Op(">>", (A, B)), FULL, 200, 0),
    ("slice", Op("&", (Op(">>", (A, Const(8))), MASK8)), 0xABCDEF, 0, 0xCD),
    ("equal", Op("==", (A, B)), FULL, FULL, 1),
    ("not_equal", Op("!=", (A, B)), 1, 1, 0),
    ("less", Op("<", (A, B)), 1, 2, 1),
    ("unsigned_less", Op("<", (A, B)), FULL, 1, 0),
    ("at_most", Op("<=", (A, B)), 2, 2, 1),
    ("greater", Op(">", (A, B)), FULL, 1, 1),
    ("at_least", Op(">=", (A, B)), 1, 2, 0),
    ("both", Op("and", (Op("d2b", (A,)), Op("d2b", (B,)))), 2, 1, 1),
    ("either", Op("or", (Op("d2b", (A,)), Op("d2b", (B,)))), 0, 0, 0),
    ("not", Op("not", (Op("d2b", (A,)),)), 1 << 32, 0, 0),
    ("to_bool_high_bits", Op("d2b", (A,)), 1 << 40, 0, 1),
    ("to_data", Op("b2d", (Op("==", (A, B)),)), 5, 5, 1),
    ("choose_left", Op("?", (Op("<", (A, B)), Const(3), Const(4))), 1, 2, 3),
    ("choose_right", Op("?", (Op("<", (A, B)), Const(3), Const(4))), 2, 1, 4),
    ("saturate_up", Op("usat_cast", (Op("+", (A, B)), Const(8))), 0xF0, 0x20, 0xFF),
    ("saturate_down", Op("usat_cast", (Op("-", (A, B)), Const(8))), 1, 2, 0),
    ("saturate_inside", Op("usat_cast", (Op("+", (A, B)), Const(8))), 1, 2, 3),
]


@pytest.mark.parametrize(("name", "expression", "a", "b", "expected"), CASES, ids=lambda c: str(c))
def test_value(names: Names, name: str, expression: Expr, a: int, b: int, expected: int) -> None:
    text = compile_expression(expression, scope(names))
    assert evaluate({name: text}, {"v0": a, "v1": b}) == {name: expected}


HUGE = (1 << 128) - 1
BITS = Const(HUGE)

WIDE: list[tuple[str, Expr, int, int, int]] = [
    ("constant", Const(1 << 127 | 5), 0, 0, 1 << 127 | 5),
    ("add_over_the_middle", Op("+", (A, B)), (1 << 64) - 1, 1, 1 << 64),
    ("add_masked", Op("&", (Op("+", (A, B)), BITS)), HUGE, 2, 1),
    ("subtract", Op("-", (A, B)), 0, 1, HUGE),
    ("multiply", Op("*", (A, B)), 3**60, 7**22, 3**60 * 7**22 & HUGE),
    ("and_bits", Op("&", (A, B)), 0b11 << 100, 0b01 << 100, 1 << 100),
    ("or_bits", Op("|", (A, B)), 1 << 100, 1, 1 << 100 | 1),
    ("xor_bits", Op("^", (A, B)), HUGE, 1, HUGE - 1),
    ("invert", Op("~", (A,)), 1, 0, HUGE - 1),
    ("negate", Op("-", (A,)), 1, 0, HUGE),
    ("minus_one", Op("&", (A, Const(-1))), HUGE, 0, HUGE),
    ("shift_left", Op("<<", (A, B)), 3, 63, 3 << 63),
    ("shift_left_half", Op("<<", (A, B)), 3, 64, 3 << 64),
    ("shift_left_last", Op("<<", (A, B)), 3, 127, 1 << 127),
    ("shift_left_far", Op("<<", (A, B)), 3, 128, 0),
    ("shift_left_nothing", Op("<<", (A, B)), HUGE, 0, HUGE),
    ("shift_right", Op(">>", (A, B)), 3 << 63, 63, 3),
    ("shift_right_half", Op(">>", (A, B)), 3 << 64, 64, 3),
    ("shift_right_last", Op(">>", (A, B)), HUGE, 127, 1),
    ("shift_right_far", Op(">>", (A, B)), HUGE, 1 << 64, 0),
    ("shift_right_nothing", Op(">>", (A, B)), HUGE, 0, HUGE),
    ("slice", Op("&", (Op(">>", (A, Const(120))), MASK8)), 0xFF02 << 112, 0, 0xFF),
    ("slice_over_the_middle", Op("&", (Op(">>", (A, Const(60))), MASK8)), 0xAB << 60, 0, 0xAB),
    ("equal", Op("==", (A, B)), HUGE, HUGE, 1),
    ("unequal_in_the_upper_half", Op("==", (A, B)), 1 << 64, 0, 0),
    ("not_equal", Op("!=", (A, B)), 1 << 127, 0, 1),
    ("unsigned_less", Op("<", (A, B)), HUGE, 1, 0),
    ("less_in_the_lower_half", Op("<", (A, B)), 1 << 64, 1 << 64 | 1, 1),
    ("at_least", Op(">=", (A, B)), 1 << 64, 1, 1),
    ("to_bool_high_bits", Op("d2b", (A,)), 1 << 100, 0, 1),
    ("both", Op("and", (Op("d2b", (A,)), Op("d2b", (B,)))), 1 << 100, 0, 0),
    ("choose", Op("?", (Op("==", (A, Const(1 << 99))), B, A)), 1 << 99, 1 << 98, 1 << 98),
]


@pytest.mark.parametrize(("name", "expression", "a", "b", "expected"), WIDE, ids=lambda c: str(c))
def test_wide_value(
    names: Names, name: str, expression: Expr, a: int, b: int, expected: int
) -> None:
    wide = Scope(names, parameter=lambda i: (f"v{i}", 128))
    text = compile_expression(expression, wide)
    assert evaluate({name: text}, {"v0": a, "v1": b}, "u128") == {name: expected}


def test_a_wide_result_of_narrow_operands(names: Names) -> None:
    """`(bit<128>) a << 64`: p4c writes no cast, only the target says how wide it is meant."""
    for expression, expected in (
        (Op("<<", (A, Const(64))), 7 << 64),
        (Op("+", (A, B)), FULL + 7),
        (Op("|", (Op("<<", (A, Const(64))), B)), 7 << 64 | FULL),
    ):
        text = compile_expression(expression, scope(names), wide=True)
        assert evaluate({"f": text}, {"v0": 7, "v1": FULL}) == {"f": expected}


def test_a_field_beside_a_wide_mask(names: Names) -> None:
    """The mask that p4c adds is wide, so what is under it may not overflow 64 bits before."""
    text = compile_expression(Op("&", (Op("+", (A, B)), BITS)), scope(names))
    assert evaluate({"f": text}, {"v0": FULL, "v1": FULL}) == {"f": 2 * FULL}


def test_fields_and_validity(names: Names) -> None:
    s = scope(names)
    assert compile_expression(FieldRef("ethernet", "kind"), s) == "(u64)p->ethernet.kind"
    assert compile_expression(Valid("ethernet"), s) == "(u64)p->ethernet.valid_"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (Lookahead(0, 8), "lookahead outside of the parser"),
        (LastIndex("stack"), "the last element of a header stack outside of the parser"),
        (
            Op("usat_cast", (A, Const(8))),
            "saturation of something that is not a sum or a difference",
        ),
        (Op("two_comp_mod", (A, B)), "a cast to a computed width"),
    ],
)
def test_refused(names: Names, expression: Expr, message: str) -> None:
    with pytest.raises(Refused) as caught:
        compile_expression(expression, scope(names))
    assert message in str(caught.value)


def test_parameter_outside_of_an_action(names: Names) -> None:
    with pytest.raises(Refused, match="an action parameter outside of an action"):
        compile_expression(A, Scope(names))
