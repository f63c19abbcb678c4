# SPDX-License-Identifier: Apache-2.0
"""The pipeline as P4Runtime sees it: writes and reads of entities against a data plane."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
from finsy.proto import p4i, p4r
from google.protobuf import text_format

from .bmv2_json import load
from .compiler import CompiledProgram, compile_program
from .dataplane import Dataplane
from .digests import Digests
from .entities import Handler, Undo
from .entities.arrays import Counters, Meters, Registers
from .entities.handler import failure_of
from .entities.oneshot import OneShots
from .entities.profiles import Groups, Members, Profiles
from .entities.replication import Replication
from .entities.tables import DirectCounters, DirectMeters, TableEntries, Tables
from .entities.value_sets import ValueSets
from .entries import EntryError
from .errors import BadProgram, PinError
from .events import Events
from .idle import IdleTimeouts
from .notebook import Notebook, NotebookFull
from .pins import Pins
from .rpc_errors import RpcFailure, invalid, unimplemented
from .schema import Schema

Results = Sequence[RpcFailure | None]
"""What became of each update of a batch."""

Notify: TypeAlias = Callable[[p4r.StreamMessageResponse], object]
"""Sends a message to the primaries."""

_CONTINUE = p4r.WriteRequest.CONTINUE_ON_ERROR
_ROLLBACK = p4r.WriteRequest.ROLLBACK_ON_ERROR
_ATOMIC = p4r.WriteRequest.DATAPLANE_ATOMIC


class Pipeline:
    """A committed (or verified) forwarding pipeline."""

    def __init__(
        self, config: p4r.ForwardingPipelineConfig, dataplane: Dataplane, notify: Notify
    ) -> None:
        self.config = config
        self._notify = notify
        self._threads: list[Events | IdleTimeouts] = []
        self.dataplane = dataplane
        self.pinned = 0
        """The number that it is pinned by, or 0."""
        self._notes = dataplane.backing.notes
        self.schema = Schema(config.p4info, dataplane.compiled.program)
        self._tables = tables = Tables(self.dataplane, self.schema)
        self.digests = Digests(self.schema, notify, self._notes)
        profiles = Profiles(self.dataplane, self.schema)
        self._entries = TableEntries(tables, OneShots(self.dataplane, self.schema))
        self._handlers: dict[str, Handler] = {
            "action_profile_member": Members(profiles),
            "action_profile_group": Groups(profiles),
            "table_entry": self._entries,
            "direct_counter_entry": DirectCounters(tables),
            "direct_meter_entry": DirectMeters(tables),
            "counter_entry": Counters(self.dataplane, self.schema),
            "meter_entry": Meters(self.dataplane, self.schema),
            "register_entry": Registers(self.dataplane, self.schema),
            "packet_replication_engine_entry": Replication(self.dataplane),
            "value_set_entry": ValueSets(self.dataplane, self.schema),
            "digest_entry": self.digests,
        }

    @classmethod
    def build(
        cls,
        config: p4r.ForwardingPipelineConfig,
        cpu_port: int,
        framed: bool = False,
        notify: Notify = lambda _: None,
    ) -> Pipeline:
        """A pipeline as a controller sets it."""
        dataplane = Dataplane.build(config.p4_device_config, cpu_port, framed)
        return cls._of(config, dataplane, notify)

    @classmethod
    def _of(
        cls, config: p4r.ForwardingPipelineConfig, dataplane: Dataplane, notify: Notify
    ) -> Pipeline:
        try:
            return cls(config, dataplane, notify)
        except BaseException:
            dataplane.close()
            raise

    # beyond this process
    def pin(self, pins: Pins) -> None:
        """Let its program and its state live on; `pins.name_pipelines` makes that hold."""
        if self.pinned:
            return
        number = pins.new_pipeline()
        files = pins.files(number)
        self.dataplane.backing.maps.pin(pins.maps_of(number))
        (files / "config").write_bytes(self.config.SerializeToString())
        (files / "code").write_text(self.dataplane.compiled.code)
        self._notes.keep(files / "notes")
        self.pinned = number

    @classmethod
    def resume(cls, pins: Pins, number: int, cpu_port: int, notify: Notify) -> Pipeline:
        """Take over what a process before this one has pinned."""
        config, compiled = read_pinned(pins, number, cpu_port)
        files = pins.files(number)
        notes = Notebook.found(files / "notes")
        dataplane = Dataplane.resume(compiled, pins.maps_of(number), notes)
        pipeline = cls._of(config, dataplane, notify)
        notes.keep(files / "notes")
        pipeline.pinned = number
        return pipeline

    def start(self, lock: threading.RLock) -> None:
        """Begin to report, once packets come through; `lock` is held while tables are read."""
        self._threads.append(IdleTimeouts(self._tables, lock, self._notify))
        if self.dataplane.reports_events:
            self._threads.append(Events(self.dataplane, self.digests.report))

    # writing
    def write(self, updates: Sequence[p4r.Update], atomicity: int = _CONTINUE) -> Results:
        """Apply a batch; raise RpcFailure where it is refused as a whole."""
        if atomicity not in (_CONTINUE, _ROLLBACK, _ATOMIC):
            raise invalid(f"there is no atomicity {atomicity}")
        if atomicity == _ATOMIC:
            self._refuse_unless_atomic(updates)
        results: list[RpcFailure | None] = []
        done: list[Undo] = []
        for update in updates:
            try:
                done.append(self._apply(update))
                results.append(None)
            except RpcFailure as failure:
                results.append(failure)
                if atomicity != _CONTINUE:
                    results = _rolled_back(results, len(updates))
                    for undo in reversed(done):
                        undo()
                    break
        self.dataplane.publish()
        self._notes.settle()
        return results

    def _apply(self, update: p4r.Update) -> Undo:
        handler, message = self._handler(update.entity, "writing")
        try:
            if handler is self._entries:
                return handler.write(update.type, message)
            self.dataplane.publish()  # entries that are deleted may call what is deleted now
            undo = handler.write(update.type, message)
        except EntryError as error:
            raise failure_of(error) from error
        except NotebookFull as error:
            raise RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error

        def put_back() -> None:
            self.dataplane.publish()
            undo()

        return put_back

    def _refuse_unless_atomic(self, updates: Sequence[p4r.Update]) -> None:
        """One update is atomic, and so are changes of a table that has two banks of entries."""
        if len(updates) < 2:
            return
        touched = set()
        for update in updates:
            entry = update.entity.table_entry
            plain = not (entry.is_default_action or entry.HasField("counter_data"))
            if update.entity.WhichOneof("entity") != "table_entry" or not plain:
                break
            touched.add(entry.table_id)
        else:
            table = self.schema.tables.get(touched.pop()) if len(touched) == 1 else None
            if table and self.dataplane.tables[table.name].changes_at_once:
                return
        raise unimplemented(
            "a DATAPLANE_ATOMIC batch is one update, or several of the same table with ternary, "
            "range or optional keys"
        )

    def _handler(self, entity: p4r.Entity, doing: str) -> tuple[Handler, Any]:
        kind = entity.WhichOneof("entity")
        if kind is None:
            raise invalid("the entity is empty")
        if kind not in self._handlers:
            raise unimplemented(f"{doing} {kind} is not supported")
        return self._handlers[kind], getattr(entity, kind)

    # reading
    def read(self, entities: Sequence[p4r.Entity]) -> tuple[list[p4r.Entity], Results]:
        """What a read asks for, and what became of each of its requests."""
        found: list[p4r.Entity] = []
        results: list[RpcFailure | None] = []
        for entity in entities:
            try:
                found += self._read(entity)
                results.append(None)
            except RpcFailure as failure:
                results.append(failure)
        return found, results

    def _read(self, entity: p4r.Entity) -> list[p4r.Entity]:
        handler, message = self._handler(entity, "reading")
        return list(handler.read(message))

    def adopt(self, other: Pipeline) -> None:
        """Take over the state of another pipeline; RpcFailure where it does not fit."""
        for store in self.dataplane.tables.values():
            if not store.constant:
                for entry in store:  # of the program, which the other may have changed
                    store.delete(entry.key)
        for update in other.state():
            self._apply(update)
        self.dataplane.publish()

    def state(self) -> list[p4r.Update]:
        """Updates that give a fresh pipeline of the same program the state of this one."""
        wanted = p4r.TableEntry()
        wanted.counter_data.SetInParent()
        updates = []
        for entity in self._read(p4r.Entity(table_entry=wanted)):
            if not entity.table_entry.is_const:
                updates.append(p4r.Update(type="INSERT", entity=entity))
        for entity in self._read(p4r.Entity(table_entry=p4r.TableEntry(is_default_action=True))):
            table = self.schema.tables[entity.table_entry.table_id]
            store = self.dataplane.tables[table.name]
            if store.default != store.initial_default:
                updates.append(p4r.Update(type="MODIFY", entity=entity))
        return updates

    def close(self) -> None:
        for thread in self._threads:
            thread.close()
        self.digests.close()
        self.dataplane.close()


def read_pinned(
    pins: Pins, number: int, cpu_port: int
) -> tuple[p4r.ForwardingPipelineConfig, CompiledProgram]:
    """The configuration of a pinned pipeline; PinError where its maps are not as ours would be."""
    files = pins.files(number)
    config = p4r.ForwardingPipelineConfig.FromString((files / "config").read_bytes())
    compiled = compile_program(load(config.p4_device_config), cpu_port)
    if compiled.code != (files / "code").read_text():
        raise PinError(
            f"this version of the switch makes other code of the program pinned in "
            f"{pins.directory}, and cannot take over its maps. The program forwards on. Start "
            "the version that pinned it, or remove it with "
            f"--unpin {pins.directory} and let controllers write their entries again"
        )
    return config, compiled


def _rolled_back(results: Results, count: int) -> list[RpcFailure | None]:
    """Every update of a batch that failed at its last result."""
    last = len(results) - 1
    aborted = RpcFailure(grpc.StatusCode.ABORTED, f"rolled back: update #{last} failed")
    missing = count - len(results)
    return [*(r or aborted for r in results), *(aborted for _ in range(missing))]


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
