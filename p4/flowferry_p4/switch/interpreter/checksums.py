# SPDX-License-Identifier: Apache-2.0
"""Calculations over fields: hashes of actions, and checksums of headers."""

from __future__ import annotations

from .algorithms import compute, ones_complement_sum
from .expressions import Evaluator, number
from .state import Header, Json, State, Unsupported


class Checksums:
    """The calculations of a program."""

    def __init__(self, document: Json) -> None:
        self._calculations = {c["name"]: c for c in document["calculations"]}
        self._checksums = document["checksums"]

    def calculate(self, name: str, state: State) -> int:
        node = self._calculations[name]
        return compute(node["algo"], self._input(node, state, state.headers))

    def _input(self, node: Json, state: State, headers: dict[str, Header]) -> bytes:
        """The bits that a calculation covers, padded with zeros at the end."""
        bits = width = 0
        for part in node["input"]:
            if part["type"] == "payload":
                bits = bits << 8 * len(state.payload) | int.from_bytes(state.payload, "big")
                width += 8 * len(state.payload)
                continue
            for value, size in self._parts(part, headers):
                bits, width = bits << size | value, width + size
        spare = -width % 8
        return (bits << spare).to_bytes((width + spare) // 8, "big")

    def _parts(self, part: Json, headers: dict[str, Header]) -> list[tuple[int, int]]:
        value = part["value"]
        if part["type"] == "hexstr":
            return [(number(value), part["bitwidth"])]
        if part["type"] == "header":
            header = headers[value]
            if not header.valid:
                raise Unsupported("a calculation over an invalid header")
            return [(header.values.get(f, 0), w) for f, w in header.widths.items()]
        if part["type"] != "field":
            raise Unsupported(f"{part['type']} in a calculation")
        header = headers[value[0]]
        width = header.widths[value[1]]
        return [(header.read(value[1]) & (1 << width) - 1, width)]

    def verify(self, state: State) -> None:
        """Set the error of a packet that has just been parsed."""
        for checksum in self._checksums:
            if checksum.get("verify", True) and self._applies(checksum, state):
                self._verify(checksum, state)

    def update(self, state: State) -> None:
        """Compute what a packet leaves with."""
        for checksum in self._checksums:
            if checksum.get("update", True) and self._applies(checksum, state):
                self._update(checksum, state)

    def _applies(self, checksum: Json, state: State) -> bool:
        if checksum["type"] != "generic":
            raise Unsupported(f"checksum type {checksum['type']}")
        if not state.headers[checksum["target"][0]].valid:
            return False
        condition = checksum.get("if_cond")
        return not condition or bool(Evaluator(state).value(condition))

    def _verify(self, checksum: Json, state: State) -> None:
        header, field = checksum["target"]
        calculation = self._calculations[checksum["calculation"]]
        data = self._input(calculation, state, state.headers)
        if compute(calculation["algo"], data) != state.headers[header].read(field):
            state.set_metadata("checksum_error", 1)

    def _update(self, checksum: Json, state: State) -> None:
        calculation = self._calculations[checksum["calculation"]]
        header, field = checksum["target"]
        with_payload = any(part["type"] == "payload" for part in calculation["input"])
        if not with_payload:
            value = compute(calculation["algo"], self._input(calculation, state, state.headers))
        else:
            value = self._adjust(checksum, calculation, state)
        state.headers[header].write(field, value)

    def _adjust(self, checksum: Json, calculation: Json, state: State) -> int:
        """A sum over the payload changes by what the fields before it changed (RFC 1624)."""
        header, field = checksum["target"]
        if header not in state.arrived:
            raise Unsupported("a checksum over the payload in a header that did not arrive")
        before = dict(state.headers) | state.arrived
        old = ones_complement_sum(self._input(calculation, state, before))
        new = ones_complement_sum(self._input(calculation, state, state.headers))
        arrived = state.arrived[header].read(field)
        if old == new:
            return arrived
        parts = [~arrived & 0xFFFF, ~old & 0xFFFF, new]
        return ~ones_complement_sum(b"".join(p.to_bytes(2, "big") for p in parts)) & 0xFFFF
