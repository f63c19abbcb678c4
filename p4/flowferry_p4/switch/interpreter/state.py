# SPDX-License-Identifier: Apache-2.0
"""Headers, stacks and metadata of one packet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


class Unsupported(Exception):
    """The program does something that has no predictable result, or that is not interpreted."""


@dataclass
class Header:
    """One instance: its fields in order, and whether it is there."""

    name: str
    metadata: bool
    widths: dict[str, int]
    signed: frozenset[str]
    valid: bool = False
    values: dict[str, int] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        return sum(self.widths.values())

    def read(self, name: str) -> int:
        if not self.valid and not self.metadata:
            return 0
        value = self.values.get(name, 0)
        width = self.widths[name]
        if name in self.signed and value >> width - 1:
            return value - (1 << width)
        return value

    def write(self, name: str, value: int) -> None:
        self.values[name] = value & (1 << self.widths[name]) - 1

    def load(self, number: int) -> None:
        """Take all fields from a number, the first in its highest bits."""
        for name, width in reversed(self.widths.items()):
            self.values[name] = number & (1 << width) - 1
            number >>= width

    def number(self) -> int:
        result = 0
        for name, width in self.widths.items():
            result = result << width | self.values.get(name, 0)
        return result

    def bytes(self) -> bytes:
        return self.number().to_bytes(self.bits // 8, "big")

    def copy(self) -> Header:
        return Header(
            self.name, self.metadata, self.widths, self.signed, self.valid, dict(self.values)
        )


@dataclass
class Stack:
    """Names of a stack's headers, and how many were extracted."""

    headers: list[str]
    next: int = 0


@dataclass
class State:
    """All that a packet carries through the program."""

    headers: dict[str, Header]
    stacks: dict[str, Stack]
    payload: bytes = b""
    arrived: dict[str, Header] = field(default_factory=dict)
    """Headers as the parser left them."""
    requests: dict[str, Any] = field(default_factory=dict)
    """What primitives ask for, to be done when the control has ended."""
    exited: bool = False

    @classmethod
    def fresh(cls, document: Json) -> State:
        types = {t["name"]: t for t in document["header_types"]}
        headers = {}
        by_number = {}
        for node in document["headers"]:
            fields = types[node["header_type"]]["fields"]
            if any(width == "*" for _, width, *_ in fields):
                raise Unsupported("varbit")
            headers[node["name"]] = Header(
                name=node["name"],
                metadata=bool(node["metadata"]),
                widths={name: width for name, width, *_ in fields},
                signed=frozenset(name for name, _, *rest in fields if rest and rest[0]),
            )
            by_number[node["id"]] = node["name"]
        if document.get("header_unions"):
            raise Unsupported("header unions")
        stacks = {
            node["name"]: Stack([by_number[number] for number in node["header_ids"]])
            for node in document.get("header_stacks", [])
        }
        return cls(headers, stacks)

    def copy(self) -> State:
        return State(
            headers={name: header.copy() for name, header in self.headers.items()},
            stacks={name: Stack(s.headers, s.next) for name, s in self.stacks.items()},
            payload=self.payload,
            arrived={name: header.copy() for name, header in self.arrived.items()},
        )

    def metadata(self, name: str) -> int:
        return self.headers["standard_metadata"].read(name)

    def set_metadata(self, name: str, value: int) -> None:
        header = self.headers["standard_metadata"]
        if name in header.widths:
            header.write(name, value)

    def forget_metadata(self, kept: list[tuple[str, str]]) -> None:
        """A packet that starts anew has the fields of a list, and its port."""
        values = [(h, f, self.headers[h].read(f)) for h, f in kept]
        port = self.metadata("ingress_port")
        for header in self.headers.values():
            if header.metadata:
                header.values.clear()
        for name, field_name, value in values:
            self.headers[name].write(field_name, value)
        self.set_metadata("ingress_port", port)
