# SPDX-License-Identifier: Apache-2.0
"""One pod at a time: what a pod that is connected needs at once, without a whole pass.

A pass reads all tables, which takes the longer the larger the cluster is; a pod that starts is not
to wait for that.
"""

from __future__ import annotations

from dataclasses import replace

from flowferry_p4.client import Entry, Session, Update
from flowferry_p4.client.traffic import Address

from .links import Attachment, Settings, answers, find_links
from .objects import Cluster
from .tables import Tables


def attach(session: Session, cluster: Cluster, attachment: Attachment, settings: Settings) -> None:
    """Insert what is missing. What is there stays: it may be that of a pod that is moving here."""
    present = _present(session, attachment)
    moving = present.moving()
    rivals = [pod for pod in cluster.pods if set(pod.addresses) & set(attachment.addresses)]
    known = replace(cluster, pods=rivals, services=(), slices=())
    routes = [
        entry
        for entry in find_links(known, [attachment], (), settings, present).entries
        if entry.key in {route.key for route in _routes(attachment)}
        and str(entry.match["destination"]).partition("/")[0] not in moving
    ]
    wanted = [*routes, *answers([attachment], (), settings)]
    session.write([Update("INSERT", entry) for entry in wanted if present.get(entry) is None])


def detach(session: Session, attachment: Attachment) -> None:
    """Delete the routes that lead to a port which goes; those of moved pods lead elsewhere."""
    present = _present(session, attachment)
    moving = present.moving()
    gone = [
        entry
        for entry in present.of("route", "route_ipv6")
        if entry.params.get("port") == attachment.port
        and str(entry.match["destination"]).partition("/")[0] not in moving
    ]
    session.write([Update("DELETE", Entry(entry.table, entry.match)) for entry in gone])


def missing(session: Session, attachment: Attachment) -> list[str]:
    """Addresses that no route of their own leads to."""
    present = _present(session, attachment)
    return [
        str(route.match["destination"]).partition("/")[0]
        for route in _routes(attachment)
        if present.get(route) is None
    ]


def _routes(attachment: Attachment) -> list[Entry]:
    parsed = [Address(address) for address in attachment.addresses]
    return [Entry(a.name("route"), {"destination": f"{a.text}/{a.bits}"}) for a in parsed]


def _present(session: Session, attachment: Attachment) -> Tables:
    """What the switch has of the addresses, and of the gateway."""
    found = [
        entry for route in _routes(attachment) for entry in session.read(route.table, route.match)
    ]
    for text in attachment.addresses:
        address = Address(text)
        for table in ("hold_to", "hold_from"):
            found += session.read(address.name(table), {"address": address.text})
        guards = session.read(address.name("guard"))
        found += [entry for entry in guards if entry.match["source"] == address.text]
    return Tables([*found, *session.read(["arp", "ndp"])])
