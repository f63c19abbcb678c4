# SPDX-License-Identifier: Apache-2.0
"""Table entries, default entries, and the counters and meters that belong to entries."""

from __future__ import annotations

import time
from collections.abc import Iterator

from finsy.proto import p4r

from ..cells import Counts, Rates
from ..compiler import GROUP, MEMBER
from ..dataplane import Dataplane
from ..encoding import Call
from ..entries import Entry, Note, TableStore
from ..rpc_errors import invalid, not_found
from ..schema import Schema, TableSchema, counter_data
from .handler import DELETE, INSERT, MODIFY, Undo, only_modify
from .meters import meter_config, rates_of, refuse_colours
from .oneshot import OneShots


class Tables:
    """The tables of a pipeline, as entries and their direct resources see them."""

    def __init__(self, dataplane: Dataplane, schema: Schema) -> None:
        self.dataplane = dataplane
        self.schema = schema
        for table in schema.tables.values():
            self.store(table).constant = table.constant

    def store(self, table: TableSchema) -> TableStore:
        return self.dataplane.tables[table.name]

    def asked(self, number: int) -> list[TableSchema]:
        """The table of a read, or all."""
        return [self.schema.table(number)] if number else list(self.schema.tables.values())

    def counted(self, table: TableSchema) -> TableStore:
        if not self.schema.counted(table):
            raise invalid(f"table {table.name} has no direct counter")
        return self.store(table)

    def metered(self, table: TableSchema) -> TableStore:
        if table.id not in self.schema.direct_meters:
            raise invalid(f"table {table.name} has no direct meter")
        return self.store(table)

    def put_rates(self, table: TableSchema, entry: Entry, message: p4r.MeterConfig | None) -> None:
        """Set an entry's rates; None is the default, where every packet is green."""
        info = self.schema.direct_meters.get(table.id)
        meters = self.store(table).meters
        if info and meters:
            rates = rates_of(message, info) if message is not None else None
            if rates != meters.read(entry.slot):  # the same rates must not refill the buckets
                meters.write(entry.slot, rates)


