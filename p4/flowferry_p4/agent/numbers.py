# SPDX-License-Identifier: Apache-2.0
"""Numbers of services and backends, which mean nothing outside of the switch.

They are read from it, so that an agent that starts anew finds its own again. A number that is in
use is never given to something else in the same pass: packets may be on their way through the old
meaning. One that was in use may still stand in what the switch remembers of flows; so a new thing
begins to look for its number at a place that its name gives, and hardly ever gets one of another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from hashlib import blake2b
from itertools import chain

LARGEST = 65535


class Numbers:
    """Numbers of things: those that they have, or the next free one after a hash of the thing."""

    def __init__(self, known: Mapping[Hashable, int], taken: Iterable[int]) -> None:
        self._known = dict(known)
        self._taken = {*taken, *self._known.values()}

    def of(self, thing: Hashable) -> int:
        if thing not in self._known:
            number = self._free_from(_place(thing))
            self._known[thing] = number
            self._taken.add(number)
        return self._known[thing]

    def give(self, thing: Hashable, number: int) -> None:
        self._known[thing] = number
        self._taken.add(number)

    def forget(self, thing: Hashable) -> None:
        """Its number is free, if it has one."""
        if thing in self._known:
            self._taken.discard(self._known.pop(thing))

    def _free_from(self, first: int) -> int:
        for number in chain(range(first, LARGEST + 1), range(1, first)):
            if number not in self._taken:
                return number
        raise ValueError("no number is free")


def _place(thing: Hashable) -> int:
    """From 1 to LARGEST; 0 is no number of the program's."""
    digest = blake2b(repr(thing).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % LARGEST + 1
