# SPDX-License-Identifier: Apache-2.0
"""From the cluster to the switch: what there should be, and the writes that bring it about.

Every pass begins with a read of the switch. What it has is never taken from memory, so a pass that
was cut short, an agent or a switch that was started again, and entries that somebody else has
written are all the same case: a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flowferry_p4.client import Entry, Session, Update

from .announce import announce
from .balance import find_balance
from .links import Attachment, Settings, address_of, find_links
from .objects import Cluster
from .problems import Problem
from .tables import LINKS, OWNED, Tables
from .virtual import find_virtuals

# One request stays well within gRPC's 4 MiB, however many entries there are.
_BATCH = 4096


@dataclass
class Desired:
    entries: Tables
    problems: list[Problem] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)


@dataclass
class Result:
    """Of one pass."""

    writes: int
    entries: int
    problems: list[Problem]
    deferred: list[str]
    """Services that wait for a migration."""


def desired(
    cluster: Cluster,
    attachments: Sequence[Attachment],
    settings: Settings,
    present: Tables,
    sizes: Mapping[str, int],
) -> Desired:
    """All entries that the switch should have, given those that it has.

    What a migration has its hands on stays as it is: routes, answers, replies and services of an
    address that is held or guarded.
    """
    virtuals = find_virtuals(cluster, settings.node)
    links = find_links(cluster, attachments, virtuals.served, settings, present)
    local = frozenset(address for one in attachments for address in one.addresses)
    balance = find_balance(virtuals.served, local, present, sizes)
    entries = Tables([*links.entries, *balance.entries])
    for entry in _links_of(present.moving(), entries, present):
        entries.replace(entry, present.get(entry))
    problems = [*virtuals.problems, *links.problems, *balance.problems]
    return Desired(entries, problems, balance.deferred)


def _links_of(moving: frozenset[str], *tables: Tables) -> list[Entry]:
    """Routes to addresses that are moving and answers for them, wanted or present."""
    return [e for each in tables for e in each.of(*LINKS) if address_of(e) in moving]


def plan(present: Tables, wanted: Tables) -> list[list[Update]]:
    """Batches to be written one after the other; empty when nothing differs.

    What is referred to comes before what refers to it, and goes after it. So at every moment a
    packet finds a service with all of its buckets, and each bucket a backend with a route.
    """
    batches: list[list[Update]] = []
    for group in OWNED:
        batches.append(_writes(present, wanted, group))
    for group in reversed(OWNED):
        gone = [entry for entry in present.of(*group) if wanted.get(entry) is None]
        batches.append([Update("DELETE", Entry(e.table, e.match)) for e in gone])
    return [
        batch[start : start + _BATCH] for batch in batches for start in range(0, len(batch), _BATCH)
    ]


def _writes(present: Tables, wanted: Tables, group: Sequence[str]) -> list[Update]:
    """Inserts first: what changes may lead to what is new."""
    inserts, changes = [], []
    for entry in wanted.of(*group):
        now = present.get(entry)
        if now is None:
            inserts.append(Update("INSERT", entry))
        elif now != entry:
            changes.append(Update("MODIFY", entry))
    return inserts + changes


def reconcile(
    session: Session, cluster: Cluster, attachments: Sequence[Attachment], settings: Settings
) -> Result:
    """One pass: read, compare, write the difference. Raises P4Error where the switch refuses.

    A hold that is set between the read and the writes does no harm: a migration changes what the
    API says only after its own writes, so for an address that is about to be held there is nothing
    to write.
    """
    present = Tables.read(session)
    sizes = {name: table.size for name, table in session.schema.tables.items()}
    wanted = desired(cluster, attachments, settings, present, sizes)
    batches = plan(present, wanted.entries)
    for batch in batches:
        session.write(batch)
        if settings.uplink:
            announce(session, batch, settings.uplink)
    return Result(sum(map(len, batches)), len(wanted.entries), wanted.problems, wanted.deferred)
