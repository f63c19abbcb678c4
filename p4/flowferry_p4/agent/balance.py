# SPDX-License-Identifier: Apache-2.0
"""Entries of service, member, bucket, backend and virtual_address for a switch's virtual addresses.

What answers get is in answers.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flowferry_p4.client import Entry
from flowferry_p4.client.traffic import Address

from . import maglev
from .answers import answers_of_moving, find_answers, keys_of
from .numbers import Numbers
from .problems import Problem
from .tables import Tables
from .virtual import Virtual


@dataclass
class Balance:
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    """Services that stay as the switch has them, since one of their backends is moving."""
    served: list[Virtual] = field(default_factory=list)
    numbered: Numbered | None = None
    """Who knows the numbers of what is served."""


class Numbered(Protocol):
    """Where services and backends have their numbers from."""

    def service_number(self, virtual: Virtual) -> int: ...

    def backend_number(self, address: str, port: int) -> int: ...


def find_balance(virtuals: Sequence[Virtual], present: Tables, sizes: Mapping[str, int]) -> Balance:
    """What there should be."""
    state = _Present(present)
    found = Balance(numbered=state)
    moving = present.moving()
    kept = {v.service for v in virtuals if moving and moving & state.addresses_of(v)}
    budget = _Budget(sizes)
    for virtual in virtuals:
        entries = state.chain(virtual) if virtual.service in kept else chain_of(virtual, state)
        if problem := budget.take(virtual, [*entries, *keys_of(virtual)]):
            found.problems.append(problem)
            continue
        found.entries += entries
        found.served.append(virtual)
    found.entries += find_answers(found.served, state.service_number, state.backend_number, moving)
    found.entries += answers_of_moving(present, moving)
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
        self._members: dict[int, list[Entry]] = {}
        for entry in tables.of("member"):
            self._members.setdefault(entry.match["service_id"], []).append(entry)
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
        return Numbers(known, {*self._buckets, *self._members})

    def _backend_numbers(self, table: str) -> Numbers:
        known: dict[Hashable, int] = {}
        for number, entry in sorted(self._backends[table].items()):
            known.setdefault((entry.params.get("address"), entry.params.get("port")), number)
        led_to = {e.params["backend_id"] for each in self._buckets.values() for e in each}
        led_to |= {e.match["backend_id"] for each in self._members.values() for e in each}
        return Numbers(known, {*self._backends[table], *led_to})

    def service_number(self, virtual: Virtual) -> int:
        return self.services.of(service_key(virtual).key)

    def backend_number(self, address: str, port: int) -> int:
        return self.backends[Address(address).name("backend")].of((address, port))

    def chain(self, virtual: Virtual) -> list[Entry]:
        """A service's entry, what has its number, and the backends it leads to, as they are."""
        service = self._tables.get(service_key(virtual))
        if service is None:
            return []
        number = service.params.get("service_id", 0)
        buckets, members = self._buckets.get(number, []), self._members.get(number, [])
        backends = self._backends[Address(virtual.address).name("backend")]
        led_to = {entry.params["backend_id"] for entry in buckets}
        led_to |= {entry.match["backend_id"] for entry in members}
        name = self._tables.get(_virtual_address(virtual, number))
        names = [name] if name else []
        found = [backends[n] for n in sorted(led_to) if n in backends]
        return [service, *names, *members, *buckets, *found]

    def addresses_of(self, virtual: Virtual) -> set[str]:
        """Of the backends that a service has, and of those that it is to have."""
        has = {e.params.get("address", "") for e in self.chain(virtual) if "backend" in e.table}
        return has | {address for address, _ in virtual.known}


def _virtual_address(virtual: Virtual, number: int) -> Entry:
    name = Address(virtual.address).name
    return Entry(
        name("virtual_address"),
        {"service_id": number},
        name("restore_virtual"),
        {"address": virtual.address, "port": virtual.port},
    )


def chain_of(virtual: Virtual, state: Numbered) -> list[Entry]:
    """A service without backends has an entry nevertheless: its packets go nowhere else.

    Backends that get no new flows are there too, for the flows that they have.
    """
    name = Address(virtual.address).name
    service = service_key(virtual)
    number = state.service_number(virtual)
    ids = {backend: state.backend_number(*backend) for backend in virtual.known}
    filled = maglev.fill({f"{a} {p}": ids[a, p] for a, p in virtual.chosen}, virtual.buckets)
    service.action = "select_flow"
    service.params = {"service_id": number, "bucket_count": len(filled)}
    if virtual.client_time:
        service.action = "select_client"
        service.params["client_time"] = virtual.client_time
    entries = [service, _virtual_address(virtual, number)]
    for (address, port), backend in ids.items():
        translated = {"address": address, "port": port}
        entries.append(
            Entry(name("backend"), {"backend_id": backend}, name("translate"), translated)
        )
        stays = "keep_clients" if (address, port) in virtual.chosen else "keep_flows"
        entries.append(Entry("member", {"service_id": number, "backend_id": backend}, stays))
    by_name = {f"{a} {p}": number for (a, p), number in ids.items()}
    for index, chosen in enumerate(filled):
        key = {"service_id": number, "bucket": index}
        entries.append(Entry("bucket", key, "to_backend", {"backend_id": by_name[chosen]}))
    return entries


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
