# SPDX-License-Identifier: Apache-2.0
"""The switch's ports: interfaces with a program on each, and the veth that is the CPU port."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .attach import Attachment, has_program, remove_filter
from .dataplane import Dataplane
from .errors import PortError
from .pins import Pins

LARGEST_MTU = 65535
_RTMGRP_LINK = 1
_SIOCETHTOOL = 0x8946
# ETHTOOL_S* commands: receive and transmit checksums, scatter-gather, TCP segmentation, generic
# segmentation, generic receive offload.
_OFFLOADS_OFF = {0x15: "rx", 0x17: "tx", 0x19: "sg", 0x1F: "tso", 0x24: "gso", 0x2C: "gro"}

log = logging.getLogger(__name__)


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

    def __str__(self) -> str:
        return f"{self.number}@{self.interface}"


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
        self._held: dict[str, socket.socket] = {}

    def take(self, name: str, refusal: str) -> None:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0flowferry-switch/{name}")
        except OSError as error:
            claim.close()
            raise PortError(refusal) from error
        self._held[name] = claim

    def give_back(self, name: str) -> None:
        self._held.pop(name).close()

    def release(self) -> None:
        for claim in self._held.values():
            claim.close()
        self._held.clear()


def cpu_interfaces(device_id: int) -> tuple[str, str]:
    """Names of the two ends of the CPU port: the program's, and user space's."""
    return f"ffcpu{device_id}"[:15], f"ffcpu{device_id}u"[:15]


class CpuPort:
    """A veth pair: the program sends to one end, the switch's user space owns the other.

    Segmentation and checksum offload are off on the program's end. So the kernel segments what
    the program redirects there and completes its checksums, and a packet-in is an ordinary frame
    even when the packet was 64 KB with a partial checksum.
    """

    def __init__(self, device_id: int, again: bool = False) -> None:
        """With `again` the pair that a process before this one left is taken, if it is whole."""
        self.inner, self.outer = cpu_interfaces(device_id)
        with IPRoute() as ipr:
            found = [ipr.link_lookup(ifname=name) for name in (self.inner, self.outer)]
            self.is_new = not (again and all(found))
            if self.is_new:
                self._make(ipr)
            self.ifindex: int = ipr.link_lookup(ifname=self.inner)[0]
            self.outer_ifindex: int = ipr.link_lookup(ifname=self.outer)[0]
        turn_offloads_off(self.inner)

    def _make(self, ipr: IPRoute) -> None:
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

    def received(self) -> int:
        """Frames that the program ever sent."""
        with IPRoute() as ipr:
            (link,) = ipr.get_links(self.outer_ifindex)
        return int(link.get_attr("IFLA_STATS64")["rx_packets"])

    def remove(self) -> None:
        remove_interface(self.inner)


def remove_interface(name: str) -> None:
    with IPRoute() as ipr:
        for index in ipr.link_lookup(ifname=name):
            ipr.link("del", index=index)


class Ports:
    """All ports of the switch, front and CPU.

    An interface may go away and come back under its name: the port waits for it.
    """

    def __init__(
        self, ports: Iterable[Port], cpu_port: int, device_id: int, pins: Pins | None = None
    ) -> None:
        self.cpu_number = cpu_port
        self._pins = pins
        self._lock = threading.RLock()
        self._dataplane: Dataplane | None = None
        self._front: dict[int, Port] = {}
        self._attachments: dict[int, Attachment] = {}
        self._claims = Claims()
        self.interfaces: dict[int, int] = {}
        """Port to interface index, of the ports whose interface is there."""
        front, waiting = self._to_begin_with(list(ports))
        check_ports(front, cpu_port)
        for port in front:
            if port not in waiting:
                _ifindex(port)
        try:
            self._claims.take(
                f"device/{device_id}",
                f"device {device_id} is run by another switch in this network namespace; "
                "end it or choose another --device-id",
            )
            for port in front:
                self._take(port, may_wait=port in waiting)
            self.cpu = CpuPort(device_id, again=pins is not None and pins.resumes)
        except BaseException:
            self._claims.release()
            raise
        self.interfaces[cpu_port] = self.cpu.ifindex
        if pins:
            self._leave_others(pins)
            self._name_pinned()
        self._watch = LinkWatch(self._look)

    # beyond this process
    def _to_begin_with(self, asked: list[Port]) -> tuple[list[Port], list[Port]]:
        """The ports to have, and those that a process before this one had: they may wait."""
        if self._pins is None:
            return asked, []
        known = [Port.parse(text) for text in self._pins.state.ports]
        return [Port.parse(text) for text in self._pins.ports([str(p) for p in asked])], known

    def _leave_others(self, pins: Pins) -> None:
        """Take the program off ports that a process before this one had, and that are no more."""
        for text in pins.state.ports:
            port = Port.parse(text)
            pinned = pins.link(port.number).exists()
            if self._front.get(port.number) != port and not pinned:
                with contextlib.suppress(OSError):  # gone with its interface
                    index = socket.if_nametoindex(port.interface)
                    remove_filter(index, port.interface in pins.state.own_qdiscs)
        for link in pins.links.iterdir():
            if int(link.name) not in self.interfaces:
                link.unlink()

    def _name_pinned(self) -> None:
        """From now on these are the ports that a next process takes over."""
        if self._pins is None:
            return
        own = [
            port.interface
            for port in self.front
            if self._had_no_qdisc(port.number)
            or ((attached := self._attachments.get(port.number)) and attached.own_qdisc)
        ]
        try:
            self._pins.name_ports(map(str, self.front), own)
        except OSError as error:
            raise PortError(f"the ports are there, and not pinned: {error}") from error

    @property
    def front(self) -> list[Port]:
        return list(self._front.values())

    # at run time
    def add(self, port: Port) -> None:
        """Make an interface a port; nothing happens where it is that port already."""
        with self._lock:
            if self._front.get(port.number) == port:
                return
            check_ports([*self._front.values(), port], self.cpu_number)
            _ifindex(port)
            self._take(port)
            self._name_pinned()

    def _take(self, port: Port, may_wait: bool = False) -> None:
        self._claims.take(
            f"port/{port.interface}",
            f"interface {port.interface} is a port of another running switch",
        )
        self._front[port.number] = port
        try:
            if may_wait and not _is_there(port):
                log.warning("port %d: interface %s is gone", port.number, port.interface)
            else:
                self._connect(port)
        except BaseException:
            del self._front[port.number]
            self._claims.give_back(f"port/{port.interface}")
            raise

    def remove(self, number: int) -> None:
        """Leave an interface alone from now on."""
        with self._lock:
            if number not in self._front:
                raise PortError(f"there is no port {number}")
            self._disconnect(number)
            port = self._front.pop(number)
            self._claims.give_back(f"port/{port.interface}")
            self._name_pinned()

    def _connect(self, port: Port) -> None:
        """Take the port's interface into use."""
        self._disconnect(port.number)
        ifindex = _ifindex(port)
        if not self._pin(port.number, exists=True) and has_program(ifindex):
            raise PortError(
                f"interface {port.interface} has the program of a switch that was pinned; start "
                "that one again (--pin DIRECTORY), or remove it (--unpin DIRECTORY)"
            )
        _no_ipv6(port.interface)
        _up(port)
        self.interfaces[port.number] = ifindex
        if self._dataplane:
            self._dataplane.set_ports({port.number: ifindex})
            self._attach(port.number, self._dataplane)

    def _disconnect(self, number: int) -> None:
        ifindex = self.interfaces.pop(number, None)
        attachment = self._attachments.pop(number, None)
        if attachment:
            attachment.detach()
        if ifindex is not None and self._dataplane:
            self._dataplane.forget_port(number, ifindex)

    def _look(self) -> None:
        """Something happened to some interface: find ports whose interface changed."""
        with self._lock:
            for port in self.front:
                try:
                    ifindex: int | None = socket.if_nametoindex(port.interface)
                except OSError:
                    ifindex = None
                if ifindex == self.interfaces.get(port.number):
                    continue
                try:
                    self._meet_again(port, ifindex)
                except (PortError, OSError) as error:  # it may be gone again already
                    log.warning("port %d: %s", port.number, error)

    def _meet_again(self, port: Port, ifindex: int | None) -> None:
        if ifindex is None:
            log.warning("port %d: interface %s is gone", port.number, port.interface)
            self._disconnect(port.number)
        else:
            self._connect(port)
            log.info("port %d: interface %s is there again", port.number, port.interface)

    # the program
    def carry(self, dataplane: Dataplane) -> None:
        """Put a program on every port, in place of the one before."""
        with self._lock:
            dataplane.set_ports(self.interfaces)
            dataplane.forget_other_ports(self.interfaces)
            for number in list(self.interfaces):
                self._attach(number, dataplane)
            self._dataplane = dataplane
            self._name_pinned()

    def _attach(self, number: int, dataplane: Dataplane) -> None:
        attachment = self._attachments.get(number)
        try:
            if attachment:
                attachment.replace(dataplane.program_fd)
            else:
                ifindex = self.interfaces[number]
                attachment = Attachment(ifindex, dataplane.program_fd, self._pin(number))
                attachment.own_qdisc |= self._had_no_qdisc(number)
                self._attachments[number] = attachment
        except (OSError, NetlinkError) as error:
            raise PortError(f"cannot attach the program to port {number}: {error}") from error

    def _pin(self, number: int, exists: bool = False) -> Path | None:
        """Where a port's link is pinned, or would be."""
        pin = self._pins.link(number) if self._pins else None
        return pin if pin and (pin.exists() or not exists) else None

    def _had_no_qdisc(self, number: int) -> bool:
        """Whether a process before this one found an interface without clsact."""
        port = self._front.get(number)
        return bool(self._pins and port and port.interface in self._pins.state.own_qdiscs)

    @property
    def kinds(self) -> Mapping[int, str]:
        return {number: a.kind for number, a in self._attachments.items()}

    def close(self) -> None:
        """End; what is pinned goes on by itself."""
        self._watch.close()
        with self._lock:
            for attachment in self._attachments.values():
                if self._pins:
                    attachment.leave()
                else:
                    attachment.detach()
            self._attachments.clear()
            if not self._pins:
                self.cpu.remove()
            self._claims.release()


class LinkWatch:
    """Calls `changed` after every event of the kernel that concerns an interface."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._events.bind((0, _RTMGRP_LINK))
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._events, select.POLLIN)
        poller.register(self._stopped, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poller.poll()]
            if self._stopped.fileno() in ready:
                return
            with contextlib.suppress(OSError):  # events were lost: all the more reason to look
                self._events.recv(1 << 16)
            self._changed()

    def close(self) -> None:
        self._stop.send(b"x")
        self._thread.join(timeout=2)
        for s in (self._events, self._stop, self._stopped):
            s.close()


def _is_there(port: Port) -> bool:
    return port.interface in (name for _, name in socket.if_nameindex())


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
