# SPDX-License-Identifier: Apache-2.0
"""Whose address answers of a backend get: entries of reply, and of service for its own address.

Which one it is the switch remembers for each flow, also of those that reach the backend by its own
address. For what it has forgotten the entry says what is likely: the first virtual address that is
known in the cluster and, for what leaves it, the first one that is known outside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from flowferry_p4.client import Entry
from flowferry_p4.client.traffic import Address

from .tables import Tables
from .virtual import Claim, Virtual

NumberOf = Callable[[Virtual], int]


@dataclass
class _Known:
    backend_id: int
    inside: int = 0
    outside: int = 0


def keys_of(virtual: Virtual) -> Iterator[Entry]:
    """What the backends of one virtual address need, to count it."""
    for address, port in virtual.known:
        yield from _keys(address, virtual.protocol, port)


def find_answers(
    virtuals: Sequence[Virtual],
    service_id: NumberOf,
    backend_id: Callable[[str, int], int],
    moving: frozenset[str],
    claimed: Collection[Claim] | None = None,
    only: Collection[Claim] | None = None,
) -> list[Entry]:
    """Entries for all backends, or ``only`` for some, but for addresses that are moving.

    ``claimed`` are all virtual addresses, where these are not all.
    """
    known: dict[Claim, _Known] = {}
    if claimed is None:
        claimed = {virtual.claim for virtual in virtuals}
    for virtual in virtuals:
        number = service_id(virtual)
        for address, port in virtual.known:
            claim = address, virtual.protocol, port
            if address in moving or (only is not None and claim not in only):
                continue
            one = known.setdefault(claim, _Known(backend_id(address, port)))
            if virtual.announcers is None:
                one.inside = one.inside or number
            else:
                one.outside = one.outside or number
    entries: list[Entry] = []
    for claim, one in known.items():
        reply, direct = _keys(*claim)
        reply.action = "restore_flow"
        reply.params = {
            "backend_id": one.backend_id,
            "service_id": one.inside or one.outside,
            "outside_id": one.outside,
        }
        entries.append(reply)
        if claim not in claimed:
            direct.action, direct.params = "reach_backend", {"backend_id": one.backend_id}
            entries.append(direct)
    return entries


def answers_of_moving(present: Tables, moving: frozenset[str]) -> list[Entry]:
    """As the switch has them: the migration writes some of them itself."""
    replies = present.of("reply", "reply_ipv6")
    direct = (e for e in present.of("service", "service_ipv6") if e.action == "reach_backend")
    return [e for each in (replies, direct) for e in each if e.match["address"] in moving]


def _keys(address: str, protocol: int, port: int) -> tuple[Entry, Entry]:
    match = {"address": address, "protocol": protocol, "port": port}
    name = Address(address).name
    return Entry(name("reply"), match), Entry(name("service"), dict(match))
