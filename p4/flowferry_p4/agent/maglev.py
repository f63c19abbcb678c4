# SPDX-License-Identifier: Apache-2.0
"""Maglev hashing: which of a service's buckets leads to which backend.

As in Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
section 3.4. Every backend goes through all buckets in an order of its own, and takes the first that
is free when it is its turn. So backends differ by one bucket at most; and as the order depends on
nothing but the backend's name, all switches fill alike, whatever they had before, and where one of
n backends comes or goes about 1/n of the buckets change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def fill(backends: Collection[str], buckets: int) -> list[str]:
    """The backend of each bucket; empty without backends. The number of buckets is a prime.

    With more backends than buckets some get none: those whose names are last.
    """
    if not is_prime(buckets):
        raise ValueError(
            f"{buckets} buckets: the number has to be a prime, or a backend's order would not "
            "reach them all"
        )
    names = sorted(set(backends))
    if not names:
        return []
    orders = [_order(name, buckets) for name in names]
    positions = [offset for offset, _ in orders]
    table = [""] * buckets
    left = buckets
    while left:
        for index, name in enumerate(names):
            position, skip = positions[index], orders[index][1]
            while table[position]:
                position = (position + skip) % buckets
            table[position] = name
            positions[index] = (position + skip) % buckets
            left -= 1
            if not left:
                break
    return table


def _order(name: str, buckets: int) -> tuple[int, int]:
    """Where a backend begins, and how far it steps: two hashes that know nothing of each other."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    offset = int.from_bytes(digest[:8], "big") % buckets
    skip = int.from_bytes(digest[8:], "big") % (buckets - 1) + 1
    return offset, skip
