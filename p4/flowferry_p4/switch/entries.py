# SPDX-License-Identifier: Apache-2.0
"""Table entries: what the control plane asked for, kept beside the maps that hold it.

The store is the authority for reads; the maps follow every change before the change is
acknowledged. Counters are the other way round: only the kernel knows them.
"""

from __future__ import annotations

import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import libbpf
from .bmv2_json import Action, Program, Table
from .cells import CounterMap, Counts, MeterMap, Rates, TimeMap
from .compiler import Kind, TableLayout
from .compiler.layouts import meter_map
from .compiler.names import mask
from .compiler.slots import fill, slot_count


class EntryError(Exception):
    """Base of what an entry can be refused for."""


class EntryExists(EntryError):
    pass


class EntryMissing(EntryError):
    pass


class TableFull(EntryError):
    pass


class TableConstant(EntryError):
    pass


@dataclass(frozen=True)
class FieldMatch:
    """What one key field must be.

    `second` is the mask (ternary, optional), the prefix length (lpm), the end (range), or unused.
    """

    value: int
    second: int = 0


@dataclass(frozen=True)
class Key:
    match: tuple[FieldMatch, ...]
    priority: int = 0


@dataclass(frozen=True)
class Call:
    """An action by the id it has in the BMv2 JSON, and its arguments."""

    action: int
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True)
class Note:
    """What an entry carries for its controller, and the data plane does not know."""

    metadata: bytes = b""
    controller_metadata: int = 0
    idle_timeout_ns: int = 0
    action_set: bytes = b""
    """The serialised one-shot action set that the entry was given, to be read back as it is."""


@dataclass(frozen=True)
class Entry:
    key: Key
    call: Call
    slot: int
    """The entry's place among the table's counters."""
    note: Note = Note()


def constant_entries(table: Table, layout: TableLayout) -> list[tuple[Key, Call]]:
    """The program's own entries, with priorities as P4Runtime has them: the highest wins."""
    last = max((e.rank for e in table.entries), default=0)
    result = []
    for entry in table.entries:
        matches = tuple(
            FieldMatch(value if field.match != "ternary" else value & (second or 0), second or 0)
            for field, (value, second) in zip(table.key, entry.match, strict=True)
        )
        priority = last + 1 - entry.rank if layout.kind is Kind.SCAN else 0
        result.append((Key(matches, priority), Call(entry.action, entry.data)))
    return result


def encode_value(action: Action, call: Call, slot: int, slots: int) -> bytes:
    """The value of an entry whose table, or whose map, has room for ``slots`` arguments."""
    filled = fill(action, call.arguments)
    padded = filled + [0] * (slots - len(filled))
    return struct.pack(f"=II{slots}Q", call.action, slot, *padded)


def encode_reference(call: Call, slot: int) -> bytes:
    """The value of an indirect table's entry: MEMBER or GROUP, and its number."""
    return struct.pack("=IIQ", call.action, slot, *call.arguments)


def encode_key(layout: TableLayout, key: Key) -> bytes:
    """The key of a hash or trie map, as the generated C lays it out."""
    values = [key.match[p.position] for p in layout.parts]
    if layout.kind is Kind.HASH:
        parts = zip(values, layout.key_sizes, strict=True)
        return b"".join(_native(v.value, size) for v, size in parts) + bytes(layout.padding)
    data = b""
    length = 0
    for part, size, match in zip(layout.parts, layout.key_sizes, values, strict=True):
        value = match.value
        bits = 8 * size
        if part.match == "lpm":
            value <<= bits - part.width
            bits = match.second
        data += value.to_bytes(size, "big")
        length += bits
    return struct.pack("=I", length) + data


def _native(value: int, size: int) -> bytes:
    """An integer as C holds it."""
    return value.to_bytes(size, sys.byteorder)


def encode_rule(layout: TableLayout, key: Key) -> bytes:
    """Mask, lowest and highest value of each field: every match kind fits."""
    masks, lows, highs = [], [], []
    for part in layout.parts:
        match = key.match[part.position]
        full = mask(part.width)
        low = high = match.value
        keep = full
        if part.match == "lpm":
            keep = full ^ mask(part.width - match.second)
        elif part.match in ("ternary", "optional"):
            keep = match.second
        elif part.match == "range":
            high = match.second
        masks.append(keep)
        lows.append(low)
        highs.append(high)
    return b"".join(_native(word, layout.rule_word) for word in masks + lows + highs)


