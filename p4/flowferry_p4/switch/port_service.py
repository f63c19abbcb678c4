# SPDX-License-Identifier: Apache-2.0
"""Ports at run time: a gRPC service beside P4Runtime, which knows no ports, and its client.

`flowferry.Ports` has Add and Remove, which take a port as `NUMBER@INTERFACE` in a StringValue
(Remove: the number alone is enough), and List, which answers with a ListValue of such strings. It
is served at the address of P4Runtime, with the same security.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import empty_pb2, struct_pb2, wrappers_pb2

from .errors import PortError, PortsAreFixed
from .ports import Port, Ports

SERVICE = "flowferry.Ports"


def _guarded(act: Callable[[str], None]) -> Callable[..., empty_pb2.Empty]:
    def handle(request: wrappers_pb2.StringValue, context: grpc.ServicerContext) -> empty_pb2.Empty:
        try:
            act(request.value)
        except PortError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return empty_pb2.Empty()

    return handle


def _number(text: str) -> int:
    number = text.partition("@")[0]
    if not number.isdigit():
        raise PortError(f"'{text}' is not a port; write NUMBER or NUMBER@INTERFACE")
    return int(number)


def port_handler(ports: Ports) -> grpc.GenericRpcHandler[Any, Any]:
    """The service, to be added to a server."""

    def list_ports(request: empty_pb2.Empty, context: grpc.ServicerContext) -> Any:
        result = struct_pb2.ListValue()
        result.extend(f"{port.number}@{port.interface}" for port in ports.front)
        return result

    def add(text: str) -> None:
        ports.add(Port.parse(text))

    def remove(text: str) -> None:
        ports.remove(_number(text))

    def method(act: Callable[..., Any], request: Any) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(
            act,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Add": method(_guarded(add), wrappers_pb2.StringValue),
            "Remove": method(_guarded(remove), wrappers_pb2.StringValue),
            "List": method(list_ports, empty_pb2.Empty),
        },
    )


class PortClient:
    """Adds, removes and lists the ports of a running switch."""

    def __init__(self, channel: grpc.Channel, timeout: float = 10) -> None:
        self._channel = channel
        self._timeout = timeout

    def add(self, port: str) -> None:
        """`5@eth5`; where it is that port already nothing happens."""
        self._call("Add", wrappers_pb2.StringValue(value=port), empty_pb2.Empty)

    def remove(self, number: int) -> None:
        self._call("Remove", wrappers_pb2.StringValue(value=str(number)), empty_pb2.Empty)

    def list(self) -> list[str]:
        answer = self._call("List", empty_pb2.Empty(), struct_pb2.ListValue)
        return [str(value) for value in answer]

    def _call(self, name: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise PortError(str(error.details())) from None
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise PortsAreFixed(
                    "the switch has the ports that it was started with, and takes no others "
                    "(BMv2); pods can be connected to the embedded switch"
                ) from None
            raise
