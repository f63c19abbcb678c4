# SPDX-License-Identifier: Apache-2.0
"""Checksums and hashes.

A checksum over headers only is computed anew from its fields. One that covers the payload is
adjusted by the difference between the fields the packet arrived with and those it leaves with:
the payload of a 64 KB GSO packet is not read, and a partial checksum, which covers the
pseudo-header only until the last device completes it, stays partial. Where that cannot be, since
the packet arrived without the header, and to verify such a checksum, the payload is summed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import BadProgram, Refused
from ..model import Calculation, Checksum, Const, FieldRef, Header, Program
from .analysis import Analysis
from .expressions import Scope, compile_expression
from .names import Names, Placed, hexadecimal, identifier, sum_words, write_bytes

CRC_POLYNOMIALS = {"crc32": 0xEDB88320, "crc16": 0xA001}
"""Reflected polynomials of the CRCs that BMv2 calls so."""


HASH_ALGORITHMS = {
    "crc32": "crc32",
    "crc32_custom": "crc32",
    "crc16": "crc16",
    "crc16_custom": "crc16",
    "csum16": "csum16",
    "cksum16": "csum16",
    "xor16": "xor16",
    "identity": "identity",
}
"""What each name means. P4Runtime cannot customise a custom CRC: it stays what it starts as."""


def crc_table(polynomial: int) -> list[int]:
    """What each byte does to a reflected CRC."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (polynomial if byte & 1 else 0)
        table.append(byte)
    return table


@dataclass(frozen=True)
class PlainChecksum:
    """target = ~sum(words), when `condition`.

    `partial`: with a payload, what the field has while the checksum is partial.
    """

    target: str
    changed: str
    valid: str
    condition: str
    terms: tuple[str, ...]
    partial: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PayloadChecksum:
    """Adjust the two bytes at `target_at` in header `header` by new words minus old words."""

    header: str  # C name of the header's offset variable
    target: str
    changed: str
    target_at: int
    valid: str
    arrived: str
    condition: str
    pseudo_new: tuple[str, ...]
    pseudo_old: tuple[str, ...]
    own_new: tuple[str, ...]
    own_old: tuple[str, ...]
    never_zero: bool
    whole: tuple[str, ...]  # all words, for a header that did not arrive


@dataclass(frozen=True)
class HashCode:
    name: str
    algorithm: str
    size: int
    statements: tuple[str, ...]


