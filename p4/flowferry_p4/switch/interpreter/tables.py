# SPDX-License-Identifier: Apache-2.0
"""Tables: entries as P4Runtime writes them, and which of them a packet hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from finsy.proto import p4i, p4r

from .expressions import Evaluator, number
from .state import Json, Unsupported


@dataclass
class Match:
    """What one field of a key must be: all three kinds of condition hold."""

    mask: int
    low: int
    high: int
    length: int = 0
    """Of a prefix."""

    def holds(self, value: int) -> bool:
        return self.low <= value & self.mask <= self.high


@dataclass
class Entry:
    matches: list[Match]
    rank: int
    """The highest wins."""
    action: int
    data: tuple[int, ...]
    hits: list[int] = field(default_factory=lambda: [0, 0])
    """Packets and bytes."""


def _whole(width: int) -> int:
    return (1 << width) - 1


class Table:
    """One table of the JSON."""

    def __init__(self, node: Json, widths: Sequence[int]) -> None:
        self.node = node
        self.name: str = node["name"]
        self.widths = widths
        if node["type"] != "simple":
            raise Unsupported("action profiles")
        self.entries = [self._constant(e) for e in node.get("entries", [])]
        default = node.get("default_entry")
        self.default: tuple[int, tuple[int, ...]] | None = None
        if default:
            data = tuple(number(d) for d in default.get("action_data", []))
            self.default = (default["action_id"], data)

    def _constant(self, node: Json) -> Entry:
        """An entry of the program: the lowest of BMv2's priorities wins."""
        matches = []
        for part, width in zip(node["match_key"], self.widths, strict=True):
            whole = _whole(width)
            match part["match_type"]:
                case "exact":
                    value = number(part["key"])
                    matches.append(Match(whole, value, value))
                case "lpm":
                    length = part["prefix_length"]
                    mask = whole ^ _whole(width - length)
                    value = number(part["key"]) & mask
                    matches.append(Match(mask, value, value, length))
                case "ternary" | "optional":
                    mask = number(part["mask"])
                    value = number(part["key"]) & mask
                    matches.append(Match(mask, value, value))
                case "range":
                    matches.append(Match(whole, number(part["start"]), number(part["end"])))
                case other:
                    raise Unsupported(f"a constant entry matching {other}")
        entry = node["action_entry"]
        data = tuple(number(d) for d in entry["action_data"])
        return Entry(matches, -node.get("priority", 0), entry["action_id"], data)

    def insert(self, message: p4r.TableEntry, info: p4i.Table, action: int) -> None:
        """An entry that the control plane writes."""
        given = {part.field_id: part for part in message.match}
        matches = [
            _match(given.get(f.id), f, width)
            for f, width in zip(info.match_fields, self.widths, strict=True)
        ]
        data = tuple(int.from_bytes(p.value, "big") for p in message.action.action.params)
        self.entries.append(Entry(matches, message.priority, action, data))

    def set_default(self, message: p4r.TableEntry, action: int) -> None:
        data = tuple(int.from_bytes(p.value, "big") for p in message.action.action.params)
        self.default = (action, data)

    def lookup(self, e: Evaluator) -> Entry | None:
        values = []
        for key in self.node["key"]:
            value = e.value({"type": "field", "value": _target(key)})
            values.append(value & number(key["mask"]) if key.get("mask") else value)
        found = [
            entry
            for entry in self.entries
            if all(m.holds(v) for m, v in zip(entry.matches, values, strict=True))
        ]
        return max(found, key=lambda f: (f.rank, sum(m.length for m in f.matches)), default=None)


def _target(key: Json) -> list[str]:
    if key["match_type"] == "valid":
        return [key["target"], "$valid$"]
    return list(key["target"])


def _match(part: p4r.FieldMatch | None, info: p4i.MatchField, width: int) -> Match:
    whole = _whole(width)
    if part is None:
        return Match(0, 0, 0)
    match part.WhichOneof("field_match_type"):
        case "exact":
            value = int.from_bytes(part.exact.value, "big")
            return Match(whole, value, value)
        case "optional":
            value = int.from_bytes(part.optional.value, "big")
            return Match(whole, value, value)
        case "lpm":
            length = part.lpm.prefix_len
            value = int.from_bytes(part.lpm.value, "big")
            return Match(whole ^ _whole(width - length), value, value, length)
        case "ternary":
            value = int.from_bytes(part.ternary.value, "big")
            return Match(int.from_bytes(part.ternary.mask, "big"), value, value)
        case "range":
            low = int.from_bytes(part.range.low, "big")
            return Match(whole, low, int.from_bytes(part.range.high, "big"))
    raise Unsupported(f"the match of {info.name}")
