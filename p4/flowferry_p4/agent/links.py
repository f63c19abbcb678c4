# SPDX-License-Identifier: Apache-2.0
"""Who is where: routes to pods and nodes, and whose link address the switch answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from ipaddress import ip_address, ip_network

from flowferry_p4.client import Entry
from flowferry_p4.client.traffic import Address

from .objects import UPLINK_MAC, Cluster, Node, Pod
from .problems import Problem
from .tables import Tables
from .virtual import Virtual

GATEWAYS = ("169.254.1.1", "fe80::1")
"""What a pod takes for its gateway, on every node."""


@dataclass(frozen=True)
class Uplink:
    """The port that leads to other nodes and to clients outside."""

    port: int
    mac: str
    next_hop_mac: str = ""
    """The router, if there is one: the way out of the cluster."""
    routed: bool = False
    """Whether nodes reach each other through the router alone, being on other links."""


@dataclass(frozen=True)
class HostPort:
    """The port that leads to the node's own kernel, and what is reached through it."""

    port: int
    mac: str
    networks: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """This node and its switch."""

    node: str
    gateway_mac: str = "02:ff:00:00:00:01"
    uplink: Uplink | None = None
    host: HostPort | None = None
    announce: bool = True
    """Whether this project announces outside addresses, rather than somebody else."""


@dataclass(frozen=True)
class Attachment:
    """An interface of a pod on this node, which is a port of the switch."""

    port: int
    mac: str
    addresses: tuple[str, ...]
    pod_uid: str = ""


