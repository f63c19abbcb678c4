# SPDX-License-Identifier: Apache-2.0
"""Table entries: what the control plane asked for, kept beside the maps that hold it.

The store is the authority for reads; the maps follow every change before the change is
acknowledged. Counters are the other way round: only the kernel knows them. A store that resumes
reads from the maps what was in them.
"""

from __future__ import annotations

import struct
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .backing import Backing
from .cells import CounterMap, Counts, MeterMap, Rates, TimeMap
from .compiler import Kind, TableLayout
from .compiler.layouts import meter_map
from .compiler.slots import slot_count
from .encoding import (
    Call,
    FieldMatch,
    Key,
    decode_key,
    decode_reference,
    decode_value,
    encode_key,
    encode_reference,
    encode_value,
    key_size,
)
from .libbpf import Map
from .model import Program, Table
from .notebook import Place
from .scan import Scan


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
class Note:
    """What an entry carries for its controller, and the data plane does not know."""

    metadata: bytes = b""
    controller_metadata: int = 0
    idle_timeout_ns: int = 0
    action_set: bytes = b""
    """The serialised one-shot action set that the entry was given, to be read back as it is."""

    def line(self, call: Call | None) -> list[Any]:
        """For the notebook, together with the call by which it is found to fit."""
        return [
            [call.action, *call.arguments] if call else None,
            self.metadata.hex(),
            self.controller_metadata,
            self.idle_timeout_ns,
            self.action_set.hex(),
        ]

    @classmethod
    def of_line(cls, line: list[Any]) -> Note:
        _, metadata, controller_metadata, idle_timeout_ns, action_set = line
        return cls(
            bytes.fromhex(metadata), controller_metadata, idle_timeout_ns, bytes.fromhex(action_set)
        )


_NOTHING = Note()


@dataclass(frozen=True)
class Entry:
    key: Key
    call: Call
    slot: int
    """The entry's place among the table's counters."""
    note: Note = _NOTHING


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


class TableState:
    """What the data plane asks of a table first: one cell, written as a whole."""

    def __init__(self, states: Map, number: int) -> None:
        self._map = states
        self._key = struct.pack("=I", number)
        filled, defaulted = struct.unpack("=2I", states.lookup(self._key, 8))
        self.filled = bool(filled)
        """It may have entries: said before there are any, and taken back after the last."""
        self.defaulted = bool(defaulted)
        """Its default action is another than the program's own."""

    def set(self, filled: bool | None = None, defaulted: bool | None = None) -> None:
        before = (self.filled, self.defaulted)
        self.filled = self.filled if filled is None else filled
        self.defaulted = self.defaulted if defaulted is None else defaulted
        if (self.filled, self.defaulted) != before:
            self._map.update(self._key, struct.pack("=2I", self.filled, self.defaulted))


