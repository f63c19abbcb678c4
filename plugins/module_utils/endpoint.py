# SPDX-License-Identifier: Apache-2.0
"""A workload's network: a named namespace with its addresses, routed through the node.

The namespace has one interface, ``eth0``, whose other end is on the node. The node answers for the
gateway, a link-local address that is the same on every node, so that nothing inside the namespace
changes when the workload moves.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .commands import run
from .errors import FlowferryError

GATEWAYS = {4: ("169.254.1.1", 32), 6: ("fe80::1", 64)}
"""Address and prefix length of the node's end of the cable, by IP version."""

NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Endpoint:
    """Name of the namespace, and the addresses that clients' packets reach.

    An endpoint has an IPv4 address, an IPv6 address, or both: then ``address`` is the IPv4 one.
    """

    namespace: str
    address: str
    mac: str
    others: list[str] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        return [self.address, *self.others]

    @property
    def veth(self) -> str:
        """The node's end of the cable; its name fits the kernel's 15 characters."""
        return "ff" + hashlib.sha256(self.namespace.encode()).hexdigest()[:10]

    def as_dict(self) -> dict[str, Any]:
        """For the wire and for results."""
        return asdict(self)


def mac_for(address: str) -> str:
    """A locally administered MAC address that follows from an IP address."""
    return "02:fe:" + ipaddress.ip_address(address).packed[-4:].hex(":")


def endpoint_with(namespace: str, addresses: Sequence[str], mac: str = "") -> Endpoint:
    """An endpoint with these addresses, one of each IP version; FlowferryError otherwise."""
    try:
        parsed = [ipaddress.ip_address(address) for address in addresses]
    except ValueError as error:
        raise FlowferryError("bad_endpoint", f"the endpoint {namespace}: {error}") from None
    parsed.sort(key=lambda address: address.version)
    if not parsed or len({address.version for address in parsed}) < len(parsed):
        raise FlowferryError(
            "bad_endpoint",
            f"the endpoint {namespace} needs an IPv4 address, an IPv6 address, or one of each; "
            f"given: {', '.join(addresses) or 'none'}",
        )
    for address in parsed:
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            raise FlowferryError(
                "bad_endpoint",
                f"the endpoint {namespace} cannot have {address}: clients reach it through a "
                "router, so it needs an address that is routed",
            )
    first, *others = map(str, parsed)
    return Endpoint(namespace, first, mac or mac_for(first), others)


def find(namespace: str) -> Endpoint | None:
    """The endpoint in this namespace, None when there is no such namespace."""
    if not (NAMESPACES / namespace).exists():
        return None
    links: list[dict[str, Any]] = json.loads(run(["ip", "-n", namespace, "-j", "addr", "show"]))
    for link in links:
        if link.get("ifname") != "eth0":
            continue
        found = [e["local"] for e in link.get("addr_info", []) if e.get("scope") == "global"]
        if found:
            return endpoint_with(namespace, found, link["address"])
    return None


def create(endpoint: Endpoint) -> None:
    """Make the namespace, the cable and the routes; whatever a failed attempt left is removed."""
    remove(endpoint)
    run(["ip", "netns", "add", endpoint.namespace])
    connect(endpoint)


def connect(endpoint: Endpoint) -> None:
    """Lead a cable from the node into the namespace, which is there, and the addresses along it."""
    space, veth = endpoint.namespace, endpoint.veth
    try:
        run(["ip", "-n", space, "link", "set", "lo", "up"])
        run(
            ["ip", "link", "add", veth, "type", "veth"]
            + ["peer", "name", "eth0", "address", endpoint.mac, "netns", space]
        )
        run(["ip", "link", "set", veth, "up"])
        run(["ip", "-n", space, "link", "set", "eth0", "up"])
        for address in endpoint.addresses:
            _lead(address, space, veth)
    except FlowferryError:
        remove(endpoint)
        raise


def _lead(address: str, space: str, veth: str) -> None:
    """One address into the namespace, with its way out and the way in."""
    parsed = ipaddress.ip_address(address)
    gateway, bits = GATEWAYS[parsed.version]
    own = f"{address}/{parsed.max_prefixlen}"
    # Nobody else can have these addresses on this cable: IPv6 need not wait to find that out.
    at_once = ["nodad"] if parsed.version == 6 else []
    inside = ["ip", "-n", space]
    run(["ip", "addr", "add", f"{gateway}/{bits}", "dev", veth, *at_once])
    run([*inside, "addr", "add", own, "dev", "eth0", *at_once])
    way_out = ["default", "via", gateway, "dev", "eth0", "onlink"]
    run([*inside, f"-{parsed.version}", "route", "add", *way_out])
    run(["ip", "route", "replace", own, "dev", veth])


def remove(endpoint: Endpoint) -> bool:
    """Take it away; True when there was something. The cable goes first.

    A namespace lives as long as a socket in it lingers, and its interface with it: a dying
    connection must not be heard.
    """
    cable = Path("/sys/class/net") / endpoint.veth
    space = NAMESPACES / endpoint.namespace
    existed = cable.exists() or space.exists()
    if cable.exists():
        run(["ip", "link", "delete", endpoint.veth])
    if space.exists():
        run(["ip", "netns", "delete", endpoint.namespace])
    return existed
