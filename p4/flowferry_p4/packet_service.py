# SPDX-License-Identifier: Apache-2.0
"""Many packets in one message: a gRPC service beside P4Runtime, and its client.

P4Runtime has packets sent one by one on the stream, at a fifth of a millisecond each in Python. A
hold of a busy endpoint keeps thousands, and all of its clients wait for the last.
`flowferry.Packets` has Send, which takes packets that share their metadata, and answers when the
program has had them all, in order; and Receive, by which the packets to a controller come with all
that wait behind them, instead of on the stream. It is served at the address of P4Runtime, with the
same security; who may send and gets packets on the stream may do so here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from finsy.proto import p4r
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory

SERVICE = "flowferry.Packets"

_Field = descriptor_pb2.FieldDescriptorProto
_UINT64, _STRING = _Field.TYPE_UINT64, _Field.TYPE_STRING
_MESSAGE, _BYTES = _Field.TYPE_MESSAGE, _Field.TYPE_BYTES
_OPTIONAL, _REPEATED = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED


_WHO = (
    ("device_id", _OPTIONAL, _UINT64, None),
    ("role", _OPTIONAL, _STRING, None),
    ("election_id", _OPTIONAL, _MESSAGE, ".p4.v1.Uint128"),
)
_MESSAGES = {
    "PacketOuts": (
        *_WHO,
        ("metadata", _REPEATED, _MESSAGE, ".p4.v1.PacketMetadata"),
        ("payloads", _REPEATED, _BYTES, None),
    ),
    "ReceiveRequest": _WHO,
    "PacketIns": (("packets", _REPEATED, _MESSAGE, ".p4.v1.PacketIn"),),
}


def _classes() -> tuple[Any, ...]:
    """Those of the messages; P4Runtime has none of several packets."""
    file = descriptor_pb2.FileDescriptorProto(
        name="flowferry/packets.proto",
        package="flowferry",
        syntax="proto3",
        dependency=[p4r.PacketOut.DESCRIPTOR.file.name],
    )
    for title, fields in _MESSAGES.items():
        message = file.message_type.add(name=title)
        for number, (name, label, kind, of) in enumerate(fields, start=1):
            message.field.add(name=name, number=number, label=label, type=kind, type_name=of)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"flowferry.{title}"))
        for title in _MESSAGES
    )


PacketOuts, ReceiveRequest, PacketIns = _classes()
"""device_id, role and election_id as in a WriteRequest; metadata of PacketOuts as in a PacketOut,
shared by all payloads."""


def _serialised(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def packet_handler(
    send: Callable[[Any, grpc.ServicerContext], None],
    receive: Callable[[Any, grpc.ServicerContext], Iterator[list[p4r.PacketIn]]],
) -> grpc.GenericRpcHandler[Any, Any]:
    """The service, to be added to a server.

    `send` is given each PacketOuts, `receive` each ReceiveRequest; it yields an empty list when the
    packets begin to come here, and then what has come.
    """

    def handle_send(request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        send(request, context)
        return empty_pb2.Empty()

    def handle_receive(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for packets in receive(request, context):
            yield PacketIns(packets=packets)

    methods = {
        "Send": grpc.unary_unary_rpc_method_handler(
            handle_send,
            request_deserializer=PacketOuts.FromString,
            response_serializer=_serialised,
        ),
        "Receive": grpc.unary_stream_rpc_method_handler(
            handle_receive,
            request_deserializer=ReceiveRequest.FromString,
            response_serializer=_serialised,
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Reception:
    """Packets that come many at once, until it is cancelled or the stream has ended."""

    def __init__(
        self, call: Any, take: Callable[[Any], None], failed: Callable[[grpc.RpcError], None]
    ) -> None:
        self.cancel: Callable[[], None] = call.cancel
        self.decided = threading.Event()
        """Set when packets come here, or when it is clear that they do not."""
        self._call, self._take, self._failed = call, take, failed
        self._thread = threading.Thread(target=self._read, name="packet-ins", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _read(self) -> None:
        try:
            for message in self._call:
                self.decided.set()
                self._take(message)
        except grpc.RpcError as error:
            self._failed(error)
        finally:
            self.decided.set()


class PacketClient:
    """Sends packets to, and receives them from, a switch that has the service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._send: Any = channel.unary_unary(
            f"/{SERVICE}/Send",
            request_serializer=_serialised,
            response_deserializer=empty_pb2.Empty.FromString,
        )
        self._receive: Any = channel.unary_stream(
            f"/{SERVICE}/Receive",
            request_serializer=_serialised,
            response_deserializer=PacketIns.FromString,
        )
        self.is_served = True
        """False once the switch has said that it does not have it, as BMv2 does."""

    def send(
        self,
        payloads: Iterable[bytes],
        metadata: Iterable[p4r.PacketMetadata],
        timeout: float,
        **who: Any,
    ) -> bool:
        """Have all of them handled, in order; False, and nothing sent, where it is not served.

        `who`: device_id, role, election_id. Raises grpc.RpcError for what else is wrong.
        """
        request = PacketOuts(metadata=metadata, payloads=payloads, **who)
        try:
            self._send(request, timeout=timeout)
        except grpc.RpcError as error:
            self._note(error)
            if self.is_served:
                raise
        return self.is_served

    def receive(self, take: Callable[[Any], None], **who: Any) -> Reception:
        """Have `take` called for each PacketIns, in order, in a thread of its own.

        The first is empty: packets that the switch took before are on the stream, those after it
        come here. When the call has ended they are on the stream again.
        """
        return Reception(self._receive(ReceiveRequest(**who)), take, self._note)

    def _note(self, error: grpc.RpcError) -> None:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self.is_served = False
