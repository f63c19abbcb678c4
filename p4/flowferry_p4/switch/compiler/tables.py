# SPDX-License-Identifier: Apache-2.0
"""Match-action tables: which BPF map a table becomes, and the C that looks it up.

- exact keys: a hash map;
- exact keys and one prefix: a longest-prefix trie, the exact keys in front of the prefix;
- anything with ternary, range or optional keys: an array in order of priority, searched linearly;
- no key: no map, the table always takes its default action.

Layouts are described once, here, and used twice: by the C templates and by the control plane that
encodes entries (flowferry_p4.switch.entries).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ..errors import Refused
from ..model import FieldRef, KeyField, Program, Table, ValueSet
from .expressions import Scope, compile_expression
from .layouts import meter_map
from .names import Names, container, hexadecimal, identifier, is_wide, mask, write_bytes
from .slots import fill, slot_count


class Kind(Enum):
    KEYLESS = "keyless"
    HASH = "hash"
    TRIE = "trie"
    SCAN = "scan"


SCAN_LIMIT = 4096
"""Entries a linearly searched table may have."""


@dataclass(frozen=True)
class KeyPart:
    """One match field as the map stores it; `position` is its place in the P4 key."""

    position: int
    width: int
    match: str


@dataclass(frozen=True)
class TableLayout:
    """How a table lies in its maps."""

    name: str
    ident: str
    number: int  # key of its default entry
    kind: Kind
    parts: tuple[KeyPart, ...]  # in the order in which the key stores them
    size: int
    counted: bool
    arguments: int  # u64 slots of a value
    profile: str | None = None
    """Its entries name a member or a group of this action profile."""
    timed: bool = False
    """`seen_IDENT` has the time of the last hit of each entry, by slot."""
    meter: str | None = None
    """The direct meter, whose cells go by slot."""

    @cached_property
    def key_sizes(self) -> tuple[int, ...]:
        """Bytes of each part of a hash key, or of a trie's data."""
        if self.kind is Kind.TRIE:
            return tuple((p.width + 7) // 8 for p in self.parts)
        return tuple(container(p.width) // 8 for p in self.parts)

    @cached_property
    def data_size(self) -> int:
        return sum(self.key_sizes)

    @cached_property
    def padding(self) -> int:
        """Bytes behind a hash key's parts, so that its size is a multiple of its alignment."""
        return -self.data_size % min(8, max(self.key_sizes, default=1))

    @property
    def rule_word(self) -> int:
        """Bytes of each mask and bound of a linearly searched rule."""
        return 16 if any(is_wide(p.width) for p in self.parts) else 8


def lay_out(table: Table, number: int, program: Program) -> TableLayout:
    kind = _kind(table)
    parts = [KeyPart(i, k.width, k.match) for i, k in enumerate(table.key)]
    if kind is Kind.HASH:
        parts.sort(key=lambda p: -container(p.width))
    elif kind is Kind.TRIE:
        parts.sort(key=lambda p: p.match == "lpm")
    counts = [slot_count(program.actions[a].parameters) for a in table.actions.values()]
    return TableLayout(
        name=table.name,
        ident=identifier(table.name),
        number=number,
        kind=kind,
        parts=tuple(parts),
        size=max(table.size, len(table.entries), 1),
        counted=table.counted,
        arguments=1 if table.profile else max([1, *counts]),
        profile=table.profile,
        timed=table.timed,
        meter=table.meter,
    )


def lay_out_value_set(value_set: ValueSet, widths: Sequence[int]) -> TableLayout:
    """A parser value set is a table of exact keys that has no actions."""
    parts = [KeyPart(i, width, "exact") for i, width in enumerate(widths)]
    return TableLayout(
        name=value_set.name,
        ident=identifier(value_set.name),
        number=-1,
        kind=Kind.HASH,
        parts=tuple(sorted(parts, key=lambda p: -container(p.width))),
        size=max(value_set.size, 1),
        counted=False,
        arguments=1,
    )


def _kind(table: Table) -> Kind:
    matches = [k.match for k in table.key]
    if not matches:
        return Kind.KEYLESS
    if set(matches) == {"exact"}:
        return Kind.HASH
    if set(matches) <= {"exact", "lpm"}:
        if matches.count("lpm") > 1:
            raise Refused(f"table {table.name} with two lpm keys", table.source)
        return Kind.TRIE
    if table.size > SCAN_LIMIT:
        raise Refused(
            f"table {table.name} with {table.size} ternary entries",
            table.source,
            f"up to {SCAN_LIMIT} are searched; give the table a smaller size",
        )
    return Kind.SCAN


@dataclass(frozen=True)
class ActionChoice:
    """One arm of the switch over a table's actions."""

    id: int
    ident: str
    next: str | None


@dataclass(frozen=True)
class TableCode:
    layout: TableLayout
    where: str
    key: tuple[str, ...]  # statements that fill the key
    choices: tuple[ActionChoice, ...]
    by_hit: bool
    hit_next: str | None
    miss_next: str | None
    default_next: str | None
    own_default: tuple[int, tuple[str, ...]] | None  # the program's own: action, arguments
    constant_default: bool
    on_hit: tuple[str, ...]  # statements


def compile_table(table: Table, layout: TableLayout, names: Names, program: Program) -> TableCode:
    default = None
    if table.default is not None:
        slots = fill(program.actions[table.default.action], table.default.data)
        default = (table.default.action, tuple(hexadecimal(s) for s in slots))
    return TableCode(
        layout=layout,
        where=str(table.source) if table.source else "generated by p4c",
        key=tuple(_key_statements(table, layout, names)),
        choices=tuple(
            ActionChoice(number, identifier(name), _next(table, name))
            for name, number in table.actions.items()
        ),
        by_hit=table.by_hit,
        hit_next=table.hit_next,
        miss_next=table.miss_next,
        default_next=_default_next(table),
        own_default=default,
        constant_default=table.default is not None and table.default.const,
        on_hit=tuple(_on_hit(layout, names, program)),
    )


def _on_hit(layout: TableLayout, names: Names, program: Program) -> list[str]:
    """What an entry keeps about the packets that hit it; `slot` is the entry's."""
    statements = []
    if layout.counted:
        statements.append(f"count(&counts_of_{layout.ident}, slot, skb, p);")
    if layout.timed:
        statements.append(f"touch(&seen_{layout.ident}, slot);")
    if layout.meter:
        meter = program.meters[layout.meter]
        amount = "packets(skb)" if meter.unit == "packets" else "p->length"
        cells = meter_map(meter.name)
        colour = f"meter(&{cells}, &state_of_{cells}, slot, {amount})"
        if meter.target is not None:
            statements.append(f"{names.field(meter.target)} = {colour};")
            statements.append(f"{names.changed(meter.target.header)} = 1;")
    return statements


def _next(table: Table, action: str) -> str | None:
    return table.next_by_action.get(action, table.default_next)


def _default_next(table: Table) -> str | None:
    """Where a miss without a default action goes."""
    following = set(table.next_by_action.values())
    return following.pop() if len(following) == 1 else table.default_next


def _key_statements(table: Table, layout: TableLayout, names: Names) -> list[str]:
    values = [_key_value(k, names, table) for k in table.key]
    match layout.kind:
        case Kind.KEYLESS:
            return []
        case Kind.HASH:
            return [f"key.part{i} = {values[p.position]};" for i, p in enumerate(layout.parts)]
        case Kind.SCAN:
            return [f"search.key[{i}] = {values[p.position]};" for i, p in enumerate(layout.parts)]
        case Kind.TRIE:
            placed = []
            for part, size in zip(layout.parts, layout.key_sizes, strict=True):
                text = values[part.position]
                if part.match == "lpm" and 8 * size > part.width:
                    text = f"({text} << {8 * size - part.width})"
                placed.append((text, 8 * size))
            bits = 8 * layout.data_size
            return [f"key.prefix = {bits};", *write_bytes("key.data", placed)]


def _key_value(key: KeyField, names: Names, table: Table) -> str:
    text = compile_expression(key.target, Scope(names, table.source))
    if isinstance(key.target, FieldRef) and names.signed(key.target):
        text = f"({text} & {hexadecimal(mask(key.width))})"
    return f"({text} & {hexadecimal(key.mask)})" if key.mask is not None else text
