# SPDX-License-Identifier: Apache-2.0
"""From the cluster to the switch: what there should be, and the writes that bring it about.

A pass that was cut short, an agent or a switch that was started again, and entries that somebody
else has written are all the same case: the switch is read, and differs. As long as nothing of that
kind is to be thought of, a pass takes what the switch has of Services from a record, and computes
only what a change touches (memory.py); routes and what migrations have written it always reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from flowferry_p4.client import Entry, Session, Update

from .balance import Balance, find_balance
from .links import Attachment, Settings, address_of, find_links
from .memory import Memory
from .objects import Cluster
from .problems import Problem
from .record import Record, count
from .tables import LINKS, OWNED, Tables
from .virtual import Virtuals, find_virtuals
from .writer import Writer

# One request stays well within gRPC's 4 MiB, however many entries there are.
_BATCH = 4096
# So many virtual addresses at a time: the entries of all at once would take hundreds of MB.
_STEP = 64

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
    balance = find_balance(virtuals.served, present, sizes)
    return Desired(
        Tables([*links.entries, *balance.entries]),
        [*links.problems, *virtuals.problems, *balance.problems],
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
    memory: Memory | None = None,
) -> Result:
    """One pass: read, compare, write the difference. Raises P4Error where the switch refuses.

    With ``memory``, which this switch alone has, much is not read: see there.

    Routes and answers are written first, all else next, and routes that nobody needs go last. While
    it has to do with routes it holds ``pods``, a lock that pods which come and go take, too; the
    rest takes longer the more Services there are, and nobody waits for it.

    A hold that is set between the read and the writes does no harm: a migration changes what the
    API says only after its own writes, so for an address that is about to be held there is nothing
    to write.
    """
    memory = memory or Memory()
    record = memory.take(session)
    with Writer(session, settings.uplink) as writer:
        one = _Pass(session, cluster, attachments, settings, pods or nullcontext(), memory, writer)
        surplus = one.link(and_remove=False)
        if record is None or one.is_doubtful or not one.has_room():
            balance, record = one.balance()
        else:
            balance = one.advance(record)
        writer.wait()
        if surplus:
            one.link(and_remove=True)
    memory.put(session, record)
    problems = [*one.links.problems, *balance.problems]
    entries = len(one.links.entries) + one.balanced
    return Result(writer.written, entries, problems, balance.deferred)


class _Pass:
    def __init__(
        self,
        session: Session,
        cluster: Cluster,
        attachments: Callable[[], Sequence[Attachment]],
        settings: Settings,
        pods: AbstractContextManager[object],
        memory: Memory,
        writer: Writer,
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._attachments = attachments
        self._settings = settings
        self._pods = pods
        self._memory = memory
        self._write = writer.write
        self._written = writer.wait
        self._virtuals = find_virtuals(cluster, settings.node, memory.expanded)
        self._sizes = {name: table.size for name, table in session.schema.tables.items()}
        self._counts = count(self._virtuals.served)
        self.balanced = 0
        """Entries that are wanted beside the links."""
        self.is_doubtful = False
        """Whether a migration is under way, or the switch has lost even its routes."""
        self.links = Desired(Tables())

    def link(self, and_remove: bool) -> bool:
        """Routes and answers; says whether there are some that nobody wants."""
        groups = (LINKS,)
        with self._pods:
            present = Tables.read(self._session, LINKS)
            lost = not any(present.of(*LINKS))
            self.is_doubtful = self.is_doubtful or lost or bool(present.moving())
            self.links = desired_links(
                self._cluster, self._attachments(), self._settings, present, self._virtuals
            )
            self._write(additions(present, self.links.entries, groups))
            gone = removals(present, self.links.entries, groups)
            if and_remove:
                self._write(gone)
            self._written()
        return bool(gone)

    def has_room(self) -> bool:
        """Whether nothing has to be left out."""
        return all(number <= self._sizes.get(table, 0) for table, number in self._counts.items())

    def balance(self) -> tuple[Balance, Record | None]:
        """All else, after a read of all of it; and a record, where one holds true."""
        began = time.monotonic()
        groups = OWNED[1:]
        present = Tables.read(self._session, *groups)
        moving = present.moving()
        if not any(present.of(*(name for group in groups for name in group))) and self.has_room():
            record = Record()
            found = self.advance(record)
        else:
            found = find_balance(self._virtuals.served, present, self._sizes)
            wanted = Tables(found.entries)
            self._write(additions(present, wanted, groups))
            self._write(removals(present, wanted, groups))
            self.balanced = len(wanted)
            record = Record(found.served, found.numbered)
            found.problems[:0] = self._virtuals.problems
        self._memory.has_read(time.monotonic() - began)
        whole = not moving and len(record.virtuals) == len(self._virtuals.served)
        return found, record if whole else None

    def advance(self, record: Record) -> Balance:
        """Only what has changed since the record was made, some virtual addresses at a time."""
        groups = OWNED[1:]
        wanted = {virtual.claim: virtual for virtual in self._virtuals.served}
        changed = record.changed(wanted)
        for start in range(0, len(changed), _STEP):
            before, after = record.advance(changed[start : start + _STEP], wanted)
            self._write(additions(before, after, groups))
            self._write(removals(before, after, groups))
        self.balanced = self._counts.total()
        return Balance(problems=list(self._virtuals.problems))
