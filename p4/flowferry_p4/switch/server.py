# SPDX-License-Identifier: Apache-2.0
"""The P4Runtime service."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from finsy.proto import p4r, p4r_grpc

from ..packet_service import packet_handler
from .controller import Box, Controller
from .device import Switch
from .errors import PortError, SwitchError
from .port_service import port_handler
from .rpc_errors import RpcFailure, abort, abort_batch

API_VERSION = "1.5.0"
STREAMS = 64
"""Controllers that may be connected at once; each stream occupies a thread, and another one where
it has its packets come by flowferry.Packets."""
_WORKERS = 2 * STREAMS + 16
_READ_CHUNK = 500

_Response = p4r.GetForwardingPipelineConfigRequest

log = logging.getLogger(__name__)


class P4Runtime(p4r_grpc.P4RuntimeServicer):
    """The RPCs; each checks who asks and leaves the work to the switch."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self._streams = threading.Semaphore(STREAMS)

    def Capabilities(
        self, request: p4r.CapabilitiesRequest, context: grpc.ServicerContext
    ) -> p4r.CapabilitiesResponse:
        if request.device_id:
            try:
                self._check_device(request.device_id)
            except RpcFailure as failure:
                abort(context, failure)
        return p4r.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    def Write(self, request: p4r.WriteRequest, context: grpc.ServicerContext) -> p4r.WriteResponse:
        try:
            self._check_device(request.device_id)
            with self.switch.lock:
                self.switch.arbitration.check_primary(request.role, request.election_id)
                pipeline = self.switch.open_pipeline()
                results = pipeline.write(request.updates, request.atomicity)
        except RpcFailure as failure:
            abort(context, failure)
        if any(results):
            abort_batch(context, results, "update")
        return p4r.WriteResponse()

    def Read(
        self, request: p4r.ReadRequest, context: grpc.ServicerContext
    ) -> Iterator[p4r.ReadResponse]:
        try:
            self._check_device(request.device_id)
            with self.switch.lock:
                self.switch.arbitration.check_role(request.role)
                found, results = self.switch.open_pipeline().read(request.entities)
        except RpcFailure as failure:
            abort(context, failure)
        for start in range(0, len(found), _READ_CHUNK):
            yield p4r.ReadResponse(entities=found[start : start + _READ_CHUNK])
        if any(results):
            abort_batch(context, results, "request")

    def SetForwardingPipelineConfig(
        self, request: p4r.SetForwardingPipelineConfigRequest, context: grpc.ServicerContext
    ) -> p4r.SetForwardingPipelineConfigResponse:
        try:
            self._check_device(request.device_id)
            self.switch.set_pipeline(request)
        except RpcFailure as failure:
            abort(context, failure)
        return p4r.SetForwardingPipelineConfigResponse()

    def GetForwardingPipelineConfig(
        self, request: p4r.GetForwardingPipelineConfigRequest, context: grpc.ServicerContext
    ) -> p4r.GetForwardingPipelineConfigResponse:
        try:
            self._check_device(request.device_id)
        except RpcFailure as failure:
            abort(context, failure)
        pipeline = self.switch.pipeline
        response = p4r.GetForwardingPipelineConfigResponse()
        if pipeline is None:
            return response
        config = pipeline.config
        response.config.SetInParent()
        if config.HasField("cookie"):
            response.config.cookie.CopyFrom(config.cookie)
        wanted = request.response_type
        if wanted in (_Response.ALL, _Response.P4INFO_AND_COOKIE):
            response.config.p4info.CopyFrom(config.p4info)
        if wanted in (_Response.ALL, _Response.DEVICE_CONFIG_AND_COOKIE):
            response.config.p4_device_config = config.p4_device_config
        return response

    def StreamChannel(
        self, request_iterator: Iterator[p4r.StreamMessageRequest], context: grpc.ServicerContext
    ) -> Iterator[p4r.StreamMessageResponse]:
        if not self._streams.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS} controllers are connected already"
            )
        controller = Controller()
        context.add_callback(lambda: controller.outbox.put(None))
        reader = threading.Thread(
            target=self._read_stream, args=(controller, request_iterator), daemon=True
        )
        reader.start()
        try:
            while (message := controller.outbox.get()) is not None:
                if isinstance(message, RpcFailure):
                    abort(context, message)
                controller.sent(message)
                yield message
        finally:
            with self.switch.lock:
                self.switch.arbitration.leave(controller)
            self._streams.release()

    def _read_stream(
        self, controller: Controller, requests: Iterator[p4r.StreamMessageRequest]
    ) -> None:
        try:
            for request in requests:
                self._stream_request(controller, request)
        except RpcFailure as failure:
            controller.outbox.put(failure)
            return
        except Exception as error:  # the stream broke: grpc raises its bare base class
            log.debug("stream ended: %r", error)
        controller.outbox.put(None)

    def _stream_request(self, controller: Controller, request: p4r.StreamMessageRequest) -> None:
        """Handle one message. They are handled in order, one after the other: the answer to an
        arbitration that repeats the election id says that the packet-outs before it are sent.
        """
        kind = request.WhichOneof("update")
        if kind == "arbitration":
            self.switch.arbitrate(controller, request.arbitration)
            return
        if not controller.joined:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, "the first message must be an arbitration"
            )
        try:
            if kind not in ("packet", "digest_ack"):
                raise RpcFailure(grpc.StatusCode.UNIMPLEMENTED, f"{kind} is not supported")
            if not self.switch.arbitration.is_primary(controller):
                raise RpcFailure(
                    grpc.StatusCode.PERMISSION_DENIED, "only the primary sends packets"
                )
            if kind == "packet":
                self.switch.packet_out(request.packet)
            else:
                self.switch.acknowledge(request.digest_ack)
        except RpcFailure as failure:
            controller.send(_stream_error(failure, request))

    def send_packets(self, request: Any, context: grpc.ServicerContext) -> None:
        """Send of flowferry.Packets."""
        try:
            self._check_device(request.device_id)
            with self.switch.lock:
                self.switch.arbitration.check_primary(request.role, request.election_id)
            self.switch.packet_outs(request.metadata, request.payloads)
        except RpcFailure as failure:
            abort(context, failure)

    def receive_packets(
        self, request: Any, context: grpc.ServicerContext
    ) -> Iterator[list[p4r.PacketIn]]:
        """Receive of flowferry.Packets."""
        try:
            self._check_device(request.device_id)
            with self.switch.lock:
                arbitration = self.switch.arbitration
                controller = arbitration.check_primary(request.role, request.election_id)
        except RpcFailure as failure:
            abort(context, failure)
        box: Box = queue.SimpleQueue()
        context.add_callback(lambda: box.put(None))
        yield from controller.batches(box)

    def _check_device(self, device_id: int) -> None:
        if device_id != self.switch.device_id:
            raise RpcFailure(
                grpc.StatusCode.NOT_FOUND,
                f"this is device {self.switch.device_id}, not {device_id}",
            )


