# SPDX-License-Identifier: Apache-2.0
"""A session with a switch: one gRPC channel, one arbitration stream, entries by name.

Everything here is synchronous and safe to call from several threads. The stream is read by a
thread of the session; callbacks run in it, so they must be quick and must not wait for the
session.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from finsy.proto import U128, p4i, p4r, p4r_grpc, rpc_code

from ..packet_service import PacketClient, Reception
from .connection import WRITE_METADATA, Peer, Tls, open_channel
from .entries import Counter, Entry, Update
from .errors import BadValue, NoPipeline, NotPrimary, OtherPipeline, P4Error, SwitchUnreachable
from .schema import Schema, Table, cookie_of, parse_p4info

PacketCallback = Callable[[bytes, dict[str, int]], None]

_log = logging.getLogger(__name__)
_GetRequest = p4r.GetForwardingPipelineConfigRequest
_SetRequest = p4r.SetForwardingPipelineConfigRequest


@dataclass(frozen=True)
class Pipeline:
    """What a switch runs. ``device_config`` is None unless it was asked for."""

    p4info: p4i.P4Info
    cookie: int
    device_config: bytes | None = None


class Session:
    """Talks to one device of one switch; a context manager. Made by ``Session.open``."""

    def __init__(self, peer: Peer, channel: grpc.Channel, role: str | None, timeout: float) -> None:
        self.peer = peer
        self.timeout = timeout
        self.closed = threading.Event()
        self.error: P4Error | None = None
        """Why the stream broke; None while it is up and after close()."""
        self.stream_errors: deque[str] = deque(maxlen=100)
        """The latest complaints of the switch about what was sent on the stream."""
        self._role = role
        self._channel = channel
        self._stub = p4r_grpc.P4RuntimeStub(channel)
        self._packets = PacketClient(channel)
        self._reception: Reception | None = None
        self._schema: Schema | None = None
        self._stream: _Stream | None = None

    # -- opening and closing

    @classmethod
    def open(
        cls,
        address: str,
        *,
        device_id: int = 1,
        election_id: int | None = None,
        role: str | None = None,
        tls: Tls | None = None,
        timeout: float = 5.0,
        primary: bool = True,
    ) -> Session:
        """Connect, and become the primary controller unless ``primary`` is False.

        Without ``election_id`` the session takes the role only when it is free, with the next
        higher id than the switch has seen, and displaces nobody; NotPrimary says who has it. A
        given id is used as it is: a higher one than that of the primary controller displaces it.
        ``timeout`` (seconds) bounds every single call. A session that is not primary reads only;
        it takes part in no election and disturbs nobody.
        """
        peer = Peer(address, device_id)
        session = cls(peer, open_channel(address, tls), role, timeout)
        try:
            if primary:
                session._arbitrate(election_id)
            else:
                session._get_pipeline(_GetRequest.COOKIE_ONLY)
        except BaseException:
            session.close()
            raise
        return session

    def _arbitrate(self, election_id: int | None) -> None:
        self._stream = _Stream(self)
        # Election id 0 never wins; the answer tells whether somebody else has, and the highest id.
        self._stream.arbitrate(election_id or 0)
        if election_id is None and not self._stream.role_is_taken:
            self._stream.arbitrate((self._stream.highest_election_id or 0) + 1)
        if not self._stream.is_primary:
            raise self._not_primary()

    def _not_primary(self) -> NotPrimary:
        if self._stream is None:
            return NotPrimary(f"{self.peer}: the session was opened for reading only")
        other = self._stream.highest_election_id
        if not self._stream.role_is_taken:
            return NotPrimary(
                f"{self.peer}: election id {self.election_id} is too low, the switch has seen "
                f"{other}; use a higher one",
                other,
            )
        who = f"election id {other}" if other else "its election id is not known"
        return NotPrimary(
            f"{self.peer}: another controller is primary ({who}); "
            "stop it, or use a higher election id to take over",
            other,
        )

    def close(self) -> None:
        """End the session; the switch has seen the end when this returns."""
        if self._reception is not None:
            self._reception.cancel()
        if self._stream is not None:
            self._stream.finish()
        self.closed.set()
        self._channel.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_primary(self) -> bool:
        return self._stream is not None and self._stream.is_primary and not self.closed.is_set()

    @property
    def election_id(self) -> int:
        """The session's own election id; 0 when it takes part in no election."""
        return self._stream.election_id if self._stream is not None else 0

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the switch has handled everything sent on the stream so far.

        The stream and the other calls overtake each other. Where the order matters (packets out,
        then an update), flush between them: it repeats the arbitration, which the switch answers
        in stream order. The election id rises by one, as BMv2 does not answer one that is the same.
        """
        stream = self._writable_stream()
        stream.arbitrate(stream.election_id + 1, timeout)

    def _writable_stream(self) -> _Stream:
        self._check_open()
        if self._stream is None or not self._stream.is_primary:
            raise self._not_primary()
        return self._stream

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise self.error or P4Error(f"{self.peer}: the session is closed")

    # -- pipeline

    def pipeline(self, device_config: bool = False) -> Pipeline | None:
        """What the switch runs, None when it runs nothing yet."""
        config = self._get_pipeline(_GetRequest.P4INFO_AND_COOKIE)
        if config is None or not config.HasField("p4info"):
            return None
        code = None
        if device_config:
            with_code = self._get_pipeline(_GetRequest.DEVICE_CONFIG_AND_COOKIE)
            code = with_code.p4_device_config if with_code is not None else None
        return Pipeline(config.p4info, config.cookie.cookie, code)

    def _get_pipeline(
        self, what: p4r.GetForwardingPipelineConfigRequest.ResponseType.ValueType
    ) -> p4r.ForwardingPipelineConfig | None:
        self._check_open()
        request = _GetRequest(device_id=self.peer.device_id, response_type=what)
        try:
            reply = self._stub.GetForwardingPipelineConfig(request, timeout=self.timeout)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return None
            raise self.peer.error(error, "reading the pipeline") from None
        return reply.config if reply.HasField("config") else None

    def set_pipeline(
        self,
        p4info: str | p4i.P4Info,
        device_config: bytes,
        cookie: int | None = None,
        *,
        action: str = "VERIFY_AND_COMMIT",
    ) -> int:
        """Load a pipeline; returns its cookie (by default one computed from the content)."""
        stream = self._writable_stream()
        schema = Schema(p4info)
        cookie = cookie_of(schema.p4info, device_config) if cookie is None else cookie
        request = _SetRequest(
            device_id=self.peer.device_id,
            role=self._role or "",
            election_id=U128.encode(stream.election_id),
            action=_SetRequest.Action.Value(action),
        )
        request.config.p4info.CopyFrom(schema.p4info)
        request.config.p4_device_config = device_config
        request.config.cookie.cookie = cookie
        try:
            self._stub.SetForwardingPipelineConfig(request, timeout=max(self.timeout, 60.0))
        except grpc.RpcError as error:
            raise self.peer.error(error, "loading the pipeline") from None
        self._schema = schema
        return cookie

    def require_pipeline(self, p4info: str | p4i.P4Info) -> None:
        """Make sure that the switch runs the program of this p4info; says how it differs."""
        wanted = parse_p4info(p4info)
        found = self.pipeline()
        if found is None:
            raise self._no_pipeline()
        if found.p4info != wanted:
            names = [set(Schema(info).tables) for info in (wanted, found.p4info)]
            missing, surplus = sorted(names[0] - names[1]), sorted(names[1] - names[0])
            details = f"missing tables: {', '.join(missing) or 'none'}"
            details += f"; tables of its own: {', '.join(surplus) or 'none'}"
            if not missing and not surplus:
                details = "same tables, other content: an older or newer build of the program"
            raise OtherPipeline(
                f"{self.peer}: it runs another pipeline ({details}); load the right one first"
            )

    def _no_pipeline(self) -> NoPipeline:
        return NoPipeline(f"{self.peer}: it has no pipeline yet; load one first")

    @property
    def schema(self) -> Schema:
        """The names of the pipeline that was found first, or set by this session."""
        if self._schema is None:
            found = self.pipeline()
            if found is None:
                raise self._no_pipeline()
            self._schema = Schema(found.p4info)
        return self._schema

    # -- entries

    def read(
        self,
        table: str | Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
        counters: bool = False,
        *,
        defaults: bool = False,
    ) -> list[Entry]:
        """Entries of one table, of several, or of all, in one request.

        With ``match``, which needs the one table it belongs to, those whose fields have these
        values. ``counters`` adds the direct counters where a table has them, ``defaults`` the
        default entries.
        """
        tables = self._tables(table)
        if match and len(tables) != 1:
            raise BadValue("reading with a match needs the one table it belongs to")
        wanted = self._match_filter(tables[0], match or {}) if match else {}
        request = p4r.ReadRequest(device_id=self.peer.device_id, role=self._role or "")
        for item in tables:
            if not item.uses_profile:
                self._ask_for(item, request, wanted, counters, defaults)
        entries = [
            self.schema.decode_entry(entity.table_entry)
            for entity in self._read(request)
            if entity.HasField("table_entry")
        ]
        return [
            entry
            for entry in entries
            if (defaults or not entry.is_default)
            and all(entry.match.get(name) == value for name, value in wanted.items())
        ]

    def _tables(self, names: str | Sequence[str] | None) -> list[Table]:
        if names is None:
            return list(self.schema.tables.values())
        return [self.schema.table(name) for name in ([names] if isinstance(names, str) else names)]

    def _match_filter(self, table: Table, match: Mapping[str, object]) -> dict[str, Any]:
        """The normal form of the fields that were given, others being anything."""
        exact = [name for name, fld in table.fields.items() if fld.codec.mandatory]
        probe = {**dict.fromkeys(exact, 0), **match}
        priority = 1 if table.needs_priority else 0
        normal = self.schema.normalise(Entry(table.name, probe, priority=priority))
        return {name: normal.match.get(name) for name in match}

    def _ask_for(
        self,
        table: Table,
        request: p4r.ReadRequest,
        wanted: Mapping[str, Any],
        counters: bool,
        defaults: bool,
    ) -> None:
        asked = [request.entities.add().table_entry]
        if wanted and set(wanted) == set(table.fields) and not table.needs_priority:
            asked[0].CopyFrom(self.schema.encode_entry(Entry(table.name, dict(wanted))))
        elif defaults:
            asked.append(request.entities.add().table_entry)
            asked[1].is_default_action = True
        if counters and table.has_counter:
            asked[0].counter_data.SetInParent()
        for message in asked:
            message.table_id = table.id

    def read_counter(self, name: str, index: int | None = None) -> dict[int, Counter]:
        """Cells of an indirect counter, by index."""
        array = self.schema.counter(name)
        request = p4r.ReadRequest(device_id=self.peer.device_id, role=self._role or "")
        entry = request.entities.add().counter_entry
        entry.counter_id = array.id
        if index is not None:
            entry.index.index = index
        return {
            entity.counter_entry.index.index: Counter(
                entity.counter_entry.data.packet_count, entity.counter_entry.data.byte_count
            )
            for entity in self._read(request)
        }

    def _read(self, request: p4r.ReadRequest) -> Iterable[p4r.Entity]:
        self._check_open()
        if not request.entities:
            return
        try:
            for reply in self._stub.Read(request, timeout=self.timeout):
                yield from reply.entities
        except grpc.RpcError as error:
            if len(request.entities) == 1 and self.peer.is_missing(error):
                return  # the one entry that was asked for is not there
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise self._no_pipeline() from None
            raise self.peer.error(error, "reading entries") from None

    def write(self, updates: Sequence[Update]) -> None:
        """Apply updates as one WriteRequest. WriteError names those that were refused."""
        stream = self._writable_stream()
        if not updates:
            return
        request = self.schema.write_request(updates, self.peer.device_id)
        request.role = self._role or ""
        request.election_id.CopyFrom(U128.encode(stream.election_id))
        try:
            self._stub.Write(request, timeout=self.timeout, metadata=WRITE_METADATA)
        except grpc.RpcError as error:
            failure = self.peer.write_error(error, [update.label for update in updates])
            if isinstance(failure, NotPrimary) and stream.wait_until_displaced():
                failure = self._not_primary()
            raise failure from None

    # -- packets

    def on_packet(self, callback: PacketCallback | None) -> None:
        """Have packets from the switch delivered, in order; None stops it.

        Many at once where the switch gives them so (flowferry.Packets), otherwise on the stream.
        Packets that arrive while no callback is set are dropped.
        """
        stream = self._writable_stream()
        stream.packet_in = (self.schema, callback) if callback is not None else None
        is_received = self._reception is not None and self._reception.is_alive
        if callback is not None and self._packets.is_served and not is_received:
            self._receive_many(stream)

    def _receive_many(self, stream: _Stream) -> None:
        self._reception = self._packets.receive(
            lambda message: stream.deliver(message.packets), **self._who(stream)
        )
        if not self._reception.decided.wait(self.timeout):
            self._reception.cancel()
            raise SwitchUnreachable(
                f"{self.peer}: no answer to the request for packets in time; "
                "check the way to the switch, or raise the timeout"
            )

    def _who(self, stream: _Stream) -> dict[str, Any]:
        """As flowferry.Packets has to be told who asks."""
        return {
            "device_id": self.peer.device_id,
            "role": self._role or "",
            "election_id": U128.encode(stream.election_id),
        }

    def send_packet(self, payload: bytes, metadata: Mapping[str, object]) -> None:
        self.send_packets([(payload, metadata)])

    def send_packets(self, packets: Iterable[tuple[bytes, Mapping[str, object]]]) -> None:
        """Queue packets for the switch, in order. ``flush`` waits until it has handled them."""
        stream = self._writable_stream()
        schema = self.schema
        for payload, metadata in packets:
            stream.send(p4r.StreamMessageRequest(packet=schema.encode_packet(payload, metadata)))

    def deliver(self, payloads: Sequence[bytes], metadata: Mapping[str, object]) -> None:
        """Have the switch handle packets that share their metadata, in order, before this returns.

        In one call where the switch takes them so (flowferry.Packets), otherwise on the stream.
        """
        if self._packets.is_served and self._deliver_at_once(payloads, metadata):
            return
        self.send_packets((payload, metadata) for payload in payloads)
        self.flush()

    def _deliver_at_once(self, payloads: Sequence[bytes], metadata: Mapping[str, object]) -> bool:
        stream = self._writable_stream()
        try:
            return self._packets.send(
                payloads,
                self.schema.encode_packet(b"", metadata).metadata,
                self.timeout,
                **self._who(stream),
            )
        except grpc.RpcError as error:
            failure = self.peer.error(error, "sending packets")
            if isinstance(failure, NotPrimary) and stream.wait_until_displaced():
                failure = self._not_primary()
            raise failure from None


class _Stream:
    """The bidirectional stream of a session: arbitration, packets in, packets out."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._requests: queue.SimpleQueue[p4r.StreamMessageRequest | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._one_at_a_time = threading.Lock()
        self._answers = 0
        self._finishing = False
        self.election_id = 0
        self.is_primary = False
        self.role_is_taken = False
        self.highest_election_id: int | None = None
        """That of the primary controller or, without one, of the last that the switch knew."""
        self.packet_in: tuple[Schema, PacketCallback] | None = None
        self._call: Any = session._stub.StreamChannel(iter(self._requests.get, None))
        self._reader = threading.Thread(
            target=self._receive, name=f"p4runtime {session.peer.address}", daemon=True
        )
        self._reader.start()

    def send(self, request: p4r.StreamMessageRequest) -> None:
        self._requests.put(request)

    def arbitrate(self, election_id: int, timeout: float | None = None) -> None:
        """Ask for the role with this election id and wait for the answer."""
        session = self._session
        request = p4r.StreamMessageRequest()
        request.arbitration.device_id = session.peer.device_id
        if session._role:
            request.arbitration.role.name = session._role
        request.arbitration.election_id.CopyFrom(U128.encode(election_id))
        deadline = time.monotonic() + (session.timeout if timeout is None else timeout)
        with self._one_at_a_time, self._changed:
            self.election_id = election_id
            before = self._answers
            self.send(request)
            while self._answers == before and not session.closed.is_set():
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise SwitchUnreachable(
                        f"{session.peer}: no answer on the stream in time; "
                        "check the way to the switch, or raise the timeout"
                    )
        if session.closed.is_set():
            raise session.error or P4Error(f"{session.peer}: the session is closed")

    def wait_until_displaced(self) -> bool:
        """Whether another controller has the role, once a write was refused for that.

        The refusal and the notice of it come on different ways, in any order.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_primary, timeout=1.0)

    def finish(self) -> None:
        """Half-close, so that the switch ends the stream; cancel if it does not."""
        self._finishing = True
        self._requests.put(None)
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=1.0)
        self._call.cancel()

    def _receive(self) -> None:
        error: P4Error | None = None
        try:
            for message in self._call:
                self._handle(message)
            error = SwitchUnreachable(f"{self._session.peer}: the switch ended the session")
        except grpc.RpcError as failure:
            error = self._explain(failure)
        with self._changed:
            self.is_primary = False
            self._session.error = None if self._finishing else error
            self._session.closed.set()
            self._changed.notify_all()

    def _handle(self, message: p4r.StreamMessageResponse) -> None:
        kind = message.WhichOneof("update")
        if kind == "packet":
            self.deliver((message.packet,))
        elif kind == "arbitration":
            with self._changed:
                code = message.arbitration.status.code
                self.is_primary = code == rpc_code.OK
                self.role_is_taken = code == rpc_code.ALREADY_EXISTS
                self.highest_election_id = U128.decode(message.arbitration.election_id) or None
                self._answers += 1
                self._changed.notify_all()
        elif kind == "error":
            self._session.stream_errors.append(message.error.message)
            _log.warning("%s: %s", self._session.peer, message.error.message)

    def deliver(self, packets: Iterable[p4r.PacketIn]) -> None:
        """Give packets to whoever wants them."""
        for packet in packets:
            if self.packet_in is None:
                return
            schema, callback = self.packet_in
            try:
                callback(packet.payload, schema.decode_packet(packet))
            except Exception:
                # The stream must live on: the next packets and the arbitration depend on it.
                _log.exception("%s: the packet callback failed", self._session.peer)

    def _explain(self, error: grpc.RpcError) -> P4Error:
        peer = self._session.peer
        code, text = error.code(), error.details() or "no reason given"
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS):
            return NotPrimary(
                f"{peer}: election id {self.election_id} was refused ({text}); "
                "another controller uses it: stop it, or use a higher election id",
                self.election_id,
            )
        if code is grpc.StatusCode.NOT_FOUND:
            return P4Error(f"{peer}: the switch has no such device ({text}); check the device id")
        return peer.error(error, "holding the session")