class TableEntries:
    """Entries of tables, and their default entries."""

    def __init__(self, tables: Tables, one_shots: OneShots) -> None:
        self.tables = tables
        self.schema = tables.schema
        self.one_shots = one_shots

    # writing
    def write(self, kind: int, message: p4r.TableEntry) -> Undo:
        if kind not in (INSERT, MODIFY, DELETE):
            raise invalid("an update is INSERT, MODIFY or DELETE")
        table = self.schema.table(message.table_id)
        if message.is_const:
            raise invalid("is_const is the switch's to set")
        if message.is_default_action:
            return self._write_default(kind, table, message)
        if not table.fields:
            raise invalid(f"table {table.name} has no key: it has a default entry only")
        if kind == DELETE:
            return self._delete(table, message)
        self._check_resources(table, message)
        return self._insert(table, message) if kind == INSERT else self._modify(table, message)

    def _check_resources(self, table: TableSchema, message: p4r.TableEntry) -> None:
        if message.HasField("time_since_last_hit"):
            raise invalid("time_since_last_hit is the switch's to set")
        if message.idle_timeout_ns and not table.idle_timeout:
            raise invalid(f"table {table.name} has no idle timeout")
        if message.idle_timeout_ns < 0:
            raise invalid("an idle timeout is not negative")
        if message.HasField("meter_config"):
            self.tables.metered(table)
            rates_of(message.meter_config, self.schema.direct_meters[table.id])
        refuse_colours(message.HasField("meter_counter_data"))
        if message.HasField("counter_data"):
            self.tables.counted(table)

    def _insert(self, table: TableSchema, message: p4r.TableEntry) -> Undo:
        store = self.tables.store(table)
        key = table.key(message)
        call, forget = self._call(table, store, message)
        counts = counts_of(message.counter_data)
        given = message.HasField("meter_config")
        info = self.schema.direct_meters.get(table.id)
        rates = rates_of(message.meter_config, info) if given and info else None
        try:
            store.insert(key, call, _note(message), counts, rates)
        except BaseException:
            forget()
            raise
        return lambda: self.one_shots.forget(store, store.delete(key))

    def _modify(self, table: TableSchema, message: p4r.TableEntry) -> Undo:
        store = self.tables.store(table)
        before = store.find(table.key(message))
        state = _State.of(store, before)
        given = message.HasField("action")
        if given:
            call, forget = self._call(table, store, message)
            try:
                store.modify(before.key, call, _note(message))
            except BaseException:
                forget()
                raise
            self.one_shots.forget(store, before)
        elif not store.constant:
            store.modify(before.key, before.call, _note(message, before.note.action_set))
        self._put_resources(table, before, message)

        def undo() -> None:
            now = store.find(before.key)
            if given:
                store.modify(before.key, self.one_shots.again(table, store, before), before.note)
                self.one_shots.forget(store, now)
            elif not store.constant:
                store.modify(before.key, now.call, before.note)
            state.restore(store, before)

        return undo

    def _delete(self, table: TableSchema, message: p4r.TableEntry) -> Undo:
        store = self.tables.store(table)
        entry = store.find(table.key(message))
        state = _State.of(store, entry)
        store.delete(entry.key)
        self.one_shots.forget(store, entry)

        def undo() -> None:
            call = self.one_shots.again(table, store, entry)
            store.insert(entry.key, call, entry.note, state.counts, state.rates)

        return undo

    def _call(
        self, table: TableSchema, store: TableStore, message: p4r.TableEntry
    ) -> tuple[Call, Undo]:
        """What an entry calls, and how to forget it where it was made for this entry."""
        if table.indirect and message.action.WhichOneof("type") == "action_profile_action_set":
            return self.one_shots.make(table, store, message.action.action_profile_action_set)
        call = table.call(message.action)
        if table.indirect:
            self.one_shots.refuse_mixture(store, one_shot=False)
            self._check_reference(store, call)
        return call, _nothing

    def _check_reference(self, store: TableStore, call: Call) -> None:
        profile = self.tables.dataplane.profiles[store.layout.profile or ""]
        if call.action == MEMBER:
            profile.member(call.arguments[0])
        elif call.action == GROUP:
            if not profile.layout.selector:
                raise invalid(f"{profile.layout.name} has no groups")
            profile.group(call.arguments[0])

    def _put_resources(self, table: TableSchema, entry: Entry, message: p4r.TableEntry) -> None:
        store = self.tables.store(table)
        if message.HasField("counter_data") and store.counters:
            store.counters.write(entry.slot, counts_of(message.counter_data))
        given = message.HasField("meter_config")
        self.tables.put_rates(table, entry, message.meter_config if given else None)

    def _write_default(self, kind: int, table: TableSchema, message: p4r.TableEntry) -> Undo:
        if kind != MODIFY:
            raise invalid(f"the default entry of table {table.name} can only be modified")
        if message.match or message.priority:
            raise invalid(f"the default entry of table {table.name} has no match and no priority")
        if message.idle_timeout_ns or message.HasField("time_since_last_hit"):
            raise invalid("default entries have no idle timeout")
        if message.HasField("counter_data") or message.HasField("meter_config"):
            raise invalid("default entries have no counter and no meter here")
        store = self.tables.store(table)
        before, note = store.default, store.default_note
        if message.HasField("action"):
            store.set_default(table.call(message.action, default=True), _note(message))
        else:
            store.set_default(None)
        return lambda: store.set_default(before, note)

    # reading
    def read(self, message: p4r.TableEntry) -> Iterator[p4r.Entity]:
        if not message.table_id and (message.match or message.HasField("action")):
            raise invalid("a read of all tables can name neither match nor action")
        for table in self.tables.asked(message.table_id):
            store = self.tables.store(table)
            self._check_asked(table, message)
            found = (
                [self._default(table, store)]
                if message.is_default_action
                else self._entries(table, store, message)
            )
            for entry in found:
                if _passes(entry, message):
                    yield p4r.Entity(table_entry=entry)

    def _check_asked(self, table: TableSchema, message: p4r.TableEntry) -> None:
        refuse_colours(message.HasField("meter_counter_data"))
        elapsed = message.HasField("time_since_last_hit")
        if elapsed and message.table_id and not table.idle_timeout:
            raise invalid(f"table {table.name} has no idle timeout")

    def _default(self, table: TableSchema, store: TableStore) -> p4r.TableEntry:
        result = table.default_message(store.default)
        _put_note(result, store.default_note)
        result.is_const = bool(store.table.default and store.table.default.const)
        return result

    def _entries(
        self, table: TableSchema, store: TableStore, message: p4r.TableEntry
    ) -> Iterator[p4r.TableEntry]:
        now = time.monotonic_ns()
        for entry in select(table, store, message):
            result = entry_message(table, entry)
            result.is_const = store.constant
            if message.HasField("counter_data") and store.counters:
                result.counter_data.CopyFrom(counter_data(store.counts(entry)))
            rates = store.rates(entry) if message.HasField("meter_config") else None
            if rates:
                result.meter_config.CopyFrom(meter_config(rates))
            if message.HasField("time_since_last_hit") and store.times:
                result.time_since_last_hit.elapsed_ns = max(0, now - store.times.read(entry.slot))
            yield result


def _nothing() -> None:
    """There is nothing to undo."""