class TableStore:
    """The entries of one table."""

    def __init__(
        self, table: Table, layout: TableLayout, maps: libbpf.Object, program: Program
    ) -> None:
        self.table = table
        self.layout = layout
        self.program = program
        self.entries: dict[Key, Entry] = {}
        self._free = list(range(layout.size - 1, -1, -1))
        self._defaults = maps.map("default_entries")
        keyless = layout.kind is Kind.KEYLESS
        self._map = None if keyless else maps.map(f"table_{layout.ident}")
        self.counters = (
            CounterMap(maps.map(f"counts_of_{layout.ident}"))
            if layout.counted and not keyless
            else None
        )
        self.meters = (
            MeterMap(maps.map(meter_map(layout.meter))) if layout.meter and not keyless else None
        )
        self.times = (
            TimeMap(maps.map(f"seen_{layout.ident}")) if layout.timed and not keyless else None
        )
        self.references: Counter[Call] = Counter()
        """How many entries call what: of an indirect table, a member or a group."""
        self._scan = _Scan(layout, maps) if layout.kind is Kind.SCAN else None
        self.initial_default = (
            Call(table.default.action, table.default.data) if table.default else None
        )
        self.default = self.initial_default
        self.default_note = Note()
        self._write_default()
        self.constant = False
        for key, call in constant_entries(table, layout):
            self.insert(key, call)
        self.publish()
        self.constant = bool(table.entries)

    def _refuse_constant(self) -> None:
        if self.constant:
            raise TableConstant(f"the entries of table {self.table.name} are constant")

    def insert(self, key: Key, call: Call, note: Note = Note()) -> Entry:
        self._refuse_constant()
        if key in self.entries:
            raise EntryExists(f"table {self.table.name} already has this entry")
        if not self._free:
            raise TableFull(f"table {self.table.name} is full ({self.layout.size} entries)")
        entry = Entry(key, call, self._free.pop(), note)
        self._start(entry)
        try:
            self._put(entry)
        except OSError as error:
            self._free.append(entry.slot)
            raise TableFull(f"table {self.table.name} takes no more: {error.strerror}") from error
        self.entries[key] = entry
        self.references[call] += 1
        return entry

    def _start(self, entry: Entry) -> None:
        """What belongs to the entry's place begins anew."""
        if self.counters:
            self.counters.write(entry.slot)
        if self.meters:
            self.meters.write(entry.slot, None)
        if self.times:
            self.times.write(entry.slot, time.monotonic_ns())

    def modify(self, key: Key, call: Call, note: Note = Note()) -> Entry:
        """Give an entry another action; its place and its counter stay."""
        self._refuse_constant()
        before = self.find(key)
        entry = replace(before, call=call, note=note)
        self._put(entry)
        self.entries[key] = entry
        self.references[before.call] -= 1
        self.references[call] += 1
        return entry

    def delete(self, key: Key) -> Entry:
        self._refuse_constant()
        entry = self.find(key)
        if self._scan:
            self._scan.remove(entry)
        elif self._map:
            self._map.delete(encode_key(self.layout, key))
        del self.entries[key]
        self.references[entry.call] -= 1
        self._free.append(entry.slot)
        return entry

    def publish(self) -> None:
        """Let the data plane see the changes, where they do not show by themselves."""
        if self._scan:
            self._scan.publish()

    @property
    def changes_at_once(self) -> bool:
        """Whether any number of changes becomes visible with one publish()."""
        return self._scan is not None

    def find(self, key: Key) -> Entry:
        try:
            return self.entries[key]
        except KeyError:
            raise EntryMissing(f"table {self.table.name} has no such entry") from None

    def set_default(self, call: Call | None, note: Note = Note()) -> None:
        """Set the default action; None goes back to the program's own."""
        if self.table.default is not None and self.table.default.const:
            raise TableConstant(f"the default action of table {self.table.name} is constant")
        self.default = call or self.initial_default
        self.default_note = note
        self._write_default()

    def counts(self, entry: Entry) -> Counts:
        return self.counters.read(entry.slot) if self.counters else Counts()

    def rates(self, entry: Entry) -> Rates | None:
        return self.meters.read(entry.slot) if self.meters else None

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self.entries.values()))

    def _put(self, entry: Entry) -> None:
        if self._scan:
            self._scan.put(entry, self._value(entry))
        elif self._map:
            value = self._value(entry)
            self._map.update(encode_key(self.layout, entry.key), value)

    def _value(self, entry: Entry) -> bytes:
        if self.layout.profile:
            return encode_reference(entry.call, entry.slot)
        action = self.program.actions[entry.call.action]
        return encode_value(action, entry.call, entry.slot, self.layout.arguments)

    def _write_default(self) -> None:
        if self.default is None or (self.table.default and self.table.default.const):
            return  # a constant one is compiled in
        action = self.program.actions[self.default.action]
        value = encode_value(action, self.default, 0, self._default_slots)
        self._defaults.update(struct.pack("=I", self.layout.number), value)

    @property
    def _default_slots(self) -> int:
        """All defaults share a map, so all have room for the longest."""
        tables = [*self.program.ingress.tables.values(), *self.program.egress.tables.values()]
        actions = {a for t in tables for a in t.actions.values()}
        return max([1, *(slot_count(self.program.actions[a].parameters) for a in actions)])


class _Scan:
    """A linearly searched table: rules in order of priority, in two banks."""

    def __init__(self, layout: TableLayout, maps: libbpf.Object) -> None:
        self.layout = layout
        self._rules = maps.map(f"table_{layout.ident}")
        self._bank = maps.map(f"bank_of_{layout.ident}")
        self._rows: dict[Key, _Row] = {}
        self._arrivals = 0
        self._active = 0
        self._changed = False

    def put(self, entry: Entry, value: bytes) -> None:
        known = self._rows.get(entry.key)
        self._arrivals += 1
        arrival = known.arrival if known else self._arrivals
        data = encode_rule(self.layout, entry.key) + value
        self._rows[entry.key] = _Row(-entry.key.priority, arrival, data)
        self._changed = True

    def remove(self, entry: Entry) -> None:
        del self._rows[entry.key]
        self._changed = True

    def publish(self) -> None:
        if not self._changed:
            return
        bank = 1 - self._active
        first = bank * self.layout.size
        rows = sorted(self._rows.values())
        self._rules.update_many(first, [row.data for row in rows])
        self._bank.update(struct.pack("=I", 0), struct.pack("=II", first, len(rows)))
        self._active = bank
        self._changed = False


@dataclass(frozen=True, order=True)
class _Row:
    """A rule where it stands: the highest priority first, then the oldest."""

    rank: int
    arrival: int
    data: bytes
