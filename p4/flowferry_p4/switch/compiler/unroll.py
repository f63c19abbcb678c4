# SPDX-License-Identifier: Apache-2.0
"""Parsers with header stacks, made into parsers without.

`extract(stack.next)` means another header each time a loop comes by. Here each state becomes one
state for every filling of the stacks in which it can be reached, and in each of them `next` and
`last` are names of headers. A loop that fills a stack is straight code then, which the kernel's
verifier can follow; one that does not stays a loop, and is refused as such later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import Refused
from ..model import (
    Advance,
    Assign,
    Const,
    Expr,
    Extract,
    ExtractNext,
    Fail,
    FieldRef,
    LastField,
    LastIndex,
    Op,
    Parser,
    ParserOp,
    ParseState,
    Program,
    Transition,
    Verify,
)

STATE_LIMIT = 512
"""States that a parser may become."""

Filling = tuple[tuple[str, int], ...]
"""How many elements of each stack have been extracted, for those that have any."""


class _Empty(Exception):
    """`last` of a stack with nothing in it."""


def unroll(program: Program) -> Program:
    """The same program; its parser uses no header stack."""
    if not program.stacks:
        return program
    return replace(program, parser=_Unroller(program).parser())


@dataclass
class _Unroller:
    program: Program
    names: dict[tuple[str, Filling], str] = field(default_factory=dict)
    waiting: list[tuple[str, Filling]] = field(default_factory=list)

    def parser(self) -> Parser:
        start = self._name(self.program.parser.start, {})
        states: dict[str, ParseState] = {}
        while self.waiting:
            at = self.waiting.pop(0)
            states[self.names[at]] = self._state(*at)
        return Parser(start, states)

    def _name(self, state: str, filled: Mapping[str, int]) -> str:
        """The name of a state with stacks so filled; it is made if it is new."""
        filling = tuple(sorted(filled.items()))
        known = self.names.get((state, filling))
        if known:
            return known
        if len(self.names) >= STATE_LIMIT:
            raise Refused(f"a parser that unrolls to more than {STATE_LIMIT} states")
        taken = {*self.program.parser.states, *self.names.values()}
        name = state
        number = 1
        while filling and name in taken:
            name = f"{state}_{number}"
            number += 1
        self.names[state, filling] = name
        self.waiting.append((state, filling))
        return name

    def _state(self, name: str, filling: Filling) -> ParseState:
        state = self.program.parser.states[name]
        filled = dict(filling)
        ops: list[ParserOp] = []
        try:
            for op in state.ops:
                ops.append(self._op(op, filled))
                if isinstance(ops[-1], Fail):
                    raise _Empty
            key = tuple(
                self._last(part, filled) if isinstance(part, LastField) else part
                for part in state.key
            )
        except _Empty:
            if not ops or not isinstance(ops[-1], Fail):
                ops.append(Fail("StackOutOfBounds"))
            return ParseState(self.names[name, filling], tuple(ops), (), (_ACCEPT,))
        transitions = tuple(
            replace(t, state=self._name(t.state, filled)) if t.state else t
            for t in state.transitions
        )
        return ParseState(self.names[name, filling], tuple(ops), key, transitions)

    def _op(self, op: ParserOp, filled: dict[str, int]) -> ParserOp:
        match op:
            case ExtractNext(stack):
                headers = self.program.stacks[stack].headers
                index = filled.get(stack, 0)
                if index == len(headers):
                    return Fail("StackOutOfBounds")
                filled[stack] = index + 1
                return Extract(headers[index])
            case Assign(target, value):
                return Assign(target, self._expression(value, filled))
            case Verify(condition, error):
                return Verify(self._expression(condition, filled), error)
            case Advance(bits):
                return Advance(self._expression(bits, filled))
        return op

    def _expression(self, value: Expr, filled: Mapping[str, int]) -> Expr:
        match value:
            case LastField():
                return self._last(value, filled)
            case LastIndex(stack):
                return Const(self._count(stack, filled) - 1)
            case Op(op, operands):
                return Op(op, tuple(self._expression(o, filled) for o in operands))
        return value

    def _last(self, value: LastField, filled: Mapping[str, int]) -> FieldRef:
        header = self.program.stacks[value.stack].headers[self._count(value.stack, filled) - 1]
        return FieldRef(header, value.field)

    def _count(self, stack: str, filled: Mapping[str, int]) -> int:
        if not filled.get(stack):
            raise _Empty
        return filled[stack]


_ACCEPT = Transition(None, None, None)