@dataclass
class Links:
    """Entries of arp, ndp and route, and what cannot be one."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """A way to an address; of several the first in this order is taken on an empty switch."""

    created: str
    """Of a pod; a tilde, behind all times, for one that the API does not know."""
    label: str
    entry: Entry


def find_links(
    cluster: Cluster,
    attachments: Sequence[Attachment],
    virtuals: Sequence[Virtual],
    settings: Settings,
    present: Tables,
) -> Links:
    """What there should be, given what there is: see ``_choose_way``."""
    links = Links()
    ways: dict[str, list[_Candidate]] = {}
    pods = {pod.uid: pod for pod in cluster.pods}
    for attachment in attachments:
        _add_attached(ways, attachment, pods.get(attachment.pod_uid), settings)
    if settings.uplink:
        _add_remote(ways, links, cluster, settings, settings.uplink)
    chosen = {address: _choose_way(ways[address], present) for address in sorted(ways)}
    own_ports = {attachment.port for attachment in attachments}
    here = [address for address, way in chosen.items() if way.params["port"] in own_ports]
    links.entries += chosen.values()
    links.entries += _networks(settings)
    links.entries += _answers(here, virtuals, settings)
    return links


def _choose_way(ways: list[_Candidate], present: Tables) -> Entry:
    return best_way([(way.created, way.label, way.entry) for way in ways], present)


def best_way(ways: Sequence[tuple[str, str, Entry]], present: Tables) -> Entry:
    """The only way to an address or, while two pods have it, the one that the switch has now.

    Two pods have one address while it moves: the copy is made long before the traffic is
    redirected to it, and the source is removed only afterwards. Which of them is heard is decided
    by the redirect, and by nothing that the API says. ``ways`` are since when, a name, the entry.
    """
    entries = [entry for _, _, entry in sorted(ways, key=lambda way: way[:2])]
    now = present.get(entries[0])
    return next((entry for entry in entries if entry == now), entries[0])


def forward(destination: str, port: int, source_mac: str, destination_mac: str) -> Entry:
    network = ip_network(destination)
    table = "route" if network.version == 4 else "route_ipv6"
    params = {"port": port, "source_mac": source_mac, "destination_mac": destination_mac}
    return Entry(table, {"destination": str(network)}, "forward", params)


def address_of(entry: Entry) -> str | None:
    """The address that a route or an answer is for, None where it is for a network."""
    for field_name in ("destination", "target"):
        if field_name in entry.match:
            network = ip_network(entry.match[field_name])
            return str(network[0]) if network.prefixlen == network.max_prefixlen else None
    return None


def _add_attached(
    ways: dict[str, list[_Candidate]], attachment: Attachment, pod: Pod | None, settings: Settings
) -> None:
    for address in attachment.addresses:
        entry = forward(address, attachment.port, settings.gateway_mac, attachment.mac)
        created = pod.created if pod else "~"
        way = _Candidate(created, f"port {attachment.port:03}", entry)
        ways.setdefault(str(ip_address(address)), []).append(way)


def _add_remote(
    ways: dict[str, list[_Candidate]],
    links: Links,
    cluster: Cluster,
    settings: Settings,
    uplink: Uplink,
) -> None:
    """Other nodes: their networks as a whole, and what is not where its network is."""
    others = {node.name: node for node in cluster.nodes if node.name != settings.node}
    reachable = {}
    for node in others.values():
        direct = "" if uplink.routed else node.uplink_mac
        mac = direct or uplink.next_hop_mac
        if not mac:
            text = f"no annotation {UPLINK_MAC} yet, and no router: its pods cannot be reached"
            links.problems.append(Problem("no_next_hop", f"Node {node.name}", text))
            continue
        reachable[node.name] = mac
        own = [*node.networks, *node.addresses]
        links.entries += [forward(one, uplink.port, uplink.mac, mac) for one in own]
    remote: dict[str, list[tuple[Pod, _Candidate]]] = {}
    for pod in cluster.pods:
        if pod.node in reachable:
            for address in pod.addresses:
                entry = forward(address, uplink.port, uplink.mac, reachable[pod.node])
                way = _Candidate(pod.created, pod.name, entry)
                remote.setdefault(str(ip_address(address)), []).append((pod, way))
    for address, found in remote.items():
        if len(found) > 1 or address in ways or not is_at_home(address, others[found[0][0].node]):
            ways.setdefault(address, []).extend(way for _, way in found)


def is_at_home(address: str, node: Node) -> bool:
    return any(ip_address(address) in ip_network(network) for network in node.networks)


def _networks(settings: Settings) -> Iterator[Entry]:
    """To the node itself, and out of the cluster."""
    host, uplink = settings.host, settings.uplink
    for network in host.networks if host else ():
        assert host is not None
        yield forward(network, host.port, settings.gateway_mac, host.mac)
    if uplink and uplink.next_hop_mac:
        for anywhere in ("0.0.0.0/0", "::/0"):
            entry = forward(anywhere, uplink.port, uplink.mac, uplink.next_hop_mac)
            yield replace(entry, action="forward_outside")


def _answers(
    here: Sequence[str], virtuals: Sequence[Virtual], settings: Settings
) -> Iterator[Entry]:
    """The gateway's link address for pods, and the uplink's for those who look for them.

    ``here`` are the addresses whose packets go to pods of this node. One that two pods have, on two
    nodes, is answered for by one of them: where it is routed to.
    """
    for gateway in GATEWAYS:
        yield _answer(gateway, settings.gateway_mac)
    if not settings.uplink:
        return
    wanted = set(here)
    if settings.announce:
        wanted |= announced(virtuals, settings.node)
    for address in sorted(wanted):
        yield _answer(address, settings.uplink.mac)


def _answer(address: str, mac: str) -> Entry:
    parsed = Address(address)
    target = {"target": f"{parsed.text}/{parsed.bits}"}
    if parsed.bits == 32:
        return Entry("arp", target, "answer", {"mac": mac})
    return Entry("ndp", target, "advertise", {"mac": mac})


def announced(virtuals: Sequence[Virtual], node: str) -> set[str]:
    """Outside addresses that this node announces: each has one owner among the ready nodes.

    The owner is the node with the highest hash of both names: when it goes, its addresses are
    spread over the others, and no other address moves.
    """
    may: dict[str, set[str]] = {}
    for virtual in virtuals:
        if virtual.announcers is not None:
            may.setdefault(virtual.address, set()).update(virtual.announcers)
    return {a for a, nodes in may.items() if nodes and owner(a, nodes) == node}


def owner(address: str, nodes: set[str]) -> str:
    def weight(node: str) -> bytes:
        return blake2b(f"{address} {node}".encode(), digest_size=8).digest()

    return max(sorted(nodes), key=weight)
