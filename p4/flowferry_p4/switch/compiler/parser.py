# SPDX-License-Identifier: Apache-2.0
"""Parser states to labelled blocks of C.

Headers are read with bpf_skb_load_bytes at a running offset, so it does not matter how much of
the packet lies in the linear part of the buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BadProgram, Refused
from ..model import (
    Advance,
    Assign,
    Extract,
    ExtractNext,
    Fail,
    FieldRef,
    Lookahead,
    ParserOp,
    ParseState,
    Primitive,
    Program,
    SelectPart,
    Transition,
    Valid,
    Verify,
)
from ..model import Field as FieldType
from .analysis import Analysis
from .expressions import Scope, compile_expression, constant
from .names import Names, hexadecimal, identifier, is_wide, read_field
from .primitives import Primitives
from .tables import TableLayout, lay_out_value_set

DEFAULT_ERRORS = {"NoError": 0, "PacketTooShort": 1, "NoMatch": 2, "StackOutOfBounds": 3}


@dataclass(frozen=True)
class StateCode:
    name: str
    label: str
    statements: tuple[str, ...]


def label(state: str | None) -> str:
    return f"state_{identifier(state)}" if state else "parsed"


class ParserCompiler:
    """Compiles the parser of one program."""

    def __init__(
        self, program: Program, names: Names, analysis: Analysis, primitives: Primitives
    ) -> None:
        self.program = program
        self.names = names
        self.analysis = analysis
        self.primitives = primitives
        self.errors = {**DEFAULT_ERRORS, **program.errors}
        self.value_sets = lay_out_value_sets(program)

    def states(self) -> list[StateCode]:
        """Every reachable state, the start state first."""
        order: list[str] = []
        waiting = [self.program.parser.start]
        while waiting:
            name = waiting.pop(0)
            if name in order:
                continue
            order.append(name)
            transitions = self.program.parser.states[name].transitions
            waiting += [t.state for t in transitions if t.state]
        return [self._state(self.program.parser.states[name]) for name in order]

    def _state(self, state: ParseState) -> StateCode:
        statements = [s for op in state.ops for s in self._op(op, state)]
        statements += self._transitions(state)
        return StateCode(state.name, label(state.name), tuple(statements))

    def _scope(self, state: ParseState, statements: list[str]) -> Scope:
        def lookahead(value: Lookahead) -> str:
            return self._lookahead(value, statements)

        return Scope(self.names, lookahead=lookahead, abort="goto parsed;")

    def _fail(self, error: str) -> str:
        return f"{{ parser_error = {self.errors[error]}; goto parsed; }}"

    def _op(self, op: ParserOp, state: ParseState) -> list[str]:
        before: list[str] = []
        scope = self._scope(state, before)
        match op:
            case Extract(header):
                return self._extract(header)
            case Assign(target, value):
                wide = is_wide(self.program.width(target))
                text = compile_expression(value, scope, wide)
                return [*before, self.primitives.assign(target, text)]
            case Verify(condition, error):
                fail = f"{{ parser_error = {compile_expression(error, scope)}; goto parsed; }}"
                return [*before, f"if (!({compile_expression(condition, scope)})) {fail}"]
            case Advance(bits):
                count = constant(bits)
                if count is not None and count % 8:
                    raise Refused(f"advance by {count} bits in state {state.name}")
                step = f"(({compile_expression(bits, scope)}) >> 3)"
                short = f"if ({step} > skb->len - offset) {self._fail('PacketTooShort')}"
                return [*before, short, f"offset += (u32){step};"]
            case Primitive():
                return self.primitives.compile(op, scope)
            case Fail(error):
                return [self._fail(error)]
            case ExtractNext(stack):
                raise BadProgram(f"{stack}.next is left in the parser after it was unrolled")

    def _extract(self, name: str) -> list[str]:
        header = self.program.header(name)
        size = header.bytes
        statements = [
            f"if (bpf_skb_load_bytes(skb, offset, buffer, {size})) {self._fail('PacketTooShort')}",
            *(
                f"{self.names.field(FieldRef(name, f.name))} = {read_field('buffer', f)};"
                for f in header.fields
            ),
            f"{self.names.valid(name)} = 1;",
            *(
                f"{self.names.original(ref)} = {self.names.field(ref)};"
                for ref in self.analysis.tracked
                if ref.header == name
            ),
        ]
        if name in self.analysis.checked:
            statements.append(f"{self.names.arrived(name)} = 1;")
        return [*statements, f"offset += {size};"]

    def _lookahead(self, value: Lookahead, statements: list[str]) -> str:
        first = value.offset // 8
        inside = FieldType("", value.width, value.offset - 8 * first)
        size = (inside.offset + inside.width + 7) // 8
        statements.append(
            f"if (bpf_skb_load_bytes(skb, offset + {first}, buffer, {size})) "
            f"{self._fail('PacketTooShort')}"
        )
        name = f"ahead_{value.offset}_{value.width}"
        kind = "u128" if is_wide(inside.width) else "u64"
        statements.append(f"{kind} {name} = {read_field('buffer', inside)};")
        return name

    def _transitions(self, state: ParseState) -> list[str]:
        statements: list[str] = []
        scope = self._scope(state, statements)
        key = [compile_expression(part, scope) for part in state.key]
        for transition in state.transitions:
            goto = f"goto {label(transition.state)};"
            if transition.value_set is not None:
                statements += self._value_set(transition.value_set, key, goto)
                continue
            if transition.values is None:
                return [*statements, goto]
            statements.append(f"if ({_test(key, transition)}) {goto}")
        return [*statements, self._fail("NoMatch")]

    def _value_set(self, name: str, key: list[str], goto: str) -> list[str]:
        layout = self.value_sets[name]
        parts = [f"key.part{i} = {key[p.position]};" for i, p in enumerate(layout.parts)]
        return [
            f"{{ struct key_{layout.ident} key;",
            "__builtin_memset(&key, 0, sizeof(key));",
            *parts,
            f"if (bpf_map_lookup_elem(&table_{layout.ident}, &key)) {goto} }}",
        ]


def lay_out_value_sets(program: Program) -> dict[str, TableLayout]:
    """Value sets as tables with exact keys; how wide these are, the select expressions tell."""
    layouts = {}
    for state in program.parser.states.values():
        widths = [part.width if isinstance(part, Lookahead) else _width(part, program)
                  for part in state.key]  # fmt: skip
        for transition in state.transitions:
            if transition.value_set is not None:
                value_set = program.value_sets[transition.value_set]
                layouts[value_set.name] = lay_out_value_set(value_set, widths)
    return layouts


def _width(part: SelectPart, program: Program) -> int:
    if isinstance(part, (FieldRef, Valid)):
        return program.width(part)
    raise BadProgram("a select expression that was not unrolled")


def _test(key: list[str], transition: Transition) -> str:
    values = transition.values or ()
    masks = transition.masks or (None,) * len(values)
    tests = []
    for text, value, mask in zip(key, values, masks, strict=True):
        if mask is None:
            tests.append(f"{text} == {hexadecimal(value)}")
        elif mask:
            tests.append(f"({text} & {hexadecimal(mask)}) == {hexadecimal(value & mask)}")
    return " && ".join(tests) or "1"
