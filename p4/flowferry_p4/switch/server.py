# SPDX-License-Identifier: Apache-2.0
"""The P4Runtime service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc
from finsy.proto import p4r, p4r_grpc

from .arbitration import Arbitration, Controller
from .dataplane import DROP_REASONS
from .errors import PortError, SwitchError
from .packet_io import PacketIO
from .pipeline import Pipeline
from .ports import Ports
from .rpc_errors import RpcFailure, abort_batch, invalid

API_VERSION = "1.4.1"
STREAMS = 32
"""Controllers that may be connected at once; each stream occupies a thread."""
_WORKERS = STREAMS + 16
_READ_CHUNK = 500

_Action = p4r.SetForwardingPipelineConfigRequest
_VERIFYING = (
    _Action.VERIFY,
    _Action.VERIFY_AND_SAVE,
    _Action.VERIFY_AND_COMMIT,
    _Action.RECONCILE_AND_COMMIT,
)
_Response = p4r.GetForwardingPipelineConfigRequest

log = logging.getLogger(__name__)


class Switch:
    """Ports, the pipeline they carry, and the controllers that fill it."""

    def __init__(self, device_id: int, ports: Ports, framed: bool = False) -> None:
        self.device_id = device_id
        self.ports = ports
        self.framed = framed
        self.arbitration = Arbitration(device_id)
        self.lock = threading.RLock()
        self.pipeline: Pipeline | None = None
        self._saved: Pipeline | None = None
        self.packet_io = PacketIO(ports.cpu, self.packet_in)
        self.packets_lost = 0

    # pipeline
    def need_pipeline(self) -> Pipeline:
        if self.pipeline is None:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, "no forwarding pipeline is set on this device"
            )
        return self.pipeline

    def verify(self, config: p4r.ForwardingPipelineConfig) -> Pipeline:
        try:
            return Pipeline(config, self.ports.cpu_number, self.framed)
        except SwitchError as error:
            raise invalid(str(error)) from error

    def set_pipeline(self, action: int, config: p4r.ForwardingPipelineConfig) -> None:
        if action == _Action.COMMIT:
            with self.lock:
                self._commit_saved()
            return
        if action not in _VERIFYING:
            raise invalid("the action must be one of VERIFY .. RECONCILE_AND_COMMIT")
        pipeline = self.verify(config)  # a compiler run: writes go on meanwhile
        with self.lock:
            if action == _Action.VERIFY:
                pipeline.close()
            elif action == _Action.VERIFY_AND_SAVE:
                self._save(pipeline)
            elif action == _Action.VERIFY_AND_COMMIT:
                self.commit(pipeline)
            else:
                self._reconcile(pipeline)

    def _save(self, pipeline: Pipeline) -> None:
        if self._saved:
            self._saved.close()
        self._saved = pipeline

    def _commit_saved(self) -> None:
        if self._saved is None:
            raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "no verified pipeline is saved")
        saved, self._saved = self._saved, None
        self.commit(saved)

    def _reconcile(self, pipeline: Pipeline) -> None:
        """Keep the entries; refuse, and change nothing, where the new tables do not take them."""
        if self.pipeline:
            try:
                pipeline.adopt(self.pipeline)
            except RpcFailure as failure:
                pipeline.close()
                raise invalid(f"the entries do not fit the new pipeline: {failure}") from failure
        self.commit(pipeline)

    def commit(self, pipeline: Pipeline) -> None:
        try:
            self.ports.carry(pipeline.dataplane)
        except PortError as error:
            pipeline.close()
            raise RpcFailure(grpc.StatusCode.INTERNAL, str(error)) from error
        before, self.pipeline = self.pipeline, pipeline
        if before:
            before.close()

    # packets
    def packet_in(self, packet: bytes) -> None:
        """Hand a packet from the program to the primaries. Runs in the receiving thread."""
        pipeline = self.pipeline
        if pipeline is None:
            return
        header = pipeline.schema.packet_in
        size = header.size if header else 0
        response = p4r.StreamMessageResponse()
        response.packet.payload = packet[size:]
        if header:
            response.packet.metadata.extend(header.decode(packet[:size]))
        for controller in self.arbitration.primaries():
            if not controller.send(response):
                self.packets_lost += 1

    def packet_out(self, packet: p4r.PacketOut) -> None:
        header = self.need_pipeline().schema.packet_out
        data = header.encode(packet.metadata) if header else b""
        try:
            self.packet_io.send(data + packet.payload)
        except OSError as error:
            raise RpcFailure(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the packet cannot be sent: {error.strerror}"
            ) from error

    def report(self) -> None:
        """Say what was lost, where anything was: nobody else can know."""
        counts = self.pipeline.dataplane.dropped() if self.pipeline else {}
        for reason, count in counts.items():
            if count:
                log.warning("%d packets dropped: %s", count, DROP_REASONS[reason])
        unqueued = self.packet_io.dropped()
        if unqueued or self.packets_lost:
            log.warning(
                "%d packet-ins lost: the switch or its controller did not keep up",
                unqueued + self.packets_lost,
            )

    def close(self) -> None:
        self.report()
        self.packet_io.close()
        self.ports.close()
        for pipeline in (self.pipeline, self._saved):
            if pipeline:
                pipeline.close()


class P4Runtime(p4r_grpc.P4RuntimeServicer):
    """The RPCs; each checks who asks and leaves the work to the switch."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self._streams = threading.Semaphore(STREAMS)

    def Capabilities(
        self, request: p4r.CapabilitiesRequest, context: grpc.ServicerContext
    ) -> p4r.CapabilitiesResponse:
        return p4r.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    def Write(self, request: p4r.WriteRequest, context: grpc.ServicerContext) -> p4r.WriteResponse:
        results: list[RpcFailure | None] = []
        try:
            self._check_device(request.device_id)
            if request.atomicity != p4r.WriteRequest.CONTINUE_ON_ERROR:
                raise RpcFailure(
                    grpc.StatusCode.UNIMPLEMENTED, "batches are applied with CONTINUE_ON_ERROR only"
                )
            with self.switch.lock:
                self.switch.arbitration.check_primary(request.role, request.election_id)
                pipeline = self.switch.need_pipeline()
                results = [_attempt(pipeline, update) for update in request.updates]
        except RpcFailure as failure:
            _abort(context, failure)
        if any(results):
            abort_batch(context, results)
        return p4r.WriteResponse()

    def Read(
        self, request: p4r.ReadRequest, context: grpc.ServicerContext
    ) -> Iterator[p4r.ReadResponse]:
        try:
            self._check_device(request.device_id)
            with self.switch.lock:
                pipeline = self.switch.need_pipeline()
                found = [e for entity in request.entities for e in pipeline.read(entity)]
        except RpcFailure as failure:
            _abort(context, failure)
        for start in range(0, len(found), _READ_CHUNK):
            yield p4r.ReadResponse(entities=found[start : start + _READ_CHUNK])

    def SetForwardingPipelineConfig(
        self, request: p4r.SetForwardingPipelineConfigRequest, context: grpc.ServicerContext
    ) -> p4r.SetForwardingPipelineConfigResponse:
        try:
            self._check_device(request.device_id)
            self.switch.arbitration.check_primary(request.role, request.election_id)
            self.switch.set_pipeline(request.action, request.config)
        except RpcFailure as failure:
            _abort(context, failure)
        return p4r.SetForwardingPipelineConfigResponse()

    def GetForwardingPipelineConfig(
        self, request: p4r.GetForwardingPipelineConfigRequest, context: grpc.ServicerContext
    ) -> p4r.GetForwardingPipelineConfigResponse:
        try:
            self._check_device(request.device_id)
            config = self.switch.need_pipeline().config
        except RpcFailure as failure:
            _abort(context, failure)
        response = p4r.GetForwardingPipelineConfigResponse()
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
                    _abort(context, message)
                yield message
        finally:
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
            self.switch.arbitration.update(controller, request.arbitration)
            return
        if not controller.joined:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, "the first message must be an arbitration"
            )
        try:
            if kind != "packet":
                raise RpcFailure(grpc.StatusCode.UNIMPLEMENTED, f"{kind} is not supported")
            if not self.switch.arbitration.is_primary(controller):
                raise RpcFailure(
                    grpc.StatusCode.PERMISSION_DENIED, "only the primary sends packets"
                )
            self.switch.packet_out(request.packet)
        except RpcFailure as failure:
            controller.send(_stream_error(failure, request))

    def _check_device(self, device_id: int) -> None:
        if device_id != self.switch.device_id:
            raise RpcFailure(
                grpc.StatusCode.NOT_FOUND,
                f"this is device {self.switch.device_id}, not {device_id}",
            )


