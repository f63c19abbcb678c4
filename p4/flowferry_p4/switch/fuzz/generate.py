# SPDX-License-Identifier: Apache-2.0
"""Random entries and packets that are likely to meet.

Values come from a small pool for each width, so that a packet's field often is what an entry wants.
A packet is built along a random way through the parser: at each select the bits that it looks at
are set to what one of the transitions asks for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from finsy.proto import p4i, p4r

from ..interpreter.expressions import number
from ..interpreter.state import Json

_PORT_BITS = 9
_STEPS = 24
"""States of the parser that a packet is built for."""


def canonical(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


class Values:
    """Numbers of a width, from a pool that is the same for a whole round."""

    def __init__(self, source: random.Random, ports: Sequence[int]) -> None:
        self.random = source
        self.ports = ports
        self._pools: dict[int, list[int]] = {}

    def pick(self, width: int) -> int:
        if width not in self._pools:
            top = (1 << width) - 1
            pool = [0, 1, 2, 3, top, top - 1, 1 << width - 1, *self.ports]
            pool += [self.random.getrandbits(width) for _ in range(4)]
            self._pools[width] = [value & top for value in pool]
        return self.random.choice(self._pools[width])

    def argument(self, width: int) -> int:
        """A parameter of the width of a port mostly is a port."""
        if width == _PORT_BITS and self.random.random() < 0.9:
            return self.random.choice(self.ports)
        return self.pick(width)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


class Entries:
    """Random entries of the tables of a P4Info."""

    def __init__(self, p4info: p4i.P4Info, values: Values) -> None:
        self.p4info = p4info
        self.values = values
        self._actions = {a.preamble.id: a for a in p4info.actions}

    def make(self) -> Iterator[p4r.TableEntry]:
        """Entries for every table that takes them; some are alike, as fuzzing has it."""
        for table in self.p4info.tables:
            if table.implementation_id:
                continue
            if not table.const_default_action_id and self.values.chance(0.4):
                yield from self._default(table)
            if table.is_const_table or not table.match_fields:
                continue
            priority = 1 << 16
            for _ in range(self.values.random.randrange(6)):
                priority -= 1
                entry = p4r.TableEntry(table_id=table.preamble.id)
                for field in table.match_fields:
                    part = self._match(field)
                    if part is not None:
                        entry.match.append(part)
                if any(f.match_type not in (f.EXACT, f.LPM) for f in table.match_fields):
                    entry.priority = priority
                if self._put_action(entry, table, p4i.ActionRef.DEFAULT_ONLY):
                    yield entry

    def _default(self, table: p4i.Table) -> Iterator[p4r.TableEntry]:
        entry = p4r.TableEntry(table_id=table.preamble.id, is_default_action=True)
        if self._put_action(entry, table, p4i.ActionRef.TABLE_ONLY):
            yield entry

    def _put_action(self, entry: p4r.TableEntry, table: p4i.Table, barred: int) -> bool:
        choices = [ref.id for ref in table.action_refs if ref.scope != barred]
        if not choices:
            return False
        action = self._actions[self.values.random.choice(choices)]
        entry.action.action.action_id = action.preamble.id
        for parameter in action.params:
            value = canonical(self.values.argument(parameter.bitwidth))
            entry.action.action.params.add(param_id=parameter.id, value=value)
        return True

    def _match(self, field: p4i.MatchField) -> p4r.FieldMatch | None:
        """A match of a field; None where it may be anything."""
        part = p4r.FieldMatch(field_id=field.id)
        width = field.bitwidth
        whole = (1 << width) - 1
        value = self.values.pick(width)
        if field.match_type == field.EXACT:
            part.exact.value = canonical(value)
            return part
        if self.values.chance(0.2):
            return None
        if field.match_type == field.OPTIONAL:
            part.optional.value = canonical(value)
        elif field.match_type == field.LPM:
            length = self.values.random.randint(1, width)
            kept = value & (whole ^ (1 << width - length) - 1)
            part.lpm.value, part.lpm.prefix_len = canonical(kept), length
        elif field.match_type == field.TERNARY:
            mask = self.values.random.choice([whole, self.values.pick(width) or whole])
            part.ternary.value, part.ternary.mask = canonical(value & mask), canonical(mask)
        else:
            low, high = sorted((value, self.values.pick(width)))
            if (low, high) == (0, whole):
                return None
            part.range.low, part.range.high = canonical(low), canonical(high)
        return part


class _Bits:
    """A packet that is being written, bit by bit where it has to be."""

    def __init__(self, data: bytes) -> None:
        self.size = 8 * len(data)
        self._number = int.from_bytes(data, "big")

    def set(self, offset: int, width: int, value: int) -> None:
        if offset + width > self.size:
            return
        shift = self.size - offset - width
        mask = (1 << width) - 1 << shift
        self._number = self._number & ~mask | value << shift & mask

    def bytes(self) -> bytes:
        return self._number.to_bytes(self.size // 8, "big")


class Packets:
    """Random packets for the parser of a program."""

    def __init__(self, document: Json, values: Values) -> None:
        self.values = values
        parser = document["parsers"][0]
        self._start = parser["init_state"]
        self._states = {s["name"]: s for s in parser["parse_states"]}
        types = {t["name"]: t["fields"] for t in document["header_types"]}
        self._fields = {h["name"]: types[h["header_type"]] for h in document["headers"]}
        self._stacks = {
            s["name"]: types[s["header_type"]] for s in document.get("header_stacks", [])
        }

    def make(self) -> bytes:
        source = self.values.random
        bits = _Bits(source.randbytes(source.randrange(160)))
        self._guide(bits)
        packet = bits.bytes()
        if self.values.chance(0.1):
            packet = packet[: source.randrange(len(packet) + 1)]
        return packet

    def _guide(self, bits: _Bits) -> None:
        """Walk through the parser and write what the way needs."""
        offset = 0
        places: dict[tuple[str, str], tuple[int, int]] = {}
        name = self._start
        for _ in range(_STEPS):
            node = self._states[name]
            for op in node["parser_ops"]:
                offset = self._write(op, bits, offset, places)
            transition = self.values.random.choice(node["transitions"])
            if transition.get("type") == "hexstr" and self.values.chance(0.9):
                self._choose(node["transition_key"], transition, bits, offset, places)
            if transition["next_state"] is None:
                return
            name = transition["next_state"]

    def _write(self, op: Json, bits: _Bits, offset: int, places: dict[Any, Any]) -> int:
        """Fill what the operation extracts with values of the pool; return what follows."""
        parameter = op["parameters"][0]
        if op["op"] == "extract":
            label = parameter["value"]
            stack = parameter["type"] == "stack"
            for name, width, *_ in (self._stacks if stack else self._fields)[label]:
                if self.values.chance(0.7):
                    bits.set(offset, width, self.values.pick(width))
                places[label, name] = (offset, width)
                offset += width
        elif op["op"] == "advance" and parameter.get("type") == "hexstr":
            offset += number(parameter["value"])
        elif op["op"] == "shift":
            offset += 8 * int(parameter)
        return offset

    def _choose(
        self,
        key: Sequence[Json],
        transition: Json,
        bits: _Bits,
        offset: int,
        places: dict[Any, Any],
    ) -> None:
        """Write the value of a transition where the select looks for it."""
        value = number(transition["value"])
        for part in reversed(key):
            place = part["value"]
            if part["type"] == "lookahead":
                at, width = offset + place[0], place[1]
            else:
                at, width = places.get((place[0], place[1]), (bits.size, 8))
            bits.set(at, width, value & (1 << width) - 1)
            value >>= 8 * ((width + 7) // 8)