class ChecksumCompiler:
    """Compiles the checksums and calculations of one program."""

    def __init__(self, program: Program, names: Names, analysis: Analysis) -> None:
        self.program = program
        self.names = names
        self.analysis = analysis

    def verified(self) -> list[PlainChecksum]:
        result = []
        for checksum in self.program.checksums:
            if not checksum.verify:
                continue
            calculation = self._calculation(checksum)
            plain = self._plain(checksum, calculation)
            if calculation.with_payload:
                self._refuse_odd(calculation, checksum)
                plain = replace(plain, partial=self._pseudo_header(checksum, calculation))
            result.append(plain)
        return result

    def updated(self) -> list[PlainChecksum]:
        return [
            self._plain(c, self._calculation(c))
            for c in self.program.checksums
            if c.update and not self._calculation(c).with_payload
        ]

    def adjusted(self) -> list[PayloadChecksum]:
        return [
            self._payload(c, self._calculation(c))
            for c in self.program.checksums
            if c.update and self._calculation(c).with_payload
        ]

    def _calculation(self, checksum: Checksum) -> Calculation:
        calculation = self.program.calculations.get(checksum.calculation)
        if calculation is None:
            raise BadProgram(f"checksum of {checksum.target} names no known calculation")
        if calculation.algorithm not in ("csum16", "cksum16"):
            raise Refused(f"a checksum by {calculation.algorithm}", checksum.source)
        if self.program.width(checksum.target) != 16:
            raise Refused("a checksum that is not 16 bits wide", checksum.source)
        return calculation

    def _condition(self, checksum: Checksum) -> str:
        if checksum.condition is None:
            return "1"
        return compile_expression(checksum.condition, Scope(self.names, checksum.source))

    def _placed(self, calculation: Calculation) -> list[Placed]:
        return [self._place(value, calculation) for value in calculation.inputs]

    def _place(self, value: Const | FieldRef, calculation: Calculation) -> Placed:
        if isinstance(value, Const):
            if value.width is None:
                raise BadProgram(f"{calculation.name} has a constant without a width")
            return hexadecimal(value.value), value.width
        return self.names.field(value), self.program.width(value)

    def _plain(self, checksum: Checksum, calculation: Calculation) -> PlainChecksum:
        return PlainChecksum(
            target=self.names.field(checksum.target),
            changed=self.names.changed(checksum.target.header),
            valid=self.names.valid(checksum.target.header),
            condition=self._condition(checksum),
            terms=tuple(sum_words(self._placed(calculation))),
        )

    def _refuse_odd(self, calculation: Calculation, checksum: Checksum) -> None:
        bits = sum(width for _, width in self._placed(calculation))
        if bits % 16:
            raise Refused(f"a checksum over {bits} bits before the payload", checksum.source)

    def _pseudo_header(self, checksum: Checksum, calculation: Calculation) -> tuple[str, ...]:
        """The words of other headers than the checksum's own: all that a partial one covers."""
        terms: list[str] = []
        at = 0
        for value in calculation.inputs:
            text, width = self._place(value, calculation)
            if not (isinstance(value, FieldRef) and value.header == checksum.target.header):
                terms += sum_words([(text, width)], at)
            at += width
        return tuple(terms)

    def _payload(self, checksum: Checksum, calculation: Calculation) -> PayloadChecksum:
        header = self.program.header(checksum.target.header)
        self._refuse_changes_in_payload(header, checksum)
        self._refuse_odd(calculation, checksum)
        parts: dict[str, list[str]] = {"pn": [], "po": [], "on": [], "oo": []}
        at = 0
        for value in calculation.inputs:
            text, width = self._place(value, calculation)
            if isinstance(value, FieldRef) and value in self.analysis.tracked:
                own = "o" if value.header == header.name else "p"
                new = " + ".join(sum_words([(text, width)], at))
                parts[own + "n"].append(f"only_if({self.names.valid(value.header)}, {new})")
                parts[own + "o"] += sum_words([(self.names.original(value), width)], at)
            at += width
        target = header.field(checksum.target.field)
        return PayloadChecksum(
            header=self.names.headers[header.name],
            target=self.names.field(checksum.target),
            changed=self.names.changed(checksum.target.header),
            target_at=target.offset // 8,
            valid=self.names.valid(header.name),
            arrived=self.names.arrived(header.name),
            condition=self._condition(checksum),
            pseudo_new=tuple(parts["pn"]),
            pseudo_old=tuple(parts["po"]),
            own_new=tuple(parts["on"]),
            own_old=tuple(parts["oo"]),
            never_zero=_like_udp(header, checksum.target.field),
            whole=tuple(sum_words(self._placed(calculation))),
        )

    def _refuse_changes_in_payload(self, header: Header, checksum: Checksum) -> None:
        """Headers behind the checksummed one count as payload; their changes would go unseen."""
        order = self.program.deparser
        if header.name not in order:
            raise Refused(f"a checksum in {header.name}, which is never emitted", checksum.source)
        changed = {ref.header for ref in self.analysis.modified}
        for later in order[order.index(header.name) + 1 :]:
            if later in changed and self._together(header.name, later):
                raise Refused(
                    f"changing header {later}, which the payload checksum of {header.name} covers",
                    checksum.source,
                )

    def _together(self, first: str, second: str) -> bool:
        """Whether some path of the parser extracts both headers, or the second can be added."""
        if second in self.analysis.reshaped:
            return True
        seen: set[tuple[str, bool]] = set()

        def visit(name: str | None, found: bool) -> bool:
            if name is None or (name, found) in seen:
                return False
            seen.add((name, found))
            state = self.program.parser.states[name]
            extracted = {getattr(op, "header", None) for op in state.ops}
            found = found or first in extracted
            if found and second in extracted:
                return True
            return any(visit(t.state, found) for t in state.transitions)

        return visit(self.program.parser.start, False)

    # hashes
    def hash(self, calculation: Calculation) -> HashCode:
        name = calculation.name
        if calculation.with_payload:
            raise Refused(f"a hash over the payload ({name})", calculation.source)
        algorithm = HASH_ALGORITHMS.get(calculation.algorithm)
        if algorithm is None:
            raise Refused(
                f"the hash algorithm {calculation.algorithm}",
                calculation.source,
                f"{', '.join(sorted(HASH_ALGORITHMS))} are known",
            )
        placed = self._placed(calculation)
        size = (sum(width for _, width in placed) + 7) // 8
        if algorithm in ("csum16", "xor16"):
            return HashCode(identifier(name), algorithm, size, tuple(sum_words(placed)))
        statements = write_bytes("bytes", placed)
        return HashCode(identifier(name), algorithm, size, tuple(statements))


def _like_udp(header: Header, target: str) -> bool:
    """In UDP's layout a checksum of zero means "none", so a computed zero is sent as 0xffff."""
    return [f.width for f in header.fields] == [16, 16, 16, 16] and (
        header.fields[-1].name == target
    )
