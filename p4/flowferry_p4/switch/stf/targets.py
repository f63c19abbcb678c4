# SPDX-License-Identifier: Apache-2.0
"""The switches a test can drive: the embedded one in this process, BMv2 as a child.

The process has a network namespace of its own (`enter_namespace`), so that whatever happens nothing
is left: interfaces end with it.
"""

from __future__ import annotations

import ctypes
import os
import queue
import select
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from finsy.proto import p4r, p4r_grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pyroute2 import IPRoute

from ..device import Switch
from ..errors import SwitchError, ToolMissing
from ..packet_io import FRAME
from ..ports import Port, Ports
from ..server import start_server

DEVICE = 1
CPU_PORTS = (510, 509, 508)
"""The CPU port is the first of these that the test does not use."""
ADDRESS = "127.0.0.1:9559"
DATAPLANE_ADDRESS = "127.0.0.1:9560"
START_LIMIT = 30.0
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23


def enter_namespace() -> None:
    """Move this thread, and those it starts, to an empty network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        raise ToolMissing(f"cannot make a network namespace: {reason}; run this as root")
    for scope in ("all", "default"):
        setting = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if setting.exists():
            setting.write_text("1")
    with IPRoute() as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")


class Target(ABC):
    """A running switch that serves P4Runtime at ADDRESS."""

    quiet: float
    """Seconds after which a packet that has not left will not."""

    def __init__(self) -> None:
        self.left: queue.Queue[tuple[int, bytes]] = queue.Queue()

    @abstractmethod
    def take_packets(self) -> None:
        """The program is loaded, and send() comes next."""

    @abstractmethod
    def send(self, port: int, packet: bytes) -> None:
        """Let a packet arrive at a port."""

    @abstractmethod
    def close(self) -> None: ...


class EmbeddedSwitch(Target):
    """The switch of this package, on one end of a veth pair for each port."""

    quiet = 0.1

    def __init__(self, ports: Iterable[int], framed: bool) -> None:
        super().__init__()
        self._frame = FRAME if framed else b""
        self._sockets: dict[int, socket.socket] = {}
        numbers = sorted(ports)
        for number in numbers:
            self._sockets[number] = _cable(number)
        cpu = next(c for c in CPU_PORTS if c not in numbers)
        fronts = [Port(number, f"port{number}") for number in numbers]
        self.switch = Switch(DEVICE, Ports(fronts, cpu, DEVICE), framed)
        self._server, _ = start_server(self.switch, ADDRESS)
        self._stopping, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def take_packets(self) -> None:
        """It does, as soon as it has a program."""

    def send(self, port: int, packet: bytes) -> None:
        self._sockets[port].send(self._frame + packet)

    def _receive(self) -> None:
        poller = select.poll()
        port_of = {s.fileno(): number for number, s in self._sockets.items()}
        for fd in (*port_of, self._stopping.fileno()):
            poller.register(fd, select.POLLIN)
        while True:
            for fd, _ in poller.poll():
                if fd not in port_of:
                    return
                number = port_of[fd]
                packet = self._sockets[number].recv(1 << 16)
                self.left.put((number, packet.removeprefix(self._frame)))

    def close(self) -> None:
        self._stop.send(b"x")
        self._thread.join()
        self._server.stop(None).wait()
        self.switch.close()
        for s in (*self._sockets.values(), self._stopping, self._stop):
            s.close()


def _cable(number: int) -> socket.socket:
    """A veth pair; the socket is at the end that is not the switch's port."""
    with IPRoute() as ipr:
        inner, outer = f"port{number}", f"host{number}"
        ipr.link("add", ifname=inner, kind="veth", peer={"ifname": outer})
        for name in (inner, outer):
            ipr.link("set", index=ipr.link_lookup(ifname=name)[0], mtu=65535, state="up")
    result = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    result.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    result.bind((outer, _ETH_P_ALL))
    return result


