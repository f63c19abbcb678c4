# SPDX-License-Identifier: Apache-2.0
"""A switch between nodes and clients: where its routes to nodes, pods and outside addresses lead.

It is no node's, so nobody is connected to it but nodes, clients and routers. What it has for others
than nodes somebody else has written, and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowferry_p4.client import Entry, Session

from .links import address_of, best_way, forward, is_at_home, owner
from .objects import Cluster, Node
from .problems import Problem
from .reconcile import Result, additions, removals
from .tables import Tables
from .virtual import find_virtuals

ROUTES = ("route", "route_ipv6")


@dataclass(frozen=True)
class EdgeSettings:
    gateway_mac: str
    ports: Mapping[str, int]
    """The port that each node is at."""


def find_routes(
    cluster: Cluster, settings: EdgeSettings, present: Tables
) -> tuple[list[Entry], list[Problem]]:
    """What there should be, of addresses that no migration has its hands on."""
    nodes = {n.name: n for n in cluster.nodes if n.uplink_mac and n.name in settings.ports}
    problems = [
        Problem("no_next_hop", f"Node {name}", "its agent has not said yet where it is")
        for name in sorted(set(settings.ports) - set(nodes))
    ]

    def lead(destination: str, node: Node) -> Entry:
        port = settings.ports[node.name]
        return forward(destination, port, settings.gateway_mac, node.uplink_mac)

    found = [
        lead(network, node)
        for node in nodes.values()
        for network in (*node.networks, *node.addresses)
    ]
    ways: dict[str, list[tuple[str, str, Entry]]] = {}
    for pod in cluster.pods:
        for address in pod.addresses if pod.node in nodes else ():
            way = (pod.created, pod.name, lead(address, nodes[pod.node]))
            ways.setdefault(address, []).append(way)
    for address, several in ways.items():
        only = several[0][2]
        home = [n for n in nodes.values() if is_at_home(address, n) and lead(address, n) == only]
        if len(several) > 1 or not home:
            found.append(best_way(several, present))
    for address, announcers in _announced(cluster).items():
        if may := {name for name in announcers if name in nodes}:
            found.append(lead(address, nodes[owner(address, may)]))
    return found, problems


def _announced(cluster: Cluster) -> dict[str, set[str]]:
    """Nodes that may be sent what comes for an outside address; which one does not matter."""
    may: dict[str, set[str]] = {}
    for virtual in find_virtuals(cluster, "").served:
        if virtual.announcers is not None:
            may.setdefault(virtual.address, set()).update(virtual.announcers)
    return may


def keep(session: Session, cluster: Cluster, settings: EdgeSettings) -> Result:
    """One pass: read, compare, write the difference."""
    present = Tables.read(session, ROUTES)
    wanted, problems = find_routes(cluster, settings, present)
    moving = present.moving()
    own = set(settings.ports.values())
    mine = Tables(
        entry
        for entry in present.of(*ROUTES)
        if entry.params.get("port") in own and address_of(entry) not in moving
    )
    others = [e for e in present.of(*ROUTES) if mine.get(e) is None]
    taken = Tables(others)
    entries = Tables(entry for entry in wanted if taken.get(entry) is None)
    batches = [*additions(mine, entries, (ROUTES,)), *removals(mine, entries, (ROUTES,))]
    for batch in batches:
        session.write(batch)
    return Result(sum(map(len, batches)), len(entries), problems, [])
