# SPDX-License-Identifier: Apache-2.0
"""The switch's ports: interfaces with a program on each, and the veth that is the CPU port."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .attach import Attachment
from .dataplane import Dataplane
from .errors import PortError

LARGEST_MTU = 65535
_SIOCETHTOOL = 0x8946
# ETHTOOL_S* commands: receive and transmit checksums, scatter-gather, TCP segmentation, generic
# segmentation, generic receive offload.
_OFFLOADS_OFF = {0x15: "rx", 0x17: "tx", 0x19: "sg", 0x1F: "tso", 0x24: "gso", 0x2C: "gro"}


@dataclass(frozen=True)
class Port:
    number: int
    interface: str

    @classmethod
    def parse(cls, text: str) -> Port:
        """`1@eth0`, as simple_switch takes it."""
        number, separator, interface = text.partition("@")
        if not separator or not number.isdigit() or not interface:
            raise PortError(f"'{text}' is not a port; write NUMBER@INTERFACE, as in 1@eth0")
        if not 0 <= int(number) < 511:
            raise PortError(f"port {number} in '{text}' is not between 0 and 510")
        return cls(int(number), interface)


def check_ports(ports: Iterable[Port], cpu_port: int) -> None:
    """Refuse numbers and interfaces given twice."""
    numbers: dict[int, Port] = {}
    interfaces: dict[str, Port] = {}
    for port in ports:
        if port.number == cpu_port:
            raise PortError(f"port {port.number}@{port.interface} is the CPU port's number")
        if port.number in numbers:
            raise PortError(
                f"port {port.number} is given twice: "
                f"{numbers[port.number].interface} and {port.interface}"
            )
        if port.interface in interfaces:
            raise PortError(f"interface {port.interface} is given as two ports")
        numbers[port.number] = interfaces[port.interface] = port


class Claims:
    """Interfaces and the device id, held against a second switch in the same namespace.

    A claim is an abstract unix socket: these belong to a network namespace, like interfaces, and
    end with the process that holds them.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, name: str, refusal: str) -> None:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0flowferry-switch/{name}")
        except OSError as error:
            claim.close()
            raise PortError(refusal) from error
        self._held.append(claim)

    def release(self) -> None:
        for claim in self._held:
            claim.close()
        self._held.clear()


class CpuPort:
    """A veth pair: the program sends to one end, the switch's user space owns the other.

    Segmentation and checksum offload are off on the program's end. So the kernel segments what
    the program redirects there and completes its checksums, and a packet-in is an ordinary frame
    even when the packet was 64 KB with a partial checksum.
    """

    def __init__(self, device_id: int) -> None:
        self.inner = f"ffcpu{device_id}"[:15]
        self.outer = f"ffcpu{device_id}u"[:15]
        with IPRoute() as ipr:
            for stale in ipr.link_lookup(ifname=self.inner):  # left by a killed switch
                ipr.link("del", index=stale)
            try:
                ipr.link("add", ifname=self.inner, kind="veth", peer={"ifname": self.outer})
            except NetlinkError as error:
                raise PortError(f"cannot create the CPU port's veth: {error}") from error
            for name in (self.inner, self.outer):
                _no_ipv6(name)
                index = ipr.link_lookup(ifname=name)[0]
                ipr.link("set", index=index, mtu=LARGEST_MTU, state="up")
            self.ifindex: int = ipr.link_lookup(ifname=self.inner)[0]
            self.outer_ifindex: int = ipr.link_lookup(ifname=self.outer)[0]
        turn_offloads_off(self.inner)

    def remove(self) -> None:
        with IPRoute() as ipr:
            for index in ipr.link_lookup(ifname=self.inner):
                ipr.link("del", index=index)


class Ports:
    """All ports of the switch, front and CPU."""

    def __init__(self, ports: Iterable[Port], cpu_port: int, device_id: int) -> None:
        self.cpu_number = cpu_port
        self._attachments: dict[int, Attachment] = {}
        self._claims = Claims()
        front = list(ports)
        check_ports(front, cpu_port)
        self.interfaces = {p.number: _ifindex(p) for p in front}
        try:
            self._claim(front, device_id)
            for port in front:
                _no_ipv6(port.interface)
                _up(port)
            self.cpu = CpuPort(device_id)
        except BaseException:
            self._claims.release()
            raise
        self.interfaces[cpu_port] = self.cpu.ifindex

    def _claim(self, front: Iterable[Port], device_id: int) -> None:
        self._claims.take(
            f"device/{device_id}",
            f"device {device_id} is run by another switch in this network namespace; "
            "end it or choose another --device-id",
        )
        for port in front:
            self._claims.take(
                f"port/{port.interface}",
                f"interface {port.interface} is a port of another running switch",
            )

    def carry(self, dataplane: Dataplane) -> None:
        """Put a program on every port, in place of the one before."""
        dataplane.set_ports(self.interfaces)
        for number, ifindex in self.interfaces.items():
            attachment = self._attachments.get(number)
            if attachment:
                attachment.replace(dataplane.program_fd)
                continue
            try:
                self._attachments[number] = Attachment(ifindex, dataplane.program_fd)
            except (OSError, NetlinkError) as error:
                raise PortError(f"cannot attach the program to port {number}: {error}") from error

    @property
    def kinds(self) -> Mapping[int, str]:
        return {number: a.kind for number, a in self._attachments.items()}

    def close(self) -> None:
        for attachment in self._attachments.values():
            attachment.detach()
        self._attachments.clear()
        self.cpu.remove()
        self._claims.release()


def _ifindex(port: Port) -> int:
    try:
        return socket.if_nametoindex(port.interface)
    except OSError:
        present = ", ".join(name for _, name in socket.if_nameindex())
        raise PortError(
            f"port {port.number}: there is no interface {port.interface} here (present: {present})"
        ) from None


def _up(port: Port) -> None:
    with IPRoute() as ipr:
        try:
            ipr.link("set", index=_ifindex(port), state="up")
        except NetlinkError as error:
            raise PortError(f"cannot bring {port.interface} up: {error}") from error


def _no_ipv6(interface: str) -> None:
    """A switch port speaks only what the program sends: no router solicitations."""
    setting = Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")
    try:
        setting.write_text("1")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EROFS, errno.EACCES):
            raise


def turn_offloads_off(interface: str) -> None:
    """Like `ethtool -K IF rx off tx off sg off tso off gso off gro off`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command, name in _OFFLOADS_OFF.items():
            _ethtool(control, interface, command, name)


def _ethtool(control: socket.socket, interface: str, command: int, name: str) -> None:
    value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
    request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
    try:
        fcntl.ioctl(control, _SIOCETHTOOL, request)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            reason = os.strerror(error.errno or 0)
            raise PortError(f"cannot turn {name} offload off on {interface}: {reason}") from error
