# SPDX-License-Identifier: Apache-2.0
"""What a switch has of Services, without reading it: its virtual addresses, and their numbers.

All entries follow from these, so none is kept: those of a virtual address that changes are computed
as they were and as they are to be, and the difference is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from flowferry_p4.client import Entry
from flowferry_p4.client.traffic import Address

from .answers import find_answers
from .balance import Numbered, chain_of, service_key
from .numbers import Numbers
from .tables import BACKENDS, Tables
from .virtual import PROTOCOLS, Backend, Claim, Virtual


class Record:
    """Of the virtual addresses that a switch serves, none of whose backends is moving."""

    def __init__(self, served: Iterable[Virtual] = (), numbered: Numbered | None = None) -> None:
        """Nothing, or what a pass over all of the switch has left there."""
        self.virtuals: dict[Claim, Virtual] = {}
        self._users: dict[Claim, set[Claim]] = {}
        """Who leads to a backend, by the backend's address, protocol and port."""
        self._services = Numbers({}, ())
        self._backends = {table: Numbers({}, ()) for table in BACKENDS}
        for virtual in served:
            self._add(virtual)
            if numbered:
                self._take_numbers(virtual, numbered)

    def _take_numbers(self, virtual: Virtual, numbered: Numbered) -> None:
        self._services.give(service_key(virtual).key, numbered.service_number(virtual))
        for address, port in virtual.known:
            number = numbered.backend_number(address, port)
            self._numbers_for(address).give((address, port), number)

    def changed(self, wanted: Mapping[Claim, Virtual]) -> list[Claim]:
        """What comes or is another now, and then what goes."""
        new = [claim for claim, virtual in wanted.items() if self.virtuals.get(claim) != virtual]
        return new + [claim for claim in self.virtuals if claim not in wanted]

    def advance(
        self, claims: Sequence[Claim], wanted: Mapping[Claim, Virtual]
    ) -> tuple[Tables, Tables]:
        """Entries that these virtual addresses concern, as the switch has and is to have them.

        From now on it counts as having the latter: when a write fails, the record is worth nothing.
        """
        before = [self.virtuals[claim] for claim in claims if claim in self.virtuals]
        after = [wanted[claim] for claim in claims if claim in wanted]
        touched = {*claims, *(c for v in (*before, *after) for c in _backends_of(v))}
        shared = self._shared(touched, set(claims))
        present = self._entries(before, touched, shared)
        for virtual in before:
            self._remove(virtual)
        for virtual in after:
            self._add(virtual)
        entries = self._entries(after, touched, shared)
        self._forget(before)
        return present, entries

    def _shared(self, touched: Iterable[Claim], claims: set[Claim]) -> set[Backend]:
        """Backends that others lead to, too, whose entries stay what they are."""
        backends = {(address, port) for address, _, port in touched}
        return {(a, p) for a, p in backends if any(users - claims for users in self._led(a, p))}

    def _led(self, address: str, port: int) -> Iterator[set[Claim]]:
        for protocol in PROTOCOLS.values():
            yield self._users.get((address, protocol, port), set())

    def _entries(
        self, virtuals: Sequence[Virtual], touched: set[Claim], shared: Collection[Backend]
    ) -> Tables:
        found = Tables()
        for virtual in virtuals:
            for entry in chain_of(virtual, self):
                if entry.table not in BACKENDS or _backend(entry) not in shared:
                    found.add(entry)
        users = {user for claim in touched for user in self._users.get(claim, ())}
        concerned = sorted((self.virtuals[user] for user in users), key=lambda v: v.order)
        for entry in find_answers(
            concerned,
            self.service_number,
            self.backend_number,
            frozenset(),
            claimed=self.virtuals.keys(),
            only=touched,
        ):
            found.add(entry)
        return found

    def _add(self, virtual: Virtual) -> None:
        self.virtuals[virtual.claim] = virtual
        for claim in _backends_of(virtual):
            self._users.setdefault(claim, set()).add(virtual.claim)

    def _remove(self, virtual: Virtual) -> None:
        del self.virtuals[virtual.claim]
        for claim in _backends_of(virtual):
            self._users[claim].discard(virtual.claim)
            if not self._users[claim]:
                del self._users[claim]

    def _forget(self, virtuals: Iterable[Virtual]) -> None:
        """Numbers that nothing has any more; not before all others have theirs."""
        for virtual in virtuals:
            if virtual.claim not in self.virtuals:
                self._services.forget(service_key(virtual).key)
            for address, port in virtual.known:
                if not any(self._led(address, port)):
                    self._numbers_for(address).forget((address, port))

    def _numbers_for(self, address: str) -> Numbers:
        return self._backends[Address(address).name("backend")]

    def service_number(self, virtual: Virtual) -> int:
        return self._services.of(service_key(virtual).key)

    def backend_number(self, address: str, port: int) -> int:
        return self._numbers_for(address).of((address, port))


def count(virtuals: Iterable[Virtual]) -> Counter[str]:
    """How many entries of each table they have, without computing one."""
    found: Counter[str] = Counter()
    claims: set[Claim] = set()
    answers: set[Claim] = set()
    for virtual in virtuals:
        claims.add(virtual.claim)
        answers.update(_backends_of(virtual))
        found[f"virtual_address{_suffix(virtual.address)}"] += 1
        found["member"] += len(virtual.known)
        found["bucket"] += virtual.buckets if virtual.chosen else 0
    for address, _, _ in claims | answers:
        found[f"service{_suffix(address)}"] += 1
    for address, _, _ in answers:
        found[f"reply{_suffix(address)}"] += 1
    for address, _ in {(address, port) for address, _, port in answers}:
        found[f"backend{_suffix(address)}"] += 1
    return found


def _suffix(address: str) -> str:
    return "_ipv6" if ":" in address else ""


def _backends_of(virtual: Virtual) -> Iterator[Claim]:
    for address, port in virtual.known:
        yield address, virtual.protocol, port


def _backend(entry: Entry) -> Backend:
    return entry.params["address"], entry.params["port"]