class TableStore:
    """The entries of one table."""

    def __init__(
        self, table: Table, layout: TableLayout, backing: Backing, program: Program
    ) -> None:
        self.table = table
        self.layout = layout
        self.program = program
        self.entries: dict[Key, Entry] = {}
        self._notes = backing.notes
        maps = backing.maps
        self._free = deque(range(layout.size))
        self._defaults = maps.map("default_entries")
        self._state = TableState(maps.map("table_states"), layout.number)
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
        self._scan = Scan(layout, maps) if layout.kind is Kind.SCAN else None
        self.initial_default = (
            Call(table.default.action, table.default.data) if table.default else None
        )
        self.default = self.initial_default
        self.default_note = Note()
        self.constant = False
        if backing.resumed:
            self._recall()
        else:
            self._begin()
        self.constant = bool(table.entries)

    def _begin(self) -> None:
        """The program's own entries."""
        for key, call in constant_entries(self.table, self.layout):
            self.insert(key, call)
        self.publish()

    def _recall(self) -> None:
        """What a process before this one left in the maps."""
        if not self._default_is_constant:
            if self._state.defaulted:
                self.default = self._read_default()
            self.default_note = self._recall_note(self._default_place, self.default)
        found = self._scan.recall() if self._scan else self._read_map()
        for key, value in found:
            call, slot = self._decode(value)
            note = self._recall_note(self._place(key), call)
            self.entries[key] = Entry(key, call, slot, note)
            self.references[call] += 1
        used = {entry.slot for entry in self}
        self._free = deque(slot for slot in range(self.layout.size) if slot not in used)

    def _read_map(self) -> Iterator[tuple[Key, bytes]]:
        if self._map:
            value_size = 8 + 8 * self.layout.arguments
            for key, value in self._map.items(key_size(self.layout), value_size):
                yield decode_key(self.layout, key), value

    def _decode(self, value: bytes) -> tuple[Call, int]:
        if self.layout.profile:
            return decode_reference(value)
        return decode_value(self.program.actions, value)

    # notes
    def _place(self, key: Key) -> Place:
        numbers = [number for m in key.match for number in (m.value, m.second)]
        return ("entry", self.layout.name, key.priority, *numbers)

    @property
    def _default_place(self) -> Place:
        return ("default", self.layout.name)

    def _note(self, key: Key | None, call: Call | None, note: Note) -> None:
        """Keep a note of an entry, or of the default one, before it changes."""
        if note == _NOTHING and self._notes.is_empty:
            return
        place = self._place(key) if key else self._default_place
        if note != _NOTHING or self._notes.knows(place):
            self._notes.write(place, note.line(call))

    def _recall_note(self, place: Place, call: Call | None) -> Note:
        for line in self._notes.candidates(place):
            note = Note.of_line(line)
            if line == note.line(call):
                self._notes.recall(place, line)
                return note
        return _NOTHING

    # entries
    def _refuse_constant(self) -> None:
        if self.constant:
            raise TableConstant(f"the entries of table {self.table.name} are constant")

    def insert(
        self,
        key: Key,
        call: Call,
        note: Note = _NOTHING,
        counts: Counts | None = None,
        rates: Rates | None = None,
    ) -> Entry:
        self._refuse_constant()
        if key in self.entries:
            raise EntryExists(f"table {self.table.name} already has this entry")
        if not self._free:
            raise TableFull(f"table {self.table.name} is full ({self.layout.size} entries)")
        entry = Entry(key, call, self._free[0], note)
        self._start(entry, counts or Counts(), rates)
        self._note(key, call, note)
        self._state.set(filled=True)
        try:
            self._put(entry)
        except OSError as error:
            raise TableFull(f"table {self.table.name} takes no more: {error.strerror}") from error
        self._free.popleft()
        self.entries[key] = entry
        self.references[call] += 1
        return entry

    def _start(self, entry: Entry, counts: Counts, rates: Rates | None) -> None:
        """What belongs to the entry's place begins anew."""
        if self.counters:
            self.counters.write(entry.slot, counts)
        if self.meters:
            self.meters.write(entry.slot, rates)
        if self.times:
            self.times.write(entry.slot, time.monotonic_ns())

    def modify(self, key: Key, call: Call, note: Note = _NOTHING) -> Entry:
        """Give an entry another action; its place and its counter stay."""
        self._refuse_constant()
        before = self.find(key)
        entry = replace(before, call=call, note=note)
        self._note(key, call, note)
        self._put(entry)
        self.entries[key] = entry
        self.references[before.call] -= 1
        self.references[call] += 1
        return entry

    def delete(self, key: Key) -> Entry:
        self._refuse_constant()
        entry = self.find(key)
        if self._scan:
            self._scan.remove(key)
        elif self._map:
            self._map.delete(encode_key(self.layout, key))
        del self.entries[key]
        if not self._notes.is_empty:
            self._notes.forget(self._place(key))
        self.references[entry.call] -= 1
        # Taken again last: packets may still be counted there until publish().
        self._free.append(entry.slot)
        return entry

    def publish(self) -> None:
        """Let the data plane see the changes, where they do not show by themselves."""
        if self._scan:
            self._scan.publish()
        if not self.entries:
            self._state.set(filled=False)

    @property
    def changes_at_once(self) -> bool:
        """Whether any number of changes becomes visible with one publish()."""
        return self._scan is not None

    def find(self, key: Key) -> Entry:
        try:
            return self.entries[key]
        except KeyError:
            raise EntryMissing(f"table {self.table.name} has no such entry") from None

    def counts(self, entry: Entry) -> Counts:
        return self.counters.read(entry.slot) if self.counters else Counts()

    def rates(self, entry: Entry) -> Rates | None:
        return self.meters.read(entry.slot) if self.meters else None

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self.entries.values()))

    def _put(self, entry: Entry) -> None:
        if self._scan:
            self._scan.put(entry.key, self._value(entry))
        elif self._map:
            self._map.update(encode_key(self.layout, entry.key), self._value(entry))

    def _value(self, entry: Entry) -> bytes:
        if self.layout.profile:
            return encode_reference(entry.call, entry.slot)
        action = self.program.actions[entry.call.action]
        return encode_value(action, entry.call, entry.slot, self.layout.arguments)

    # the default entry
    @property
    def _default_is_constant(self) -> bool:
        """A constant one is compiled in."""
        return self.table.default is not None and self.table.default.const

    def set_default(self, call: Call | None, note: Note = _NOTHING) -> None:
        """Set the default action; None goes back to the program's own."""
        if self._default_is_constant:
            raise TableConstant(f"the default action of table {self.table.name} is constant")
        self.default = call or self.initial_default
        self.default_note = note
        self._note(None, self.default, note)
        self._write_default()

    def _write_default(self) -> None:
        if self.default is None or self.default == self.initial_default:
            self._state.set(defaulted=False)
            return
        key = struct.pack("=I", self.layout.number)
        action = self.program.actions[self.default.action]
        self._defaults.update(key, encode_value(action, self.default, 0, self._default_slots))
        self._state.set(defaulted=True)

    def _read_default(self) -> Call:
        value = self._defaults.lookup(
            struct.pack("=I", self.layout.number), 8 + 8 * self._default_slots
        )
        return decode_value(self.program.actions, value)[0]

    @property
    def _default_slots(self) -> int:
        """All defaults share a map, so all have room for the longest."""
        tables = [*self.program.ingress.tables.values(), *self.program.egress.tables.values()]
        actions = {a for t in tables for a in t.actions.values()}
        return max([1, *(slot_count(self.program.actions[a].parameters) for a in actions)])