def _stream_error(
    failure: RpcFailure, request: p4r.StreamMessageRequest
) -> p4r.StreamMessageResponse:
    response = p4r.StreamMessageResponse()
    response.error.canonical_code = failure.number
    response.error.message = failure.message
    response.error.space = "flowferry"
    match request.WhichOneof("update"):
        case "packet":
            response.error.packet_out.packet_out.CopyFrom(request.packet)
        case "digest_ack":
            response.error.digest_list_ack.digest_list_ack.CopyFrom(request.digest_ack)
        case _:
            response.error.other.SetInParent()
    return response


@dataclass(frozen=True)
class ServerTls:
    """Files of a secured server, as simple_switch_grpc names them."""

    key: Path
    certificate: Path
    authority: Path | None = None
    """Who signed the clients' certificates."""
    client_auth: bool = False
    """A client without such a certificate is refused."""

    def credentials(self) -> grpc.ServerCredentials:
        pair = (_content(self.key), _content(self.certificate))
        roots = _content(self.authority) if self.authority else None
        return grpc.ssl_server_credentials([pair], roots, self.client_auth)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SwitchError(f"cannot read {path}: {error.strerror}") from error


def start_server(
    switch: Switch, address: str, tls: ServerTls | None = None
) -> tuple[grpc.Server, int]:
    """Listen; return the server and the port it got."""
    server = grpc.server(
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="grpc"),
        options=(
            ("grpc.so_reuseport", 0),  # a second switch on the address must fail, not share it
            ("grpc.max_receive_message_length", 128 << 20),
            ("grpc.max_send_message_length", 128 << 20),
        ),
    )
    service = P4Runtime(switch)
    p4r_grpc.add_P4RuntimeServicer_to_server(service, server)
    server.add_generic_rpc_handlers(
        (port_handler(switch.ports), packet_handler(service.send_packets, service.receive_packets))
    )
    try:
        if tls:
            port = server.add_secure_port(address, tls.credentials())
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise PortError(
            f"cannot listen on {address}: the address is taken or not of this host"
            f"{', or the key and certificate do not fit' if tls else ''}; "
            "choose another with --grpc-server-addr"
        )
    server.start()
    return server, port
