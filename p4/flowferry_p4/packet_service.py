# SPDX-License-Identifier: Apache-2.0
"""Many packet-outs in one call: a gRPC service beside P4Runtime, and its client.

P4Runtime has packets sent one by one on the stream, at a fifth of a millisecond each in Python. A
hold of a busy endpoint keeps thousands, and all of its clients wait for the last.
`flowferry.Packets` has Send, which takes packets that share their metadata, and answers when the
program has had them all, in order. It is served at the address of P4Runtime, with the same
security; who may send packets on the stream may send them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from finsy.proto import p4r
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory

SERVICE = "flowferry.Packets"

_Field = descriptor_pb2.FieldDescriptorProto
_UINT64, _STRING = _Field.TYPE_UINT64, _Field.TYPE_STRING
_MESSAGE, _BYTES = _Field.TYPE_MESSAGE, _Field.TYPE_BYTES
_OPTIONAL, _REPEATED = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED


def _packet_outs() -> Any:
    """The class of flowferry.PacketOuts; P4Runtime has no message of several packets."""
    file = descriptor_pb2.FileDescriptorProto(
        name="flowferry/packets.proto",
        package="flowferry",
        syntax="proto3",
        dependency=[p4r.PacketOut.DESCRIPTOR.file.name],
    )
    message = file.message_type.add(name="PacketOuts")
    fields = (
        ("device_id", _OPTIONAL, _UINT64, None),
        ("role", _OPTIONAL, _STRING, None),
        ("election_id", _OPTIONAL, _MESSAGE, ".p4.v1.Uint128"),
        ("metadata", _REPEATED, _MESSAGE, ".p4.v1.PacketMetadata"),
        ("payloads", _REPEATED, _BYTES, None),
    )
    for number, (name, label, kind, of) in enumerate(fields, start=1):
        message.field.add(name=name, number=number, label=label, type=kind, type_name=of)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("flowferry.PacketOuts"))


PacketOuts = _packet_outs()
"""device_id, role and election_id as in a WriteRequest; metadata as in a PacketOut, shared by all
payloads."""


def packet_handler(
    send: Callable[[Any, grpc.ServicerContext], None],
) -> grpc.GenericRpcHandler[Any, Any]:
    """The service, to be added to a server; `send` is given each PacketOuts."""

    def handle(request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        send(request, context)
        return empty_pb2.Empty()

    method = grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=PacketOuts.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Send": method})


class PacketClient:
    """Sends packets to a switch that has the service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._send: Any = channel.unary_unary(
            f"/{SERVICE}/Send",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=empty_pb2.Empty.FromString,
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
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            self.is_served = False
        return self.is_served
