# SPDX-License-Identifier: Apache-2.0
"""A workload's network: a named namespace with the endpoint's address, routed through the node.

The namespace has one interface, ``eth0``, whose other end is on the node. The node answers for the
gateway, a link-local address that is the same on every node, so that nothing inside the namespace
changes when the workload moves.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .commands import run
from .errors import FlowferryError

GATEWAY = "169.254.1.1"
NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Endpoint:
    """Name of the namespace, IPv4 address and MAC address that clients' packets reach."""

    namespace: str
    address: str
    mac: str

    @property
    def veth(self) -> str:
        """The node's end of the cable; its name fits the kernel's 15 characters."""
        return "ff" + hashlib.sha256(self.namespace.encode()).hexdigest()[:10]

    def as_dict(self) -> dict[str, str]:
        """For the wire and for results."""
        return asdict(self)


def mac_for(address: str) -> str:
    """A locally administered MAC address that follows from the IPv4 address."""
    return "02:fe:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))


def find(namespace: str) -> Endpoint | None:
    """The endpoint in this namespace, None when there is no such namespace."""
    if not (NAMESPACES / namespace).exists():
        return None
    links: list[dict[str, Any]] = json.loads(run(["ip", "-n", namespace, "-j", "addr", "show"]))
    for link in links:
        if link.get("ifname") != "eth0":
            continue
        for entry in link.get("addr_info", []):
            if entry.get("family") == "inet":
                return Endpoint(namespace, entry["local"], link["address"])
    return None


def create(endpoint: Endpoint) -> None:
    """Make the namespace, the cable and the route; whatever a failed attempt left is removed."""
    remove(endpoint)
    space, veth = endpoint.namespace, endpoint.veth
    run(["ip", "netns", "add", space])
    try:
        run(["ip", "-n", space, "link", "set", "lo", "up"])
        run(
            ["ip", "link", "add", veth, "type", "veth"]
            + ["peer", "name", "eth0", "address", endpoint.mac, "netns", space]
        )
        run(["ip", "addr", "add", f"{GATEWAY}/32", "dev", veth])
        run(["ip", "link", "set", veth, "up"])
        run(["ip", "-n", space, "addr", "add", f"{endpoint.address}/32", "dev", "eth0"])
        run(["ip", "-n", space, "link", "set", "eth0", "up"])
        run(["ip", "-n", space, "route", "add", GATEWAY, "dev", "eth0", "scope", "link"])
        run(["ip", "-n", space, "route", "add", "default", "via", GATEWAY, "dev", "eth0"])
        run(["ip", "route", "replace", f"{endpoint.address}/32", "dev", veth])
    except FlowferryError:
        remove(endpoint)
        raise


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
