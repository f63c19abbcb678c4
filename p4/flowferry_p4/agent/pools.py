# SPDX-License-Identifier: Apache-2.0
"""Outside addresses for Services: which of them gets which, out of what is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range

from .objects import ASKED_ADDRESSES, Service
from .problems import Problem


@dataclass(frozen=True)
class Pool:
    """Addresses from the first to the last one, which nobody else gives to anybody."""

    first: IPv4Address | IPv6Address
    last: IPv4Address | IPv6Address

    @classmethod
    def parse(cls, text: str) -> Pool:
        """FIRST-LAST, or one address."""
        first, _, last = text.partition("-")
        pool = cls(ip_address(first.strip()), ip_address((last or first).strip()))
        if pool.first.version != pool.last.version or int(pool.first) > int(pool.last):
            raise ValueError(f"{text} is no range of addresses: FIRST-LAST, both of one IP version")
        return pool

    def __contains__(self, address: str) -> bool:
        parsed = ip_address(address)
        at_home = parsed.version == self.first.version
        return at_home and int(self.first) <= int(parsed) <= int(self.last)

    def __iter__(self) -> Iterator[str]:
        for network in summarize_address_range(self.first, self.last):
            yield from (str(address) for address in network)


@dataclass(frozen=True)
class Gift:
    """What a Service gets, instead of nothing."""

    service: str
    addresses: tuple[str, ...]


def give(services: Sequence[Service], pools: Sequence[Pool]) -> tuple[list[Gift], list[Problem]]:
    """One address for each IP version of each Service that has none yet; older Services first.

    What a Service has it keeps, whoever gave it.
    """
    gifts: list[Gift] = []
    problems: list[Problem] = []
    taken = {str(ip_address(a)) for service in services for a in service.outside_addresses}
    for service in sorted(services, key=lambda s: (s.created, s.name)):
        if not service.is_outside or service.outside_addresses:
            continue
        found = [_choose(service, version, pools, taken) for version in service.versions]
        problems += [one for one in found if isinstance(one, Problem)]
        addresses = tuple(one for one in found if isinstance(one, str))
        # All or nothing: it would keep the one, and never be given the other.
        if len(addresses) == len(found):
            gifts.append(Gift(service.name, addresses))
            taken.update(addresses)
    return gifts, problems


def _choose(
    service: Service, version: int, pools: Sequence[Pool], taken: set[str]
) -> str | Problem:
    where = f"Service {service.name}"
    fitting = [pool for pool in pools if pool.first.version == version]
    for asked in service.asked_addresses:
        if ip_address(asked).version != version:
            continue
        if asked in taken or not any(asked in pool for pool in fitting):
            why = "another Service has it" if asked in taken else "no pool has it"
            text = f"the address {asked} ({ASKED_ADDRESSES}) cannot be given: {why}"
            return Problem("address_unavailable", where, text)
        return asked
    for pool in fitting:
        for address in pool:
            if address not in taken:
                return address
    text = f"no pool has a free address of IPv{version}; make one larger, or delete a Service"
    return Problem("pool_empty", where, text)
