# SPDX-License-Identifier: Apache-2.0
"""From the cluster to the switch: what there should be, and the writes that bring it about.

Every pass begins with a read of the switch. What it has is never taken from memory, so a pass that
was cut short, an agent or a switch that was started again, and entries that somebody else has
written are all the same case: a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from flowferry_p4.client import Entry, Session, Update

from .announce import announce
from .balance import find_balance
from .links import Attachment, Settings, address_of, find_links
from .objects import Cluster
from .problems import Problem
from .tables import LINKS, OWNED, Tables
from .virtual import Virtuals, find_virtuals

# One request stays well within gRPC's 4 MiB, however many entries there are.
_BATCH = 4096

Groups = Sequence[Sequence[str]]
"""Names of tables, in the order of their inserts."""


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
    links = desired_links(cluster, attachments, settings, present, virtuals)
    balance = desired_balance(present, sizes, virtuals)
    return Desired(
        Tables([*links.entries, *balance.entries]),
        [*links.problems, *balance.problems],
        balance.deferred,
    )


def desired_links(
    cluster: Cluster,
    attachments: Sequence[Attachment],
    settings: Settings,
    present: Tables,
    virtuals: Virtuals,
) -> Desired:
    """Of the tables LINKS."""
    links = find_links(cluster, attachments, virtuals.served, settings, present)
    entries = Tables(links.entries)
    for entry in _links_of(present.moving(), entries, present):
        entries.replace(entry, present.get(entry))
    return Desired(entries, links.problems)


def desired_balance(present: Tables, sizes: Mapping[str, int], virtuals: Virtuals) -> Desired:
    """Of the other tables."""
    balance = find_balance(virtuals.served, present, sizes)
    problems = [*virtuals.problems, *balance.problems]
    return Desired(Tables(balance.entries), problems, balance.deferred)


def _links_of(moving: frozenset[str], *tables: Tables) -> list[Entry]:
    """Routes to addresses that are moving and answers for them, wanted or present."""
    return [e for each in tables for e in each.of(*LINKS) if address_of(e) in moving]


def plan(present: Tables, wanted: Tables) -> list[list[Update]]:
    """Batches to be written one after the other; empty when nothing differs.

    What is referred to comes before what refers to it, and goes after it. So at every moment a
    packet finds a service with all of its buckets, and each bucket a backend with a route.
    """
    return [*additions(present, wanted, OWNED), *removals(present, wanted, OWNED)]


def additions(present: Tables, wanted: Tables, groups: Groups) -> list[list[Update]]:
    return _batches([_writes(present, wanted, group) for group in groups])


def removals(present: Tables, wanted: Tables, groups: Groups) -> list[list[Update]]:
    gone = [
        [Update("DELETE", Entry(e.table, e.match)) for e in present.of(*group) if not wanted.get(e)]
        for group in reversed(groups)
    ]
    return _batches(gone)


def _batches(found: list[list[Update]]) -> list[list[Update]]:
    return [
        updates[start : start + _BATCH]
        for updates in found
        for start in range(0, len(updates), _BATCH)
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
    session: Session,
    cluster: Cluster,
    attachments: Callable[[], Sequence[Attachment]],
    settings: Settings,
    pods: AbstractContextManager[object] | None = None,
) -> Result:
    """One pass: read, compare, write the difference. Raises P4Error where the switch refuses.

    Routes and answers are written first, all else next, and routes that nobody needs go last. While
    it has to do with routes it holds ``pods``, a lock that pods which come and go take, too; the
    rest takes longer the more Services there are, and nobody waits for it.

    A hold that is set between the read and the writes does no harm: a migration changes what the
    API says only after its own writes, so for an address that is about to be held there is nothing
    to write.
    """
    one = _Pass(session, cluster, attachments, settings, pods or nullcontext())
    surplus = one.link(and_remove=False)
    balance = one.balance()
    if surplus:
        one.link(and_remove=True)
    problems = [*one.links.problems, *balance.problems]
    entries = len(one.links.entries) + len(balance.entries)
    return Result(one.writes, entries, problems, balance.deferred)


class _Pass:
    def __init__(
        self,
        session: Session,
        cluster: Cluster,
        attachments: Callable[[], Sequence[Attachment]],
        settings: Settings,
        pods: AbstractContextManager[object],
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._attachments = attachments
        self._settings = settings
        self._pods = pods
        self._virtuals = find_virtuals(cluster, settings.node)
        self.links = Desired(Tables())
        self.writes = 0

    def link(self, and_remove: bool) -> bool:
        """Routes and answers; says whether there are some that nobody wants."""
        groups = (LINKS,)
        with self._pods:
            present = Tables.read(self._session, LINKS)
            self.links = desired_links(
                self._cluster, self._attachments(), self._settings, present, self._virtuals
            )
            self._write(additions(present, self.links.entries, groups))
            gone = removals(present, self.links.entries, groups)
            if and_remove:
                self._write(gone)
        return bool(gone)

    def balance(self) -> Desired:
        groups = OWNED[1:]
        present = Tables.read(self._session, *groups)
        sizes = {name: table.size for name, table in self._session.schema.tables.items()}
        found = desired_balance(present, sizes, self._virtuals)
        self._write(additions(present, found.entries, groups))
        self._write(removals(present, found.entries, groups))
        return found

    def _write(self, batches: list[list[Update]]) -> None:
        for batch in batches:
            self._session.write(batch)
            self.writes += len(batch)
            if self._settings.uplink:
                announce(self._session, batch, self._settings.uplink)
