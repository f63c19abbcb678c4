# SPDX-License-Identifier: Apache-2.0
"""Services as the switch knows them: a virtual address, protocol and port, and where it leads.

An answer gets the virtual address that its flow went to, which the switch remembers that translated
it. Only an answer that leaves the cluster by another one has to get the address that is known
outside from that other one, so there can be one of these for a backend's port; a second one is
refused. Refusals depend on nothing but the objects, so that all nodes refuse the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from .maglev import is_prime
from .objects import BUCKETS, Cluster, Endpoint, Service, ServicePort, Slice
from .problems import Problem

PROTOCOLS = {"TCP": 6, "UDP": 17}
DEFAULT_BUCKETS = 251

Backend = tuple[str, int]
"""Address and port."""
Claim = tuple[str, int, int]
"""Address, protocol and port: of a virtual address, or of a backend that answers for one."""


@dataclass(frozen=True)
class Virtual:
    service: str
    address: str
    protocol: int
    port: int
    buckets: int
    chosen: tuple[Backend, ...]
    """Where new packets go, from this node."""
    known: tuple[Backend, ...]
    """All backends there are, wherever: flows stay with one as long as it is among them."""
    announcers: tuple[str, ...] | None
    """Nodes that may announce the address outside; None for an address that nobody announces."""
    client_time: int = 0
    """How long a client stays with its backend, in the switch's units; 0: flows alone do."""
    stays: bool = False
    """What comes from outside is served by the node that it comes to, and by no other."""
    order: tuple[str, str, int] = ("", "", 0)
    """Its place among all others."""

    @property
    def claim(self) -> Claim:
        return self.address, self.protocol, self.port


@dataclass
class Virtuals:
    served: list[Virtual] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


Expanded = dict[str, tuple[Service, list[Slice], tuple[str, ...], list[Virtual]]]
"""What became of each Service, and of what: it is the same as long as that is."""


def find_virtuals(cluster: Cluster, node: str, expanded: Expanded | None = None) -> Virtuals:
    """What this node's switch serves, older Services first.

    ``expanded`` is what the last call left there, for the same node.
    """
    before = expanded or {}
    now: Expanded = {}
    found = Virtuals()
    taken: dict[Claim, str] = {}
    answering: dict[Claim, Virtual] = {}
    slices: dict[str, list[Slice]] = {}
    for one in cluster.slices:
        slices.setdefault(one.service, []).append(one)
    ready = tuple(sorted(n.name for n in cluster.nodes if n.ready))
    for service in sorted(cluster.services, key=lambda s: (s.created, s.name)):
        if refused := _refuse_service(service):
            found.problems.append(refused)
            continue
        given = service, slices.get(service.name, []), ready
        known = before.get(service.name)
        virtuals = known[3] if known and known[:3] == given else list(_of_service(*given, node))
        now[service.name] = (*given, virtuals)
        for virtual in virtuals:
            problem = _refuse_virtual(virtual, taken, answering)
            if problem:
                found.problems.append(problem)
                continue
            taken[virtual.claim] = virtual.service
            if virtual.announcers is not None and not virtual.stays:
                answering.update({(a, virtual.protocol, p): virtual for a, p in virtual.known})
            found.served.append(virtual)
    if expanded is not None:
        expanded.clear()
        expanded.update(now)
    return found


def _refuse_service(service: Service) -> Problem | None:
    where = f"Service {service.name}"
    unknown = sorted({port.protocol for port in service.ports} - set(PROTOCOLS))
    if unknown:
        return Problem(
            "protocol_unsupported",
            where,
            f"protocol {', '.join(unknown)}: the switch translates TCP and UDP",
        )
    if service.buckets and not _is_bucket_count(service.buckets):
        return Problem(
            "bad_buckets",
            where,
            f'annotation {BUCKETS}: "{service.buckets}" is not a prime between 2 and 65521',
        )
    return None


def _is_bucket_count(text: str) -> bool:
    return text.isdecimal() and int(text) < 65536 and is_prime(int(text))


def _refuse_virtual(
    virtual: Virtual, taken: dict[Claim, str], answering: dict[Claim, Virtual]
) -> Problem | None:
    where = f"Service {virtual.service}"
    shown = f"{virtual.address} port {virtual.port}"
    if virtual.claim in taken:
        return Problem(
            "virtual_taken", where, f"{shown} is served for Service {taken[virtual.claim]} already"
        )
    if virtual.announcers is None or virtual.stays:
        return None
    for address, port in virtual.known:
        other = answering.get((address, virtual.protocol, port))
        if other:
            return Problem(
                "backend_taken",
                where,
                f"{shown}: backend {address} port {port} answers outside of the cluster as "
                f"{other.address} port {other.port} of Service {other.service} already, and its "
                "node's switch does not know by which address the client came",
            )
    return None


def _of_service(
    service: Service, slices: Sequence[Slice], ready_nodes: tuple[str, ...], node: str
) -> Iterator[Virtual]:
    """Outside addresses first: those of them that cannot be served are missed the most."""
    outside = [(address, True) for address in service.outside_addresses]
    inside = [(address, False) for address in service.cluster_addresses]
    place = 0
    for address, is_outside in outside + inside:
        for port in service.ports:
            place += 1
            known = _endpoints(slices, port, ip_address(address).version)
            local = service.outside_local if is_outside else service.cluster_local
            announcers = None
            if is_outside:
                has_local = {e.node for e, _ in known if e.ready}
                announcers = tuple(n for n in ready_nodes if not local or n in has_local)
            yield Virtual(
                service.name,
                str(ip_address(address)),
                PROTOCOLS[port.protocol],
                port.port,
                int(service.buckets or DEFAULT_BUCKETS),
                _choose(known, node if local else None, falls_back=is_outside),
                tuple(sorted({(e.address, number) for e, number in known})),
                announcers,
                _units(service.client_timeout),
                is_outside and local,
                (service.created, service.name, place),
            )


def _units(seconds: int) -> int:
    """As the program counts time: in units of 2^21 microseconds, at least one."""
    return min(-(-seconds * 1_000_000 >> 21), 65535) if seconds else 0


def _endpoints(
    slices: Sequence[Slice], port: ServicePort, version: int
) -> list[tuple[Endpoint, int]]:
    """Those of one IP version, with the number of their port."""
    return [
        (endpoint, one.ports[port.name][1])
        for one in slices
        if one.ports.get(port.name, ("", 0))[0] == port.protocol
        for endpoint in one.endpoints
        if ip_address(endpoint.address).version == version
    ]


def _choose(
    known: list[tuple[Endpoint, int]], node: str | None, falls_back: bool
) -> tuple[Backend, ...]:
    """The ready ones or, when there is none, those that still serve while they end.

    With ``node`` its own alone. Without one of its own a node is not sent anything from outside,
    but its pods may use an outside address: then (``falls_back``) they get any.
    """
    own = [(e, number) for e, number in known if node is None or e.node == node]
    ready = [(e.address, number) for e, number in own if e.ready]
    ending = [(e.address, number) for e, number in own if e.serving and e.terminating]
    chosen = ready or ending
    if not chosen and node is not None and falls_back:
        return _choose(known, None, False)
    return tuple(sorted(set(chosen)))
