# SPDX-License-Identifier: Apache-2.0
"""One pod at a time: what a pod that is connected needs at once, without a whole pass.

A pass reads all tables, which takes the longer the larger the cluster is; a pod that starts is not
to wait for that.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from flowferry_p4.client import Entry, Session, Update
from flowferry_p4.client.traffic import Address

from .announce import announce
from .links import GATEWAYS, Attachment, Settings, address_of, find_links
from .objects import Cluster
from .tables import Tables


def attach(session: Session, cluster: Cluster, attachment: Attachment, settings: Settings) -> None:
    """Write the pod's routes and answers, but for what a move decides: see find_links."""
    present = _present(session, attachment)
    moving = present.moving()
    rivals = [pod for pod in cluster.pods if set(pod.addresses) & set(attachment.addresses)]
    known = replace(cluster, pods=rivals, services=(), slices=())
    links = find_links(known, [attachment], (), settings, present).entries
    own = {str(ip_address(address)) for address in attachment.addresses} - moving
    wanted = [entry for entry in links if address_of(entry) in own | set(GATEWAYS)]
    updates = [
        Update("INSERT" if present.get(entry) is None else "MODIFY", entry)
        for entry in wanted
        if present.get(entry) != entry
    ]
    session.write(updates)
    if settings.uplink:
        announce(session, updates, settings.uplink)


def detach(session: Session, attachment: Attachment) -> None:
    """Delete the routes that lead to a port which goes; those of moved pods lead elsewhere."""
    present = _present(session, attachment)
    moving = present.moving()
    gone = [
        entry
        for entry in present.of("route", "route_ipv6")
        if entry.params.get("port") == attachment.port and address_of(entry) not in moving
    ]
    session.write([Update("DELETE", Entry(entry.table, entry.match)) for entry in gone])


def missing(session: Session, attachment: Attachment) -> list[str]:
    """Addresses that no route of their own leads to."""
    present = _present(session, attachment)
    return [str(address_of(route)) for route in _routes(attachment) if present.get(route) is None]


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
