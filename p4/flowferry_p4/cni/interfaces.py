# SPDX-License-Identifier: Apache-2.0
"""A pod's cable: a veth pair, one end a port of the switch, the other in the pod's namespace."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from flowferry_p4.agent.links import GATEWAYS

from .protocol import ATTACHED_ALREADY, IO_FAILURE, TRY_AGAIN, UNKNOWN_CONTAINER, CniError
from .records import PREFIX

_CLONE_NEWNET = 0x40000000
_NODAD = 0x02
_ONLINK = 0x04
_CARRIER_LIMIT = 10.0
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_BY_VERSION = {ip_address(gateway).version: gateway for gateway in GATEWAYS}
Found = TypeVar("Found")


@dataclass(frozen=True)
class Inside:
    """An interface as a pod has it."""

    mac: str
    addresses: frozenset[str]
    up: bool


def mac_of(addresses: Sequence[str]) -> str:
    """A link address that comes from the first address: it is the same wherever a pod moves."""
    packed = ip_address(addresses[0]).packed
    last = packed if len(packed) == 4 else sha256(packed).digest()[:4]
    return ":".join(f"{byte:02x}" for byte in b"\x02\xff" + last)


@contextmanager
def namespace(path: str) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = f"network namespace {path}: {os.strerror(error.errno or 0)}"
        raise CniError(UNKNOWN_CONTAINER, text) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _within(handle: int, act: Callable[[IPRoute], Found]) -> Found:
    """Do something in a namespace. A thread of its own enters it and ends there."""
    found: list[Found] = []
    problems: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(handle, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
            with IPRoute() as ipr:
                found.append(act(ipr))
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return found[0]


def make(
    handle: int, outside: str, inside: str, mac: str, mtu: int, addresses: Sequence[str]
) -> str:
    """The cable, and the pod's end of it ready for use. Returns the link address outside."""
    try:
        with IPRoute() as ipr:
            peer = {"ifname": inside, "net_ns_fd": handle, "address": mac, "mtu": mtu}
            ipr.link("add", ifname=outside, kind="veth", mtu=mtu, peer=peer)
            (index,) = ipr.link_lookup(ifname=outside)
            (link,) = ipr.get_links(index)
        _within(handle, lambda ipr: _set_up(ipr, inside, addresses))
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            text = f"there is an interface {inside} in the pod already, or {outside} on the node"
            raise CniError(IO_FAILURE, text) from error
        raise CniError(IO_FAILURE, f"the interface cannot be made: {error}") from error
    return str(link.get_attr("IFLA_ADDRESS"))


def _set_up(ipr: IPRoute, name: str, addresses: Sequence[str]) -> None:
    (index,) = ipr.link_lookup(ifname=name)
    ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
    ipr.link("set", index=index, state="up")
    for version in sorted({ip_address(address).version for address in addresses}):
        for address in addresses:
            if ip_address(address).version == version:
                # Nobody else is on this cable: IPv6 need not wait to find that out.
                flags = {"flags": _NODAD} if version == 6 else {}
                bits = ip_address(address).max_prefixlen
                ipr.addr("add", index=index, address=address, prefixlen=bits, **flags)
        way_out = {"gateway": _BY_VERSION[version], "oif": index, "flags": _ONLINK}
        try:
            ipr.route("add", family=_FAMILIES[version], dst="default", **way_out)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            text = "the pod has a way out already, and cannot have a second one"
            raise CniError(ATTACHED_ALREADY, text) from error


def wait_until_up(handle: int, outside: str, inside: str) -> None:
    """Until both ends carry packets: the kernel drops them, without a word, a while after a cable
    has been plugged in, the longer the more are at once.
    """
    deadline = time.monotonic() + _CARRIER_LIMIT
    with IPRoute() as ipr:
        _wait_until_up(ipr, outside, deadline)
    _within(handle, lambda ipr: _wait_until_up(ipr, inside, deadline))


def _wait_until_up(ipr: IPRoute, name: str, deadline: float) -> None:
    for index in ipr.link_lookup(ifname=name):
        while ipr.get_links(index)[0].get_attr("IFLA_OPERSTATE") != "UP":
            if time.monotonic() > deadline:
                text = f"the interface {name} is not up {_CARRIER_LIMIT:g} s after it was connected"
                raise CniError(TRY_AGAIN, text)
            time.sleep(0.002)


def look(handle: int, name: str) -> Inside | None:
    """What a pod has by that name."""

    def find(ipr: IPRoute) -> Inside | None:
        for index in ipr.link_lookup(ifname=name):
            (link,) = ipr.get_links(index)
            addresses = [a.get_attr("IFA_ADDRESS") for a in ipr.get_addr(index=index)]
            own = frozenset(a for a in addresses if not ip_address(a).is_link_local)
            return Inside(link.get_attr("IFLA_ADDRESS"), own, link["state"] == "up")
        return None

    return _within(handle, find)


def exists(outside: str) -> bool:
    return outside in names()


def remove(outside: str) -> None:
    """Cut the cable; nothing happens where there is none."""
    with IPRoute() as ipr:
        for index in ipr.link_lookup(ifname=outside):
            try:
                ipr.link("del", index=index)
            except NetlinkError as error:
                if error.code != errno.ENODEV:  # it went with its namespace at this moment
                    raise


def names() -> list[str]:
    """Interfaces of pods on this node, whoever remembers them."""
    return [name for _, name in socket.if_nameindex() if name.startswith(PREFIX)]
