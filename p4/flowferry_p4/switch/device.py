# SPDX-License-Identifier: Apache-2.0
"""The switch behind the service: ports, the pipelines on them, the controllers that fill them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

import grpc
from finsy.proto import p4r

from .arbitration import Arbitration
from .compiler import DROP_REASONS
from .controller import Controller
from .errors import PortError, SwitchError
from .packet_io import PacketIO
from .pins import Pins
from .pipeline import Pipeline
from .ports import Ports
from .rpc_errors import RpcFailure, invalid, not_found

_Action = p4r.SetForwardingPipelineConfigRequest
_VERIFYING = (
    _Action.VERIFY,
    _Action.VERIFY_AND_SAVE,
    _Action.VERIFY_AND_COMMIT,
    _Action.RECONCILE_AND_COMMIT,
)

log = logging.getLogger(__name__)


class Switch:
    """One device."""

    def __init__(
        self, device_id: int, ports: Ports, framed: bool = False, pins: Pins | None = None
    ) -> None:
        self.device_id = device_id
        self.pins = pins
        self.ports = ports
        self.framed = framed
        self.arbitration = Arbitration(device_id)
        self.lock = threading.RLock()
        """Held while anything is written or read, and while a primary changes."""
        self.pipeline: Pipeline | None = None
        """What runs on the ports."""
        self.saved: Pipeline | None = None
        """What is saved and not committed: loaded, but on no port."""
        taken = pins.directory / "packet_ins" if pins else None
        self.packet_io = PacketIO(ports.cpu, self.packet_in, taken)
        self.packets_lost = 0
        if self.packet_io.missed:
            log.warning("%d packet-ins were lost while no switch ran", self.packet_io.missed)

    # pipeline
    def open_pipeline(self) -> Pipeline:
        """The pipeline that reads and writes refer to: the last one saved or committed."""
        pipeline = self.saved or self.pipeline
        if pipeline is None:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, "no forwarding pipeline is set on this device"
            )
        return pipeline

    def verify(self, config: p4r.ForwardingPipelineConfig) -> Pipeline:
        try:
            return Pipeline.build(config, self.ports.cpu_number, self.framed, self.notify)
        except SwitchError as error:
            raise invalid(str(error)) from error

    def begin(self, config: p4r.ForwardingPipelineConfig) -> None:
        """Run a program without a controller."""
        with self.lock:
            self.commit(self.verify(config))
            self._name_pinned()

    def resume(self) -> bool:
        """Take over the pipelines that a process before this one has pinned; False: none runs."""
        if self.pins is None:
            return False
        state = self.pins.state
        running, saved = (
            Pipeline.resume(self.pins, number, self.ports.cpu_number, self.notify)
            if number
            else None
            for number in (state.running, state.saved)
        )
        self.pins.tidy()
        with self.lock:
            self.saved = saved
            if running:
                self.commit(running)
        return running is not None

    def _pin(self, pipeline: Pipeline) -> None:
        if self.pins is None:
            return
        try:
            pipeline.pin(self.pins)
        except OSError as error:
            raise RpcFailure(
                grpc.StatusCode.INTERNAL, f"the pipeline cannot be pinned: {error}"
            ) from error

    def _name_pinned(self) -> None:
        """From now on these are the pipelines that a next process takes over."""
        if self.pins is None:
            return
        running, saved = (p.pinned if p else 0 for p in (self.pipeline, self.saved))
        try:
            self.pins.name_pipelines(running, saved)
        except OSError as error:
            raise RpcFailure(
                grpc.StatusCode.INTERNAL, f"the pipeline runs, and is not pinned: {error}"
            ) from error

    def set_pipeline(self, request: p4r.SetForwardingPipelineConfigRequest) -> None:
        """Do what the primary asks for."""
        given = request.HasField("config")
        if request.action == _Action.COMMIT:
            if given:
                raise invalid("COMMIT takes no config: it commits the one that is saved")
            with self.lock:
                self._check_primary(request)
                self._commit_saved()
                self._name_pinned()
            return
        if request.action not in _VERIFYING:
            raise invalid("the action must be one of VERIFY .. RECONCILE_AND_COMMIT")
        if not given:
            raise invalid("the config is missing")
        self._check_primary(request)
        pipeline = self.verify(request.config)  # a compiler run: writes go on meanwhile
        with self.lock:
            try:
                self._check_primary(request)
                self._realise(request.action, pipeline)
            except BaseException:
                pipeline.close()
                raise
            self._name_pinned()

    def _check_primary(self, request: p4r.SetForwardingPipelineConfigRequest) -> None:
        self.arbitration.check_primary(request.role, request.election_id)

    def _realise(self, action: int, pipeline: Pipeline) -> None:
        if action == _Action.VERIFY:
            pipeline.close()
        elif action == _Action.VERIFY_AND_SAVE:
            self._pin(pipeline)
            self._forget_saved()
            self.saved = pipeline
        elif action == _Action.VERIFY_AND_COMMIT:
            self._forget_saved()
            self.commit(pipeline)
        else:
            self._reconcile(pipeline)

    def _forget_saved(self) -> None:
        if self.saved:
            self.saved.close()
            self.saved = None

    def _commit_saved(self) -> None:
        """Writes since the save went to the saved pipeline's own tables: nothing is to replay."""
        if self.saved is None:
            raise not_found("no verified pipeline is saved")
        self.commit(self.saved)
        self.saved = None

    def _reconcile(self, pipeline: Pipeline) -> None:
        """Keep the state; refuse, and change nothing, where the new pipeline does not take it."""
        if self.pipeline:
            try:
                pipeline.adopt(self.pipeline)
            except RpcFailure as failure:
                raise invalid(f"the entries do not fit the new pipeline: {failure}") from failure
        self._forget_saved()
        self.commit(pipeline)

    def commit(self, pipeline: Pipeline) -> None:
        self._pin(pipeline)
        try:
            self.ports.carry(pipeline.dataplane)
        except PortError as error:
            raise RpcFailure(grpc.StatusCode.INTERNAL, str(error)) from error
        before, self.pipeline = self.pipeline, pipeline
        if before:
            self._retire(before)
        pipeline.start(self.lock)

    def _retire(self, pipeline: Pipeline) -> None:
        """Its threads may wait for the lock that is held here."""
        threading.Thread(target=pipeline.close, name="retire").start()

    # controllers
    def arbitrate(self, controller: Controller, message: p4r.MasterArbitrationUpdate) -> None:
        """A new primary is told when the writes of the one before have ended."""
        with self.lock:
            self.arbitration.update(controller, message)

    def notify(self, message: p4r.StreamMessageResponse) -> None:
        """Tell the primaries; what a controller has no room for is lost."""
        for controller in self.arbitration.primaries():
            controller.send_or_lose(message)

    def acknowledge(self, message: p4r.DigestListAck) -> None:
        with self.lock:
            self.open_pipeline().digests.acknowledge(message)

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
            if not controller.send_or_lose(response):
                self.packets_lost += 1
                if controller.lost == 1:
                    log.warning("a controller does not keep up: packet-ins are dropped")

    def packet_out(self, packet: p4r.PacketOut) -> None:
        self.packet_outs(packet.metadata, (packet.payload,))

    def packet_outs(
        self, metadata: Iterable[p4r.PacketMetadata], payloads: Iterable[bytes]
    ) -> None:
        """Packets that share their metadata; the program has had them when this returns."""
        if self.pipeline is None:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, "no forwarding pipeline runs on this device"
            )
        header = self.pipeline.schema.packet_out
        data = header.encode(metadata) if header else b""
        try:
            for payload in payloads:
                self.packet_io.send(data + payload)
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
        for pipeline in (self.pipeline, self.saved):
            if pipeline:
                pipeline.close()
        if self.pins:
            self.pins.close()
