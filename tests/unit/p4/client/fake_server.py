# SPDX-License-Identifier: Apache-2.0
"""A P4Runtime server for tests: real gRPC, tables in memory, the rules of the specification.

It shares no code with the client, so that a wrong byte on the wire is noticed. It knows ids and
canonical byte strings only, never names.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import grpc
from finsy.proto import U128, p4i, p4r, p4r_grpc, rpc_code, rpc_status
from google.protobuf import text_format

EntryKey = tuple[int, bytes, int]
_DETAILS_KEY = "grpc-status-details-bin"
_Response = p4r.GetForwardingPipelineConfigRequest.ResponseType


class Refused(Exception):
    """One update is refused, with a canonical code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Controller:
    """The stream of one controller."""

    def __init__(self) -> None:
        self.election_id = 0
        self.role = ""
        self.responses: queue.SimpleQueue[p4r.StreamMessageResponse | None] = queue.SimpleQueue()


class FakeSwitch(p4r_grpc.P4RuntimeServicer):
    """The switch's state and the service on it. ``with FakeSwitch() as switch: switch.address``."""

    def __init__(
        self,
        device_id: int = 1,
        p4info: str | None = None,
        credentials: grpc.ServerCredentials | None = None,
        address: str = "127.0.0.1:0",
        token: str | None = None,
    ) -> None:
        self.device_id = device_id
        self.config: p4r.ForwardingPipelineConfig | None = None
        self.entries: dict[EntryKey, p4r.TableEntry] = {}
        self.defaults: dict[int, p4r.TableEntry] = {}
        self.packets_out: list[p4r.PacketOut] = []
        self.requests: list[p4r.WriteRequest] = []
        self.pipeline_actions: list[int] = []
        self.refuse_pipeline: str | None = None
        self.token = token
        self._tables: dict[int, p4i.Table] = {}
        self._controllers: list[Controller] = []
        self._highest: dict[str, int] = {}
        self._lock = threading.RLock()
        if p4info is not None:
            self.load(p4info)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=16),
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        p4r_grpc.add_P4RuntimeServicer_to_server(self, self._server)
        host = address.rpartition(":")[0]
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.address = f"{host}:{self.port}"

    def __enter__(self) -> FakeSwitch:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        with self._lock:
            for controller in self._controllers:
                controller.responses.put(None)
        self._server.stop(grace=0.2).wait()

    # -- for tests

    def load(self, p4info: str, cookie: int = 0) -> None:
        config = p4r.ForwardingPipelineConfig()
        text_format.Parse(p4info, config.p4info)
        config.cookie.cookie = cookie
        self._commit(config)

    def punt(self, payload: bytes, metadata: dict[int, int]) -> None:
        """Send a packet-in to the primary controller."""
        response = p4r.StreamMessageResponse()
        response.packet.payload = payload
        for number, value in metadata.items():
            response.packet.metadata.add(metadata_id=number, value=_canonical(value))
        with self._lock:
            primary = self._primary("")
            assert primary is not None, "no controller is primary, nobody to send a packet to"
            primary.responses.put(response)

    def count(self, packets: int, size: int) -> None:
        """Give every entry's direct counter these values."""
        with self._lock:
            for entry in self.entries.values():
                entry.counter_data.packet_count = packets
                entry.counter_data.byte_count = size

    # -- arbitration and packets

    def _primary(self, role: str) -> Controller | None:
        """Who has the highest election id ever seen: an old lower one does not move up again."""
        highest = self._highest.get(role)
        for controller in self._controllers:
            if controller.role == role and controller.election_id == highest:
                return controller
        return None

    def StreamChannel(
        self, request_iterator: Iterable[p4r.StreamMessageRequest], context: Any
    ) -> Iterator[p4r.StreamMessageResponse]:
        controller = Controller()
        self._authenticate(context)
        failure: list[tuple[grpc.StatusCode, str]] = []

        def listen() -> None:
            try:
                for request in request_iterator:
                    self._hear(controller, request)
            except Refused as refused:
                failure.append((_status(refused.code), str(refused)))
            except Exception:  # the transport broke: the controller is gone
                pass
            finally:
                controller.responses.put(None)

        threading.Thread(target=listen, daemon=True).start()
        try:
            yield from iter(controller.responses.get, None)
        finally:
            self._leave(controller)
        if failure:
            context.abort(*failure[0])

    def _hear(self, controller: Controller, request: p4r.StreamMessageRequest) -> None:
        kind = request.WhichOneof("update")
        with self._lock:
            if kind == "arbitration":
                self._arbitrate(controller, request.arbitration)
            elif kind == "packet":
                self._packet_out(controller, request.packet)

    def _packet_out(self, controller: Controller, packet: p4r.PacketOut) -> None:
        if self._primary(controller.role) is controller:
            self.packets_out.append(packet)
            return
        response = p4r.StreamMessageResponse()
        response.error.canonical_code = rpc_code.PERMISSION_DENIED
        response.error.message = "packet-out from a controller that is not primary"
        controller.responses.put(response)

    def _arbitrate(self, controller: Controller, update: p4r.MasterArbitrationUpdate) -> None:
        if update.device_id != self.device_id:
            raise Refused(rpc_code.NOT_FOUND, f"no device {update.device_id}")
        role, election_id = update.role.name, U128.decode(update.election_id)
        rivals = [c for c in self._controllers if c is not controller and c.role == role]
        if election_id and election_id in {rival.election_id for rival in rivals}:
            raise Refused(rpc_code.INVALID_ARGUMENT, "election id is in use")
        before = self._primary(role)
        controller.role, controller.election_id = role, election_id
        if election_id >= max(1, self._highest.get(role, 0)):
            self._highest[role] = election_id
        if controller not in self._controllers:
            self._controllers.append(controller)
        if self._primary(role) is not before:
            self._notify(role)
        else:
            controller.responses.put(self._verdict(controller))

    def _leave(self, controller: Controller) -> None:
        with self._lock:
            was_primary = self._primary(controller.role) is controller
            if controller in self._controllers:
                self._controllers.remove(controller)
            if was_primary:
                self._notify(controller.role)

    def _notify(self, role: str) -> None:
        for controller in self._controllers:
            if controller.role == role:
                controller.responses.put(self._verdict(controller))

    def _verdict(self, controller: Controller) -> p4r.StreamMessageResponse:
        primary = self._primary(controller.role)
        response = p4r.StreamMessageResponse()
        response.arbitration.device_id = self.device_id
        if controller.role:
            response.arbitration.role.name = controller.role
        if primary is None:
            response.arbitration.status.code = rpc_code.NOT_FOUND
            highest = self._highest.get(controller.role, 0)
            response.arbitration.election_id.CopyFrom(U128.encode(highest))
            return response
        response.arbitration.election_id.CopyFrom(U128.encode(primary.election_id))
        is_primary = primary is controller
        response.arbitration.status.code = rpc_code.OK if is_primary else rpc_code.ALREADY_EXISTS
        return response

    def _authenticate(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if self.token is not None and given != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong or missing")

    def _check_device(self, device_id: int, context: Any) -> None:
        self._authenticate(context)
        if device_id != self.device_id:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no device {device_id}")

    def _check_primary(self, request: Any, context: Any) -> None:
        self._check_device(request.device_id, context)
        with self._lock:
            primary = self._primary(request.role)
        if primary is None or primary.election_id != U128.decode(request.election_id):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not the primary controller")

    # -- pipeline

    def SetForwardingPipelineConfig(
        self, request: p4r.SetForwardingPipelineConfigRequest, context: Any
    ) -> p4r.SetForwardingPipelineConfigResponse:
        self._check_primary(request, context)
        if self.refuse_pipeline is not None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refuse_pipeline)
        self.pipeline_actions.append(request.action)
        if request.action != p4r.SetForwardingPipelineConfigRequest.VERIFY:
            with self._lock:
                self._commit(request.config)
        return p4r.SetForwardingPipelineConfigResponse()

    def _commit(self, config: p4r.ForwardingPipelineConfig) -> None:
        self.config = config
        self.entries.clear()
        self.defaults.clear()
        self._tables = {table.preamble.id: table for table in config.p4info.tables}

    def GetForwardingPipelineConfig(
        self, request: p4r.GetForwardingPipelineConfigRequest, context: Any
    ) -> p4r.GetForwardingPipelineConfigResponse:
        self._check_device(request.device_id, context)
        if self.config is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no pipeline is set")
        response = p4r.GetForwardingPipelineConfigResponse()
        response.config.CopyFrom(self.config)
        if request.response_type not in (_Response.ALL, _Response.P4INFO_AND_COOKIE):
            response.config.ClearField("p4info")
        if request.response_type not in (_Response.ALL, _Response.DEVICE_CONFIG_AND_COOKIE):
            response.config.ClearField("p4_device_config")
        return response

    def Capabilities(self, request: Any, context: Any) -> p4r.CapabilitiesResponse:
        return p4r.CapabilitiesResponse(p4runtime_api_version="1.5.0")

    # -- writing

    def Write(self, request: p4r.WriteRequest, context: Any) -> p4r.WriteResponse:
        self._check_primary(request, context)
        if self.config is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no pipeline is set")
        with self._lock:
            self.requests.append(request)
            errors = [self._try(update) for update in request.updates]
        if any(error.canonical_code for error in errors):
            self._fail(errors, context)
        return p4r.WriteResponse()

    def _fail(self, errors: list[p4r.Error], context: Any) -> None:
        status = rpc_status.Status(code=rpc_code.UNKNOWN, message="some updates failed")
        for error in errors:
            status.details.add().Pack(error)
        context.set_trailing_metadata([(_DETAILS_KEY, status.SerializeToString())])
        context.abort(grpc.StatusCode.UNKNOWN, "some updates failed")

    def _try(self, update: p4r.Update) -> p4r.Error:
        try:
            self._apply(update)
        except Refused as refused:
            return p4r.Error(canonical_code=refused.code, message=str(refused))
        return p4r.Error(canonical_code=rpc_code.OK)

    def _apply(self, update: p4r.Update) -> None:
        entry = update.entity.table_entry
        table = self._tables.get(entry.table_id)
        if table is None:
            raise Refused(rpc_code.NOT_FOUND, f"no table {entry.table_id:#x}")
        self._validate(table, entry, update.type)
        if entry.is_default_action:
            self._set_default(table, entry, update.type)
            return
        key = _key(entry)
        if update.type == p4r.Update.INSERT:
            self._insert(table, key, entry)
            return
        if key not in self.entries:
            raise Refused(rpc_code.NOT_FOUND, "no such entry")
        if update.type == p4r.Update.DELETE:
            del self.entries[key]
        else:
            self.entries[key] = entry

    def _insert(self, table: p4i.Table, key: EntryKey, entry: p4r.TableEntry) -> None:
        if key in self.entries:
            raise Refused(rpc_code.ALREADY_EXISTS, "the entry exists")
        if sum(known[0] == table.preamble.id for known in self.entries) >= table.size:
            raise Refused(rpc_code.RESOURCE_EXHAUSTED, f"the table is full ({table.size})")
        self.entries[key] = entry

    def _set_default(self, table: p4i.Table, entry: p4r.TableEntry, kind: int) -> None:
        if kind != p4r.Update.MODIFY or entry.match or entry.priority:
            raise Refused(rpc_code.INVALID_ARGUMENT, "a default entry is modified, by no match")
        if table.const_default_action_id:
            raise Refused(rpc_code.PERMISSION_DENIED, "the default action is constant")
        if entry.HasField("action"):
            self.defaults[table.preamble.id] = entry
        else:
            self.defaults.pop(table.preamble.id, None)

    def _validate(self, table: p4i.Table, entry: p4r.TableEntry, kind: int) -> None:
        fields = {field.id: field for field in table.match_fields}
        given = {match.field_id for match in entry.match}
        if not given <= set(fields) or len(given) != len(entry.match):
            raise Refused(rpc_code.INVALID_ARGUMENT, "unknown or repeated match field")
        exact = {number for number, f in fields.items() if f.match_type == p4i.MatchField.EXACT}
        if not entry.is_default_action and not exact <= given:
            raise Refused(rpc_code.INVALID_ARGUMENT, "an exact field is missing")
        for match in entry.match:
            _validate_match(fields[match.field_id], match)
        overlap = any(f.match_type >= p4i.MatchField.TERNARY for f in fields.values())
        if not entry.is_default_action and overlap != (entry.priority > 0):
            raise Refused(rpc_code.INVALID_ARGUMENT, "priority missing, or given in vain")
        if kind == p4r.Update.DELETE:
            return
        if entry.HasField("action"):
            self._validate_action(table, entry.action.action)
        elif not entry.is_default_action:
            raise Refused(rpc_code.INVALID_ARGUMENT, "no action")

    def _validate_action(self, table: p4i.Table, action: p4r.Action) -> None:
        assert self.config is not None
        if action.action_id not in {ref.id for ref in table.action_refs}:
            raise Refused(rpc_code.INVALID_ARGUMENT, "the table has no such action")
        infos = {info.preamble.id: info for info in self.config.p4info.actions}
        widths = {param.id: param.bitwidth for param in infos[action.action_id].params}
        if sorted(widths) != sorted(param.param_id for param in action.params):
            raise Refused(rpc_code.INVALID_ARGUMENT, "not the parameters of the action")
        for param in action.params:
            _validate_bytes(param.value, widths[param.param_id])

    # -- reading

    def Read(self, request: p4r.ReadRequest, context: Any) -> Iterator[p4r.ReadResponse]:
        self._check_device(request.device_id, context)
        if self.config is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no pipeline is set")
        response = p4r.ReadResponse()
        with self._lock:
            for entity in request.entities:
                if entity.HasField("counter_entry"):
                    self._read_counter(entity.counter_entry, response)
                else:
                    self._read_table(entity.table_entry, response, context)
        yield response

    def _read_counter(self, asked: p4r.CounterEntry, response: p4r.ReadResponse) -> None:
        assert self.config is not None
        for info in self.config.p4info.counters:
            if info.preamble.id == asked.counter_id:
                cells = [asked.index.index] if asked.HasField("index") else range(info.size)
                for index in cells:
                    cell = response.entities.add().counter_entry
                    cell.counter_id, cell.index.index = info.preamble.id, index
                    cell.data.CopyFrom(_counter_data(packets=index * 10, size=index * 1000))

    def _read_table(self, asked: p4r.TableEntry, response: p4r.ReadResponse, context: Any) -> None:
        table = self._tables.get(asked.table_id)
        if table is None and asked.table_id:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no table {asked.table_id:#x}")
        if asked.is_default_action:
            assert table is not None
            response.entities.add().table_entry.CopyFrom(self._default_of(table))
            return
        found = [e for e in self.entries.values() if asked.table_id in (0, e.table_id)]
        if asked.match:
            found = [e for e in found if _key(e) == _key(asked)]
        for entry in found:
            copy = response.entities.add().table_entry
            copy.CopyFrom(entry)
            if not asked.HasField("counter_data"):
                copy.ClearField("counter_data")
            else:
                copy.counter_data.SetInParent()

    def _default_of(self, table: p4i.Table) -> p4r.TableEntry:
        changed = self.defaults.get(table.preamble.id)
        if changed is not None:
            return changed
        entry = p4r.TableEntry(table_id=table.preamble.id, is_default_action=True)
        number = table.const_default_action_id or table.initial_default_action.action_id
        if number:
            entry.action.action.action_id = number
            for argument in table.initial_default_action.arguments:
                entry.action.action.params.add(param_id=argument.param_id, value=argument.value)
        return entry


def _counter_data(packets: int, size: int) -> p4r.CounterData:
    return p4r.CounterData(packet_count=packets, byte_count=size)


def _canonical(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def _key(entry: p4r.TableEntry) -> EntryKey:
    matches = sorted(match.SerializeToString(deterministic=True) for match in entry.match)
    return entry.table_id, b"".join(matches), entry.priority


def _validate_bytes(value: bytes, width: int) -> int:
    if not value or (len(value) > 1 and value[0] == 0):
        raise Refused(rpc_code.INVALID_ARGUMENT, f"{value!r} is no canonical byte string")
    number = int.from_bytes(value, "big")
    if number >> width:
        raise Refused(rpc_code.OUT_OF_RANGE, f"{number} does not fit into {width} bits")
    return number


def _validate_match(field: p4i.MatchField, match: p4r.FieldMatch) -> None:
    kind = match.WhichOneof("field_match_type")
    if kind is None or kind.upper() != p4i.MatchField.MatchType.Name(field.match_type):
        raise Refused(rpc_code.INVALID_ARGUMENT, f"field {field.name} is not a {kind} field")
    width = field.bitwidth
    if kind == "lpm":
        number = _validate_bytes(match.lpm.value, width)
        if not 0 < match.lpm.prefix_len <= width:
            raise Refused(rpc_code.INVALID_ARGUMENT, "prefix length out of range")
        if number & ((1 << (width - match.lpm.prefix_len)) - 1):
            raise Refused(rpc_code.INVALID_ARGUMENT, "bits beyond the prefix")
    elif kind == "ternary":
        mask = _validate_bytes(match.ternary.mask, width)
        if not mask or _validate_bytes(match.ternary.value, width) & ~mask:
            raise Refused(rpc_code.INVALID_ARGUMENT, "empty mask, or bits outside it")
    elif kind == "range":
        low, high = (_validate_bytes(v, width) for v in (match.range.low, match.range.high))
        if low > high or (low, high) == (0, (1 << width) - 1):
            raise Refused(rpc_code.INVALID_ARGUMENT, "empty range, or one of everything")
    else:
        _validate_bytes(getattr(match, kind).value, width)


def _status(code: int) -> grpc.StatusCode:
    return next(status for status in grpc.StatusCode if status.value[0] == code)
