# SPDX-License-Identifier: Apache-2.0
"""Counters by index."""

from __future__ import annotations

from collections.abc import Iterator

from finsy.proto import p4r

from ..dataplane import Dataplane
from ..entries import CounterMap
from ..rpc_errors import not_found
from ..schema import Schema, counter_data
from .handler import Undo, check_index, only_modify
from .tables import counts_of


class Counters:
    """Indirect counters."""

    def __init__(self, dataplane: Dataplane, schema: Schema) -> None:
        self.dataplane = dataplane
        self.schema = schema

    def write(self, kind: int, message: p4r.CounterEntry) -> Undo:
        only_modify(kind, "a counter")
        counters, indices = self._cells(message.counter_id, message)
        before = {index: counters.read(index) for index in indices}
        if message.HasField("data"):
            for index in indices:
                counters.write(index, counts_of(message.data))

        def undo() -> None:
            for index, counts in before.items():
                counters.write(index, counts)

        return undo

    def read(self, message: p4r.CounterEntry) -> Iterator[p4r.Entity]:
        numbers = [message.counter_id] if message.counter_id else list(self.schema.counters)
        for number in numbers:
            counters, indices = self._cells(number, message)
            for index in indices:
                result = p4r.CounterEntry(counter_id=number)
                result.index.index = index
                result.data.CopyFrom(counter_data(counters.read(index)))
                yield p4r.Entity(counter_entry=result)

    def _cells(self, number: int, message: p4r.CounterEntry) -> tuple[CounterMap, range]:
        """The counter, and the indices that the message asks for."""
        name = self.schema.counters.get(number)
        if name is None:
            raise not_found(f"the pipeline has no counter {number}")
        size = self.dataplane.compiled.counters[name].size
        counters = self.dataplane.counters[name]
        if not message.HasField("index"):
            return counters, range(size)
        index = message.index.index
        check_index(index, size, f"counter {name}")
        return counters, range(index, index + 1)
