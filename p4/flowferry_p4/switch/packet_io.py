# SPDX-License-Identifier: Apache-2.0
"""Packets between the program and the control plane, over the CPU port's veth.

On the veth each packet is framed by an Ethernet header of the switch's own: the kernel sees an
ordinary frame for somebody else and leaves it alone, and on the way in the IPv4 type in it is what
bpf_skb_adjust_room insists on when the program removes the packet-out header.
"""

from __future__ import annotations

import logging
import mmap
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from .ports import CpuPort

FRAME = bytes.fromhex("024646000001 024646000002 0800")

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_BUFFER = 64 << 20
_COUNT = struct.Struct("=Q")

log = logging.getLogger(__name__)


class PacketIO:
    """Receives packet-ins in a thread of its own; sends packet-outs from any thread."""

    def __init__(
        self, port: CpuPort, receive: Callable[[bytes], None], taken: Path | None = None
    ) -> None:
        """`taken`: a file that remembers beyond this process how many packets it received."""
        self._receive = receive
        self._taken = Taken(taken, port) if taken else None
        self.missed = self._taken.missed if self._taken else 0
        """Packet-ins that came while there was no process."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((port.outer, _ETH_P_ALL))
        self._stopping = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="packet-in", daemon=True)
        self._thread.start()

    def send(self, packet: bytes) -> None:
        """Give the program a packet that starts with its packet-out header."""
        self._socket.send(FRAME + packet)

    def dropped(self) -> int:
        """Packet-ins the kernel could not queue since the last call."""
        raw = self._socket.getsockopt(_SOL_PACKET, 6, 8)  # PACKET_STATISTICS
        return int(struct.unpack("=II", raw)[1])

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        while not self._stopping.is_set():
            poller.poll()
            self._drain()

    def _drain(self) -> None:
        while not self._stopping.is_set():
            try:
                frame = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                log.error("the CPU port's veth failed: %s", error)
                self._stopping.set()
                return
            if self._taken:
                self._taken.add()
            if frame.startswith(FRAME):
                self._receive(frame[len(FRAME) :])

    def close(self) -> None:
        self._stopping.set()
        self._wake.send(b"x")
        self._thread.join(timeout=2)
        for s in (self._socket, self._wake, self._woken):
            s.close()
        if self._taken:
            self._taken.close()


class Taken:
    """How many frames of the CPU port user space has taken, in a file that is memory.

    What the interface received and nobody took is lost; the process that could have counted it was
    not there, or ended with it in its queue.
    """

    def __init__(self, path: Path, port: CpuPort) -> None:
        with path.open("ab") as file:
            file.truncate(_COUNT.size)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNT.size)
        received = port.received()
        (taken,) = (0,) if port.is_new else _COUNT.unpack(self._memory)
        self.missed = received - taken
        self._set(received)

    def add(self) -> None:
        self._set(self._count + 1)

    def _set(self, count: int) -> None:
        self._count = count
        _COUNT.pack_into(self._memory, 0, count)

    def close(self) -> None:
        self._memory.close()
