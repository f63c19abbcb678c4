# SPDX-License-Identifier: Apache-2.0
"""The pipeline as P4Runtime sees it: writes and reads of entities against a data plane."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from finsy.proto import p4i, p4r
from google.protobuf import text_format

from .dataplane import Dataplane
from .entries import (
    CounterMap,
    Counts,
    Entry,
    EntryError,
    EntryExists,
    EntryMissing,
    Key,
    TableConstant,
    TableFull,
    TableStore,
)
from .errors import BadProgram
from .rpc_errors import RpcFailure, invalid, not_found, unimplemented
from .schema import Schema, TableSchema, counter_data

_CODES = {
    EntryExists: grpc.StatusCode.ALREADY_EXISTS,
    EntryMissing: grpc.StatusCode.NOT_FOUND,
    TableFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TableConstant: grpc.StatusCode.PERMISSION_DENIED,
}


class Pipeline:
    """A committed (or verified) forwarding pipeline."""

    def __init__(
        self, config: p4r.ForwardingPipelineConfig, cpu_port: int, framed: bool = False
    ) -> None:
        self.config = config
        self.dataplane = Dataplane.build(config.p4_device_config, cpu_port, framed)
        try:
            self.schema = Schema(config.p4info, self.dataplane.compiled.program)
        except BadProgram:
            self.dataplane.close()
            raise
        self._notes: dict[tuple[int, Key], p4r.TableEntry] = {}

    # writing
    def write(self, update: p4r.Update) -> None:
        """Apply one update or raise RpcFailure."""
        kind = update.entity.WhichOneof("entity")
        try:
            match kind:
                case "table_entry":
                    self._write_entry(update.type, update.entity.table_entry)
                case "direct_counter_entry":
                    self._write_direct_counter(update)
                case "counter_entry":
                    self._write_counter(update)
                case _:
                    raise unimplemented(f"writing {kind or 'an empty entity'} is not supported")
        except EntryError as error:
            raise RpcFailure(_CODES[type(error)], str(error)) from error

    def _store(self, table: TableSchema) -> TableStore:
        return self.dataplane.tables[table.name]

    def _write_entry(self, kind: int, message: p4r.TableEntry) -> None:
        table = self.schema.table(message.table_id)
        if message.idle_timeout_ns:
            raise invalid(f"table {table.name} has no idle timeout")
        if message.HasField("meter_config"):
            raise invalid(f"table {table.name} has no direct meter")
        if message.HasField("counter_data") and not self.schema.counted(table):
            raise invalid(f"table {table.name} has no direct counter")
        if message.is_default_action:
            self._write_default(kind, table, message)
            return
        store = self._store(table)
        key = table.key(message)
        match kind:
            case p4r.Update.INSERT:
                store.insert(key, table.call(message.action))
            case p4r.Update.MODIFY:
                store.find(key)
                store.modify(key, table.call(message.action))
            case p4r.Update.DELETE:
                store.delete(key)
                self._notes.pop((table.id, key), None)
                return
            case _:
                raise invalid("an update is INSERT, MODIFY or DELETE")
        if message.metadata or message.controller_metadata:
            self._notes[table.id, key] = message
        else:
            self._notes.pop((table.id, key), None)
        if message.HasField("counter_data"):
            self._set_count(store, store.find(key), message.counter_data)

    def _write_default(self, kind: int, table: TableSchema, message: p4r.TableEntry) -> None:
        if kind != p4r.Update.MODIFY:
            raise invalid(f"the default entry of table {table.name} can only be modified")
        if message.match or message.priority:
            raise invalid(f"the default entry of table {table.name} has no match and no priority")
        call = table.call(message.action, default=True) if message.HasField("action") else None
        self._store(table).set_default(call)

    def _set_count(self, store: TableStore, entry: Entry, data: p4r.CounterData) -> None:
        if store.counters:
            store.counters.write(entry.slot, Counts(data.packet_count, data.byte_count))

    def _write_direct_counter(self, update: p4r.Update) -> None:
        if update.type != p4r.Update.MODIFY:
            raise invalid("a counter can only be modified")
        message = update.entity.direct_counter_entry
        table = self.schema.table(message.table_entry.table_id)
        if not self.schema.counted(table):
            raise invalid(f"table {table.name} has no direct counter")
        store = self._store(table)
        self._set_count(store, store.find(table.key(message.table_entry)), message.data)

    def _write_counter(self, update: p4r.Update) -> None:
        if update.type != p4r.Update.MODIFY:
            raise invalid("a counter can only be modified")
        message = update.entity.counter_entry
        counts = Counts(message.data.packet_count, message.data.byte_count)
        counters, indices = self._counter(message)
        for index in indices:
            counters.write(index, counts)

    def _counter(self, message: p4r.CounterEntry) -> tuple[CounterMap, range]:
        """The counter of a message and the indices it asks for."""
        name = self.schema.counters.get(message.counter_id)
        if name is None:
            raise not_found(f"the pipeline has no counter {message.counter_id}")
        size = self.dataplane.compiled.counters[name].size
        counters = self.dataplane.counters[name]
        if not message.HasField("index"):
            return counters, range(size)
        index = message.index.index
        if not 0 <= index < size:
            raise RpcFailure(grpc.StatusCode.OUT_OF_RANGE, f"counter {name} has no index {index}")
        return counters, range(index, index + 1)

    # reading
    def read(self, entity: p4r.Entity) -> Iterator[p4r.Entity]:
        kind = entity.WhichOneof("entity")
        match kind:
            case "table_entry":
                return self._read_entries(entity.table_entry)
            case "direct_counter_entry":
                return self._read_direct_counters(entity.direct_counter_entry)
            case "counter_entry":
                return self._read_counters(entity.counter_entry)
        raise unimplemented(f"reading {kind or 'an empty entity'} is not supported")

    def _tables(self, number: int) -> list[TableSchema]:
        return [self.schema.table(number)] if number else list(self.schema.tables.values())

    def _select(self, table: TableSchema, message: p4r.TableEntry) -> list[Entry]:
        """Entries a read asks for: the one that is matched, or all."""
        store = self._store(table)
        if not message.match and not message.priority:
            return list(store)
        entry = store.entries.get(table.key(message))
        return [entry] if entry else []

    def _read_entries(self, message: p4r.TableEntry) -> Iterator[p4r.Entity]:
        if message.match and not message.table_id:
            raise invalid("a match needs a table")
        for table in self._tables(message.table_id):
            store = self._store(table)
            if message.is_default_action:
                yield p4r.Entity(table_entry=table.default_message(store.default))
                continue
            with_counts = message.HasField("counter_data") and self.schema.counted(table)
            for entry in self._select(table, message):
                result = self._entry_message(table, entry)
                if with_counts:
                    result.counter_data.CopyFrom(counter_data(store.counts(entry)))
                yield p4r.Entity(table_entry=result)

    def _entry_message(self, table: TableSchema, entry: Entry) -> p4r.TableEntry:
        result = table.message(entry)
        note = self._notes.get((table.id, entry.key))
        if note is not None:
            result.metadata = note.metadata
            result.controller_metadata = note.controller_metadata
        return result

    def _read_direct_counters(self, message: p4r.DirectCounterEntry) -> Iterator[p4r.Entity]:
        wanted = message.table_entry.table_id
        for table in self._tables(wanted):
            if not self.schema.counted(table):
                if wanted:
                    raise invalid(f"table {table.name} has no direct counter")
                continue
            store = self._store(table)
            for entry in self._select(table, message.table_entry):
                result = p4r.DirectCounterEntry(data=counter_data(store.counts(entry)))
                result.table_entry.CopyFrom(table.message(entry))
                result.table_entry.ClearField("action")
                yield p4r.Entity(direct_counter_entry=result)

    def _read_counters(self, message: p4r.CounterEntry) -> Iterator[p4r.Entity]:
        numbers = [message.counter_id] if message.counter_id else list(self.schema.counters)
        for number in numbers:
            asked = p4r.CounterEntry(counter_id=number)
            if message.HasField("index"):
                asked.index.CopyFrom(message.index)
            counters, indices = self._counter(asked)
            for index in indices:
                result = p4r.CounterEntry(counter_id=number)
                result.index.index = index
                result.data.CopyFrom(counter_data(counters.read(index)))
                yield p4r.Entity(counter_entry=result)

    def adopt(self, other: Pipeline) -> None:
        """Take over the entries of another pipeline; RpcFailure where they do not fit."""
        for schema in other.schema.tables.values():
            for entry in other.dataplane.tables[schema.name]:
                if not other.dataplane.tables[schema.name].constant:
                    message = other._entry_message(schema, entry)
                    self.write(_update(p4r.Update.INSERT, message))
            store = other.dataplane.tables[schema.name]
            if store.default != store.initial_default:
                self.write(_update(p4r.Update.MODIFY, schema.default_message(store.default)))

    def close(self) -> None:
        self.dataplane.close()


def _update(kind: p4r.Update.Type, entry: p4r.TableEntry) -> p4r.Update:
    return p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry))


def config_from_files(p4info: bytes, device_config: bytes) -> p4r.ForwardingPipelineConfig:
    """A configuration from a P4Info in text or binary form and a BMv2 JSON."""
    info = p4i.P4Info()
    try:
        text_format.Parse(p4info, info)
    except (text_format.ParseError, UnicodeDecodeError):
        try:
            info.ParseFromString(p4info)
        except Exception as error:
            raise BadProgram("the P4Info file is neither text nor binary P4Info") from error
    return p4r.ForwardingPipelineConfig(p4info=info, p4_device_config=device_config)