def _attempt(pipeline: Pipeline, update: p4r.Update) -> RpcFailure | None:
    try:
        pipeline.write(update)
    except RpcFailure as failure:
        return failure
    return None


def _abort(context: grpc.ServicerContext, failure: RpcFailure) -> NoReturn:
    context.abort(failure.code, failure.message)
    raise AssertionError("unreachable: abort raises")


def _stream_error(
    failure: RpcFailure, request: p4r.StreamMessageRequest
) -> p4r.StreamMessageResponse:
    response = p4r.StreamMessageResponse()
    response.error.canonical_code = failure.number
    response.error.message = failure.message
    response.error.space = "flowferry"
    if request.WhichOneof("update") == "packet":
        response.error.packet_out.packet_out.CopyFrom(request.packet)
    else:
        response.error.other.SetInParent()
    return response


def start_server(switch: Switch, address: str) -> tuple[grpc.Server, int]:
    """Listen; return the server and the port it got."""
    server = grpc.server(
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="grpc"),
        options=(
            ("grpc.so_reuseport", 0),  # a second switch on the address must fail, not share it
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
        ),
    )
    p4r_grpc.add_P4RuntimeServicer_to_server(P4Runtime(switch), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise PortError(
            f"cannot listen on {address}: the address is taken or not of this host; "
            "choose another with --grpc-server-addr"
        )
    server.start()
    return server, port
