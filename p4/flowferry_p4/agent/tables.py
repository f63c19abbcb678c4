# SPDX-License-Identifier: Apache-2.0
"""Entries of a switch by their keys, and which of them belong to a migration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flowferry_p4.client import Entry, Key, Session

LINKS = ("arp", "ndp", "route", "route_ipv6")
VIRTUALS = ("virtual_address", "virtual_address_ipv6")
REPLIES = ("reply", "reply_ipv6")
BACKENDS = ("backend", "backend_ipv6")
MEMBERS = ("member",)
BUCKETS = ("bucket",)
SERVICES = ("service", "service_ipv6")

OWNED = (LINKS, VIRTUALS, REPLIES, BACKENDS, MEMBERS, BUCKETS, SERVICES)
"""What the agent writes, in the order of inserts: nothing refers to what comes later."""

MIGRATION = ("hold_to", "hold_to_ipv6", "hold_from", "hold_from_ipv6", "guard", "guard_ipv6")
"""What the agent reads only."""


class Tables:
    """Entries, each once."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._tables: dict[str, dict[Key, Entry]] = {}
        for entry in entries:
            self.add(entry)

    @classmethod
    def read(cls, session: Session, *groups: Sequence[str]) -> Tables:
        """Tables as the switch has them now, and what migrations have written."""
        return cls(session.read([*(name for group in groups for name in group), *MIGRATION]))

    def add(self, entry: Entry) -> None:
        self._tables.setdefault(entry.table, {})[entry.key] = entry

    def get(self, like: Entry) -> Entry | None:
        """The entry with the same key."""
        return self._tables.get(like.table, {}).get(like.key)

    def replace(self, like: Entry, entry: Entry | None) -> None:
        """Put an entry in the place of the one with that key, or nothing."""
        self._tables.setdefault(like.table, {}).pop(like.key, None)
        if entry is not None:
            self.add(entry)

    def of(self, *names: str) -> Iterator[Entry]:
        for name in names:
            yield from self._tables.get(name, {}).values()

    def __iter__(self) -> Iterator[Entry]:
        return self.of(*self._tables)

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def moving(self) -> frozenset[str]:
        """Addresses that a migration holds, or guards against, at this moment."""
        fields = {"hold_to": "address", "hold_from": "address", "guard": "source"}
        return frozenset(
            str(entry.match[name])
            for table, name in fields.items()
            for entry in self.of(table, f"{table}_ipv6")
        )