class _State:
    """What the data plane and the controller wrote into an entry's counter and meter."""

    def __init__(self, counts: Counts, rates: Rates | None) -> None:
        self.counts = counts
        self.rates = rates

    @classmethod
    def of(cls, store: TableStore, entry: Entry) -> _State:
        return cls(store.counts(entry), store.rates(entry))

    def restore(self, store: TableStore, entry: Entry) -> None:
        if store.counters:
            store.counters.write(entry.slot, self.counts)
        if store.meters and store.rates(entry) != self.rates:
            store.meters.write(entry.slot, self.rates)


def select(table: TableSchema, store: TableStore, message: p4r.TableEntry) -> list[Entry]:
    """Entries a read asks for: those that are matched, or all."""
    if not message.match:
        return list(store)
    key = table.key(message, any_priority=True)
    if table.prioritised and not key.priority:
        return [entry for entry in store if entry.key.match == key.match]
    entry = store.entries.get(key)
    return [entry] if entry else []


def _passes(entry: p4r.TableEntry, filters: p4r.TableEntry) -> bool:
    """Fields of a read that are not at their default select entries."""
    wanted = filters.action.action.action_id
    return (
        filters.priority in (0, entry.priority)
        and filters.controller_metadata in (0, entry.controller_metadata)
        and filters.metadata in (b"", entry.metadata)
        and wanted in (0, entry.action.action.action_id)
    )


def entry_message(table: TableSchema, entry: Entry) -> p4r.TableEntry:
    """An entry as its controller wrote it."""
    result = table.message(entry)
    _put_note(result, entry.note)
    return result


def _note(message: p4r.TableEntry, action_set: bytes = b"") -> Note:
    if message.action.HasField("action_profile_action_set"):
        action_set = message.action.action_profile_action_set.SerializeToString()
    return Note(message.metadata, message.controller_metadata, message.idle_timeout_ns, action_set)


def _put_note(message: p4r.TableEntry, note: Note) -> None:
    message.metadata = note.metadata
    message.controller_metadata = note.controller_metadata
    message.idle_timeout_ns = note.idle_timeout_ns
    if note.action_set:
        message.action.action_profile_action_set.ParseFromString(note.action_set)


def counts_of(message: p4r.CounterData) -> Counts:
    return Counts(message.packet_count, message.byte_count)


class DirectCounters:
    """The counters of entries, by themselves."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def write(self, kind: int, message: p4r.DirectCounterEntry) -> Undo:
        only_modify(kind, "a direct counter")
        table = self.tables.schema.table(message.table_entry.table_id)
        store = self.tables.counted(table)
        entry = store.find(table.key(message.table_entry))
        before = store.counts(entry)
        if message.HasField("data"):
            _write(store, entry, counts_of(message.data))
        return lambda: _write(store, entry, before)

    def read(self, message: p4r.DirectCounterEntry) -> Iterator[p4r.Entity]:
        asked = message.table_entry
        for table in self.tables.asked(asked.table_id):
            if not asked.table_id and not self.tables.schema.counted(table):
                continue
            store = self.tables.counted(table)
            for entry in found_entries(table, store, asked):
                result = p4r.DirectCounterEntry(data=counter_data(store.counts(entry)))
                result.table_entry.CopyFrom(table.message(entry))
                result.table_entry.ClearField("action")
                yield p4r.Entity(direct_counter_entry=result)


def _write(store: TableStore, entry: Entry, counts: Counts) -> None:
    if store.counters:
        store.counters.write(entry.slot, counts)


def found_entries(table: TableSchema, store: TableStore, asked: p4r.TableEntry) -> list[Entry]:
    """Entries whose direct resource is read; the one that is named has to be there."""
    found = select(table, store, asked)
    if asked.match and not found:
        raise not_found(f"table {table.name} has no such entry")
    return found


class DirectMeters:
    """The meters of entries, by themselves."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def write(self, kind: int, message: p4r.DirectMeterEntry) -> Undo:
        only_modify(kind, "a direct meter")
        refuse_colours(message.HasField("counter_data"))
        table = self.tables.schema.table(message.table_entry.table_id)
        store = self.tables.metered(table)
        entry = store.find(table.key(message.table_entry))
        state = _State.of(store, entry)
        given = message.HasField("config")
        self.tables.put_rates(table, entry, message.config if given else None)
        return lambda: state.restore(store, entry)

    def read(self, message: p4r.DirectMeterEntry) -> Iterator[p4r.Entity]:
        refuse_colours(message.HasField("counter_data"))
        asked = message.table_entry
        for table in self.tables.asked(asked.table_id):
            if not asked.table_id and table.id not in self.tables.schema.direct_meters:
                continue
            store = self.tables.metered(table)
            for entry in found_entries(table, store, asked):
                result = p4r.DirectMeterEntry()
                result.table_entry.CopyFrom(table.message(entry))
                result.table_entry.ClearField("action")
                rates = store.rates(entry)
                if rates:
                    result.config.CopyFrom(meter_config(rates))
                yield p4r.Entity(direct_meter_entry=result)