class Bmv2(Target):
    """simple_switch_grpc; its packets go through gRPC too, which carries them at any length."""

    quiet = 0.3

    def __init__(self, binary: Path, ports: Iterable[int]) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="ff-stf-")
        directory = Path(self._directory.name)
        self._ports = set(ports)
        cpu = next(c for c in CPU_PORTS if c not in self._ports)
        command: Sequence[str] = (
            str(binary), "--no-p4", "--device-id", str(DEVICE),
            "--log-file", str(directory / "log"), "--log-flush",
            "--notifications-addr", f"ipc://{directory}/notifications", "--",
            "--grpc-server-addr", ADDRESS, "--dp-grpc-server-addr", DATAPLANE_ADDRESS,
            "--cpu-port", str(cpu),
        )  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            self._directory.cleanup()
            raise ToolMissing(f"cannot run {binary}: {error.strerror}") from error
        try:
            self._wait_ready()
            self._channel = grpc.insecure_channel(DATAPLANE_ADDRESS)
            grpc.channel_ready_future(self._channel).result(START_LIMIT)
        except BaseException:
            self._end_process()
            raise
        self._request, response = _packet_messages()
        self._stream = self._channel.stream_stream(
            "/p4.bm.DataplaneInterface/PacketStream",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        self._open_stream()

    def _open_stream(self) -> None:
        self._outbox: queue.Queue[object | None] = queue.Queue()
        self._answers: Any = self._stream(iter(self._outbox.get, None))

    def take_packets(self) -> None:
        """BMv2 ends a stream that was opened before its program runs, and says nothing otherwise.

        But it has one stream at a time: when it refuses a second one the first is open.
        """
        end = time.monotonic() + START_LIMIT
        while not self._refuses_another_stream():
            if time.monotonic() > end:
                raise SwitchError(f"BMv2 takes no packets {START_LIMIT:g} s after its program came")
            if self._answers.done():
                self._outbox.put(None)
                self._open_stream()
            time.sleep(0.01)
        threading.Thread(target=self._receive, daemon=True).start()

    def _refuses_another_stream(self) -> bool:
        try:
            list(self._stream(iter(())))
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED)
        return False

    def _wait_ready(self) -> None:
        end = time.monotonic() + START_LIMIT
        with grpc.insecure_channel(ADDRESS) as channel:
            stub = p4r_grpc.P4RuntimeStub(channel)
            while True:
                try:
                    stub.Capabilities(p4r.CapabilitiesRequest(), timeout=1)
                except grpc.RpcError:
                    if self._process.poll() is not None or time.monotonic() > end:
                        raise SwitchError("BMv2 does not serve P4Runtime") from None
                    time.sleep(0.05)
                else:
                    return

    def send(self, port: int, packet: bytes) -> None:
        self._outbox.put(self._request(device_id=DEVICE, port=port, packet=packet))

    def _receive(self) -> None:
        try:
            for answer in self._answers:
                if answer.port in self._ports:  # there are no others
                    self.left.put((answer.port, answer.packet))
        except grpc.RpcError:
            return  # the switch ended, or close() was called

    def close(self) -> None:
        self._outbox.put(None)
        self._answers.cancel()
        self._channel.close()
        self._end_process()

    def _end_process(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()


def _packet_messages() -> Iterator[Any]:
    """The two messages of BMv2's DataplaneInterface, which are alike."""
    file = descriptor_pb2.FileDescriptorProto(
        name="dataplane_interface.proto", package="p4.bm", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for name in ("PacketStreamRequest", "PacketStreamResponse"):
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(
            (
                ("id", kinds.TYPE_UINT64),
                ("device_id", kinds.TYPE_UINT64),
                ("port", kinds.TYPE_UINT32),
                ("packet", kinds.TYPE_BYTES),
            ),
            1,
        ):
            message.field.add(name=field, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    for name in ("PacketStreamRequest", "PacketStreamResponse"):
        yield message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p4.bm.{name}"))
