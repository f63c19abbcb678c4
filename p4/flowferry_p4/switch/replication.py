# SPDX-License-Identifier: Apache-2.0
"""Multicast groups and clone sessions: which copies leave where."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import libbpf
from .compiler import REPLICAS
from .entries import TableFull

_VALUE = struct.Struct(f"=II{2 * REPLICAS}I")


@dataclass(frozen=True)
class Replica:
    port: int
    instance: int


class ReplicationMap:
    """Numbers to lists of replicas."""

    def __init__(self, replicas: libbpf.Map) -> None:
        self._map = replicas

    def write(self, number: int, replicas: Sequence[Replica], limit: int = 0) -> None:
        """`limit`: bytes that a copy is cut to, or 0."""
        if len(replicas) > REPLICAS:
            raise TableFull(f"{len(replicas)} replicas are too many; {REPLICAS} is the most")
        pairs = [number for r in replicas for number in (r.port, r.instance)]
        padded = pairs + [0] * (2 * REPLICAS - len(pairs))
        value = _VALUE.pack(len(replicas), limit, *padded)
        try:
            self._map.update(struct.pack("=I", number), value)
        except OSError as error:
            raise TableFull(f"no more lists of replicas fit: {error.strerror}") from error

    def delete(self, number: int) -> None:
        self._map.delete(struct.pack("=I", number))

    def items(self) -> Iterator[tuple[int, list[Replica], int]]:
        """Numbers with their replicas and limits."""
        for key, value in self._map.items(4, _VALUE.size):
            count, limit, *pairs = _VALUE.unpack(value)
            replicas = [
                Replica(port, instance)
                for port, instance in zip(pairs[::2], pairs[1::2], strict=True)
            ]
            yield struct.unpack("=I", key)[0], replicas[:count], limit
