# SPDX-License-Identifier: Apache-2.0
"""Facts about the whole program that decide how it is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass

from ..errors import Refused
from ..model import (
    Assign,
    Calculation,
    Checksum,
    Const,
    Extract,
    FieldRef,
    HeaderRef,
    Primitive,
    Program,
    StackRef,
)

DESTINATIONS = {
    "assign": 0,
    "modify_field": 0,
    "modify_field_with_hash_based_offset": 0,
    "modify_field_rng_uniform": 0,
    "register_read": 0,
    "execute_meter": 2,
}
"""Primitives that store into a field, and which operand that is."""

MULTICAST_GROUP = FieldRef("standard_metadata", "mcast_grp")


@dataclass(frozen=True)
class Analysis:
    modified: frozenset[FieldRef]
    """Header fields that anything may assign to."""

    reshaped: frozenset[str]
    """Headers that may be added, removed or overwritten as a whole."""

    tracked: tuple[FieldRef, ...]
    """Fields whose arriving value is kept, to adjust a payload checksum by the difference."""

    checked: tuple[str, ...]
    """Headers with a checksum over the payload: only right if the packet arrived with them."""

    reordered: bool
    """The deparser may emit headers in another order than the parser met them."""

    used: frozenset[FieldRef]
    """Fields that the program reads or writes anywhere."""

    primitives: frozenset[str]
    """Names of the primitives that it calls."""

    multicasts: bool
    """It may choose a multicast group."""


def analyse(program: Program) -> Analysis:
    _refuse_cycles(program)
    modified: set[FieldRef] = set()
    reshaped: set[str] = set()
    for primitive in primitives(program):
        first = primitive.arguments[0] if primitive.arguments else None
        if primitive.op in DESTINATIONS:
            target = primitive.arguments[DESTINATIONS[primitive.op]]
            modified |= {target} if isinstance(target, FieldRef) else set()
        if isinstance(first, HeaderRef) and not program.header(first.name).metadata:
            reshaped.add(first.name)
        if isinstance(first, StackRef):
            reshaped |= set(program.stacks[first.name].headers)
    modified |= {m.target for m in program.meters.values() if m.target}
    for state in program.parser.states.values():
        modified |= {op.target for op in state.ops if isinstance(op, Assign)}
    modified |= {c.target for c in program.checksums if c.update}
    for name in reshaped:
        modified |= {FieldRef(name, f.name) for f in program.header(name).fields}
    modified = {m for m in modified if not program.header(m.header).metadata}
    payload = payload_checksums(program)
    tracked = {
        value
        for _, calculation in payload
        for value in calculation.inputs
        if isinstance(value, FieldRef) and value in modified
    }
    return Analysis(
        modified=frozenset(modified),
        reshaped=frozenset(reshaped),
        tracked=tuple(sorted(tracked, key=lambda f: (f.header, f.field))),
        checked=tuple(sorted({c.target.header for c, _ in payload})),
        reordered=_reordered(program),
        used=frozenset(_references(program)),
        primitives=frozenset(p.op for p in primitives(program)),
        multicasts=any(_multicasts(p) for p in primitives(program)),
    )


def _references(part: object) -> Iterator[FieldRef]:
    """Every field that some part of the program names."""
    if isinstance(part, FieldRef):
        yield part
    elif is_dataclass(part):
        for member in fields(part):
            yield from _references(getattr(part, member.name))
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, tuple):
        for value in part:
            yield from _references(value)


def _multicasts(primitive: Primitive) -> bool:
    if primitive.op in ("assign_header", "copy_header"):
        return primitive.arguments[0] == HeaderRef("standard_metadata")
    if primitive.op not in DESTINATIONS:
        return False
    if primitive.arguments[DESTINATIONS[primitive.op]] != MULTICAST_GROUP:
        return False
    value = primitive.arguments[1]
    return primitive.op != "assign" or not (isinstance(value, Const) and value.value == 0)


def payload_checksums(program: Program) -> list[tuple[Checksum, Calculation]]:
    """Checksums to update that cover the payload (TCP, UDP)."""
    result = []
    for checksum in program.checksums:
        calculation = program.calculations[checksum.calculation]
        if checksum.update and calculation.with_payload:
            result.append((checksum, calculation))
    return result


def primitives(program: Program) -> Iterator[Primitive]:
    for action in program.actions.values():
        yield from action.primitives
    for state in program.parser.states.values():
        yield from (op for op in state.ops if isinstance(op, Primitive))


def successors(program: Program, state: str) -> list[str]:
    return [t.state for t in program.parser.states[state].transitions if t.state is not None]


def _refuse_cycles(program: Program) -> None:
    """A loop in the parser needs header stacks, and a bound the verifier can see."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            raise Refused(f"a loop in the parser through state {name}")
        if name in done:
            return
        path.append(name)
        for following in successors(program, name):
            visit(following)
        path.pop()
        done.add(name)

    visit(program.parser.start)


def _reordered(program: Program) -> bool:
    place = {name: i for i, name in enumerate(program.deparser)}
    found = False

    def visit(name: str, last: int) -> None:
        nonlocal found
        for op in program.parser.states[name].ops:
            if isinstance(op, Extract) and op.header in place:
                found = found or place[op.header] < last
                last = max(last, place[op.header])
        for following in successors(program, name):
            visit(following, last)

    visit(program.parser.start, -1)
    return found
