# SPDX-License-Identifier: Apache-2.0
"""Entries of service, bucket, backend and reply for the virtual addresses of a switch.

Services and backends have numbers in the switch, which mean nothing outside. They are read from it,
so that an agent that starts anew finds its own again. A number that is in use is never given to
something else in the same pass: packets may be on their way through the old meaning.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flowferry_p4.client import Entry
from flowferry_p4.client.traffic import Address

from . import maglev
from .problems import Problem
from .tables import Tables
from .virtual import Virtual

_LARGEST = 65535


@dataclass
class Balance:
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    """Services that stay as the switch has them, since one of their backends is moving."""


class Numbers:
    """Numbers of things: those that they have, or the lowest that is free."""

    def __init__(self, known: Mapping[Hashable, int], taken: Iterable[int]) -> None:
        self._known = dict(known)
        self._taken = {*taken, *self._known.values()}
        self._next = 1

    def of(self, thing: Hashable) -> int:
        if thing not in self._known:
            while self._next in self._taken:
                self._next += 1
            if self._next > _LARGEST:
                raise ValueError("no number is free")
            self._known[thing] = self._next
            self._taken.add(self._next)
        return self._known[thing]


def find_balance(
    virtuals: Sequence[Virtual],
    local: frozenset[str],
    present: Tables,
    sizes: Mapping[str, int],
) -> Balance:
    """What there should be; ``local`` are the addresses of this node's own pods."""
    found = Balance()
    state = _Present(present)
    moving = present.moving()
    kept = {v.service for v in virtuals if moving and moving & state.addresses_of(v)}
    budget = _Budget(sizes)
    for virtual in virtuals:
        entries = state.chain(virtual) if virtual.service in kept else _chain(virtual, state)
        if problem := budget.take(virtual, entries):
            found.problems.append(problem)
            continue
        found.entries += entries
        found.entries += _replies(virtual, local, moving)
    found.entries += [e for e in present.of("reply", "reply_ipv6") if e.match["address"] in moving]
    found.deferred = sorted(kept)
    return found


def service_key(virtual: Virtual) -> Entry:
    match = {"address": virtual.address, "protocol": virtual.protocol, "port": virtual.port}
    return Entry(Address(virtual.address).name("service"), match)


class _Present:
    """What the switch has of services, and the numbers in use."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._buckets: dict[int, list[Entry]] = {}
        for entry in tables.of("bucket"):
            self._buckets.setdefault(entry.match["service_id"], []).append(entry)
        self._backends = {
            table: {entry.match["backend_id"]: entry for entry in tables.of(table)}
            for table in ("backend", "backend_ipv6")
        }
        self.services = self._service_numbers()
        self.backends = {table: self._backend_numbers(table) for table in self._backends}

    def _service_numbers(self) -> Numbers:
        known: dict[Hashable, int] = {}
        for entry in self._tables.of("service", "service_ipv6"):
            number = entry.params.get("service_id")
            if isinstance(number, int) and number not in known.values():
                known[entry.key] = number
        return Numbers(known, self._buckets)

    def _backend_numbers(self, table: str) -> Numbers:
        known: dict[Hashable, int] = {}
        for number, entry in sorted(self._backends[table].items()):
            known.setdefault((entry.params.get("address"), entry.params.get("port")), number)
        led_to = {e.params["backend_id"] for each in self._buckets.values() for e in each}
        return Numbers(known, {*self._backends[table], *led_to})

    def chain(self, virtual: Virtual) -> list[Entry]:
        """A service's entry, its buckets, and the backends that these lead to, as they are."""
        service = self._tables.get(service_key(virtual))
        if service is None:
            return []
        buckets = self._buckets.get(service.params.get("service_id", 0), [])
        backends = self._backends[Address(virtual.address).name("backend")]
        led_to = {entry.params["backend_id"] for entry in buckets}
        return [service, *buckets, *(backends[n] for n in sorted(led_to) if n in backends)]

    def addresses_of(self, virtual: Virtual) -> set[str]:
        """Of the backends that a service has, and of those that it is to have."""
        has = {e.params.get("address", "") for e in self.chain(virtual) if "backend" in e.table}
        return has | {address for address, _ in virtual.known}


def _chain(virtual: Virtual, state: _Present) -> list[Entry]:
    """A service without backends has an entry nevertheless: its packets go nowhere else."""
    table = Address(virtual.address).name("backend")
    action = Address(virtual.address).name("translate")
    service = service_key(virtual)
    number = state.services.of(service.key)
    ids = {f"{a} {p}": state.backends[table].of((a, p)) for a, p in virtual.chosen}
    filled = maglev.fill(ids, virtual.buckets)
    service.action = "select_bucket"
    service.params = {"service_id": number, "bucket_count": len(filled)}
    backends = [
        Entry(table, {"backend_id": ids[f"{a} {p}"]}, action, {"address": a, "port": p})
        for a, p in virtual.chosen
    ]
    buckets = [
        Entry(
            "bucket",
            {"service_id": number, "bucket": index},
            "to_backend",
            {"backend_id": ids[name]},
        )
        for index, name in enumerate(filled)
    ]
    return [*backends, *buckets, service]


def _replies(virtual: Virtual, local: frozenset[str], moving: frozenset[str]) -> list[Entry]:
    """Answers get the virtual address where they enter the network: at the backend's switch."""
    address = Address(virtual.address)
    return [
        Entry(
            address.name("reply"),
            {"address": backend, "protocol": virtual.protocol, "port": port},
            address.name("restore_virtual"),
            {"address": virtual.address, "port": virtual.port},
        )
        for backend, port in virtual.known
        if backend in local and backend not in moving
    ]


class _Budget:
    """Room in the switch's tables: older Services have it first."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._used: dict[str, set[Hashable]] = {}

    def take(self, virtual: Virtual, entries: Sequence[Entry]) -> Problem | None:
        wanted: dict[str, set[Hashable]] = {}
        for entry in entries:
            wanted.setdefault(entry.table, set()).add(entry.key)
        for table, keys in wanted.items():
            size = self._sizes.get(table, 0)
            if len(self._used.get(table, set()) | keys) > size:
                text = (
                    f"{virtual.address} port {virtual.port}: table {table} has no room beyond its "
                    f"{size} entries; serve fewer, or give Services fewer buckets"
                )
                return Problem("table_full", f"Service {virtual.service}", text)
        for table, keys in wanted.items():
            self._used.setdefault(table, set()).update(keys)
        return None
