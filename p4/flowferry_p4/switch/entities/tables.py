# SPDX-License-Identifier: Apache-2.0
"""Table entries, default entries, and the counters that belong to entries."""

from __future__ import annotations

from collections.abc import Iterator

from finsy.proto import p4r

from ..dataplane import Dataplane
from ..entries import Call, Counts, Entry, Note, TableStore
from ..rpc_errors import invalid, not_found
from ..schema import Schema, TableSchema, counter_data
from .handler import DELETE, INSERT, MODIFY, Undo, only_modify


class Tables:
    """The tables of a pipeline, as entries and their direct counters see them."""

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


class TableEntries:
    """Entries of tables, and their default entries."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.schema = tables.schema

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
        return self._put(kind, table, message)

    def _check_resources(self, table: TableSchema, message: p4r.TableEntry) -> None:
        if message.idle_timeout_ns or message.HasField("time_since_last_hit"):
            raise invalid(f"table {table.name} has no idle timeout")
        if message.HasField("meter_config") or message.HasField("meter_counter_data"):
            raise invalid(f"table {table.name} has no direct meter")
        if message.HasField("counter_data"):
            self.tables.counted(table)

    def _put(self, kind: int, table: TableSchema, message: p4r.TableEntry) -> Undo:
        store = self.tables.store(table)
        key = table.key(message)
        note = Note(message.metadata, message.controller_metadata)
        if kind == INSERT:
            entry = store.insert(key, table.call(message.action), note)
            self._set_count(store, entry, message)
            return lambda: store.delete(key)
        before = store.find(key)
        counts = store.counts(before) if message.HasField("counter_data") else None
        given = message.HasField("action")
        if given or not store.constant:
            store.modify(key, table.call(message.action) if given else before.call, note)
        self._set_count(store, before, message)

        def undo() -> None:
            if not store.constant:
                store.modify(key, before.call, before.note)
            if counts is not None and store.counters:
                store.counters.write(before.slot, counts)

        return undo

    def _set_count(self, store: TableStore, entry: Entry, message: p4r.TableEntry) -> None:
        if message.HasField("counter_data") and store.counters:
            store.counters.write(entry.slot, counts_of(message.counter_data))

    def _delete(self, table: TableSchema, message: p4r.TableEntry) -> Undo:
        store = self.tables.store(table)
        key = table.key(message)
        entry = store.find(key)
        counts = store.counts(entry)
        store.delete(key)

        def undo() -> None:
            again = store.insert(key, entry.call, entry.note)
            if store.counters:
                store.counters.write(again.slot, counts)

        return undo

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
        call: Call | None = None
        if message.HasField("action"):
            call = table.call(message.action, default=True)
            store.set_default(call, Note(message.metadata, message.controller_metadata))
        else:
            store.set_default(None)
        return lambda: store.set_default(before, note)

    # reading
    def read(self, message: p4r.TableEntry) -> Iterator[p4r.Entity]:
        if not message.table_id and (message.match or message.HasField("action")):
            raise invalid("a read of all tables can name neither match nor action")
        for table in self.tables.asked(message.table_id):
            store = self.tables.store(table)
            found = (
                [self._default(table, store)]
                if message.is_default_action
                else self._entries(table, store, message)
            )
            for entry in found:
                if _passes(entry, message):
                    yield p4r.Entity(table_entry=entry)

    def _default(self, table: TableSchema, store: TableStore) -> p4r.TableEntry:
        result = table.default_message(store.default)
        _put_note(result, store.default_note)
        result.is_const = bool(store.table.default and store.table.default.const)
        return result

    def _entries(
        self, table: TableSchema, store: TableStore, message: p4r.TableEntry
    ) -> Iterator[p4r.TableEntry]:
        with_counts = message.HasField("counter_data") and self.schema.counted(table)
        for entry in select(table, store, message):
            result = table.message(entry)
            _put_note(result, entry.note)
            result.is_const = store.constant
            if with_counts:
                result.counter_data.CopyFrom(counter_data(store.counts(entry)))
            yield result


def select(table: TableSchema, store: TableStore, message: p4r.TableEntry) -> list[Entry]:
    """Entries a read asks for: the one that is matched, or all."""
    if not message.match:
        return list(store)
    entry = store.entries.get(table.key(message))
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


def _put_note(message: p4r.TableEntry, note: Note) -> None:
    message.metadata = note.metadata
    message.controller_metadata = note.controller_metadata


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
            found = select(table, store, asked)
            if asked.match and not found:
                raise not_found(f"table {table.name} has no such entry")
            for entry in found:
                result = p4r.DirectCounterEntry(data=counter_data(store.counts(entry)))
                result.table_entry.CopyFrom(table.message(entry))
                result.table_entry.ClearField("action")
                yield p4r.Entity(direct_counter_entry=result)


def _write(store: TableStore, entry: Entry, counts: Counts) -> None:
    if store.counters:
        store.counters.write(entry.slot, counts)
