# SPDX-License-Identifier: Apache-2.0
"""Counters, meters and registers by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from finsy.proto import p4r

from ..dataplane import Dataplane
from ..rpc_errors import not_found
from ..schema import Schema, counter_data
from .data import from_data, to_data
from .handler import Undo, check_index, only_modify
from .meters import meter_config, rates_of, refuse_colours
from .tables import counts_of


class _Arrays(ABC):
    """Arrays of one kind. A message names an array, an index or all, and a value."""

    what: str

    def __init__(self, dataplane: Dataplane, schema: Schema) -> None:
        self.dataplane = dataplane
        self.schema = schema

    @property
    @abstractmethod
    def declared(self) -> Mapping[int, Any]:
        """What P4Info says of each, by id."""

    @abstractmethod
    def cells(self, name: str) -> tuple[Any, int]:
        """What reads and writes the cells of an array, and their number."""

    @abstractmethod
    def value(self, message: Any, info: Any) -> tuple[Any, bool]:
        """The value of a message, and whether it has one."""

    @abstractmethod
    def put(self, message: Any, value: Any, info: Any) -> p4r.Entity:
        """A message about one cell, with its value."""

    def number(self, message: Any) -> int:
        return int(getattr(message, f"{self.what}_id"))

    def write(self, kind: int, message: Any) -> Undo:
        only_modify(kind, f"a {self.what}")
        info, cells, indices = self._find(self.number(message), message)
        value, given = self.value(message, info)
        before = {index: cells.read(index) for index in indices}
        if given:
            for index in indices:
                cells.write(index, value)

        def undo() -> None:
            for index, old in before.items():
                cells.write(index, old)

        return undo

    def read(self, message: Any) -> Iterator[p4r.Entity]:
        number = self.number(message)
        for one in [number] if number else list(self.declared):
            info, cells, indices = self._find(one, message)
            for index in indices:
                result = type(message)(**{f"{self.what}_id": one})
                result.index.index = index
                yield self.put(result, cells.read(index), info)

    def _find(self, number: int, message: Any) -> tuple[Any, Any, range]:
        if number not in self.declared:
            raise not_found(f"the pipeline has no {self.what} {number}")
        info = self.declared[number]
        name = info.preamble.name
        cells, size = self.cells(name)
        if not message.HasField("index"):
            return info, cells, range(size)
        index = message.index.index
        check_index(index, size, f"{self.what} {name}")
        return info, cells, range(index, index + 1)


class Counters(_Arrays):
    """Indirect counters."""

    what = "counter"

    @property
    def declared(self) -> Mapping[int, Any]:
        return self.schema.counters

    def cells(self, name: str) -> tuple[Any, int]:
        return self.dataplane.counters[name], self.dataplane.compiled.counters[name].size

    def value(self, message: p4r.CounterEntry, info: Any) -> tuple[Any, bool]:
        return counts_of(message.data), message.HasField("data")

    def put(self, message: p4r.CounterEntry, value: Any, info: Any) -> p4r.Entity:
        message.data.CopyFrom(counter_data(value))
        return p4r.Entity(counter_entry=message)


class Meters(_Arrays):
    """Indirect meters."""

    what = "meter"

    @property
    def declared(self) -> Mapping[int, Any]:
        return self.schema.meters

    def cells(self, name: str) -> tuple[Any, int]:
        return self.dataplane.meters[name], self.dataplane.compiled.meters[name].size

    def value(self, message: p4r.MeterEntry, info: Any) -> tuple[Any, bool]:
        """Without a configuration the meter is back at its default."""
        refuse_colours(message.HasField("counter_data"))
        return rates_of(message.config, info) if message.HasField("config") else None, True

    def put(self, message: p4r.MeterEntry, value: Any, info: Any) -> p4r.Entity:
        if value:
            message.config.CopyFrom(meter_config(value))
        return p4r.Entity(meter_entry=message)

    def read(self, message: p4r.MeterEntry) -> Iterator[p4r.Entity]:
        refuse_colours(message.HasField("counter_data"))
        return super().read(message)


class Registers(_Arrays):
    """Registers."""

    what = "register"

    @property
    def declared(self) -> Mapping[int, Any]:
        return self.schema.registers

    def cells(self, name: str) -> tuple[Any, int]:
        return self.dataplane.registers[name], self.dataplane.compiled.registers[name].size

    def value(self, message: p4r.RegisterEntry, info: Any) -> tuple[Any, bool]:
        name = info.preamble.name
        width = self.dataplane.registers[name].width
        return from_data(message.data, width, f"register {name}"), True

    def put(self, message: p4r.RegisterEntry, value: Any, info: Any) -> p4r.Entity:
        types = self.schema.p4info.type_info
        message.data.CopyFrom(to_data(info.type_spec, iter((value,)), types))
        return p4r.Entity(register_entry=message)
