# SPDX-License-Identifier: Apache-2.0
"""How things of the P4 program are called and stored in the generated C."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..model import Field, FieldRef, Program, Valid


def identifier(name: str) -> str:
    """A C identifier for a P4 name; unique as long as the names differ in letters and digits."""
    return re.sub(r"\W", "_", name)


def container(width: int) -> int:
    """Bits of the smallest unsigned C integer that holds `width` bits."""
    for bits in (8, 16, 32, 64, 128):
        if width <= bits:
            return bits
    raise ValueError(f"no C integer holds {width} bits")


def ctype(width: int) -> str:
    return f"u{container(width)}"


def mask(width: int) -> int:
    return (1 << width) - 1


def is_wide(width: int) -> bool:
    """Whether a value needs a u128; C has no literals of it, and BPF no shifts by a variable."""
    return width > 64


def hexadecimal(value: int, wide: bool = False) -> str:
    """A C literal, in two's complement where negative; a u128 where asked for or needed."""
    if wide or is_wide(value.bit_length()):
        return f"wide({value >> 64 & mask(64):#x}ULL, {value & mask(64):#x}ULL)"
    return f"{value & mask(64):#x}ULL"


_WORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while asm typeof linux unix u8 u16 u32 u64 u128 s32 s64 s128
valid_ changed_ leaving reshaped length parsed
"""  # the last line: members of the generated structs
RESERVED = frozenset(_WORDS.split())
"""Words that P4 allows as names and the generated C does not."""


class Names:
    """Unique C names for headers and fields, whatever characters P4 allowed in them."""

    def __init__(self, program: Program) -> None:
        self.width = program.width
        self._signed = {
            FieldRef(h.name, f.name) for h in program.headers.values() for f in h.fields if f.signed
        }
        self.headers = _unique(program.headers)
        self.fields = {
            h.name: _unique([f.name for f in h.fields]) for h in program.headers.values()
        }

    def header(self, name: str) -> str:
        return f"p->{self.headers[name]}"

    def valid(self, header: str) -> str:
        return f"{self.header(header)}.valid_"

    def changed(self, header: str) -> str:
        """Whether fields of a header have other values than the packet's bytes."""
        return f"{self.header(header)}.changed_"

    def field(self, ref: FieldRef | Valid) -> str:
        if isinstance(ref, Valid):
            return self.valid(ref.header)
        return f"{self.header(ref.header)}.{self.fields[ref.header][ref.field]}"

    def signed(self, ref: FieldRef) -> bool:
        """Whether a field holds two's complement."""
        return ref in self._signed

    def original(self, ref: FieldRef) -> str:
        """Where the value is kept that the packet arrived with."""
        return f"p->was_{self.headers[ref.header]}_{self.fields[ref.header][ref.field]}"

    def arrived(self, header: str) -> str:
        """Whether the packet arrived with this header."""
        return f"p->had_{self.headers[header]}"


def _unique(names: Iterable[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name in names:
        wanted = candidate = identifier(name)
        number = 2
        while candidate in result.values() or candidate in RESERVED:
            candidate = f"{wanted}_{number}"
            number += 1
        result[name] = candidate
    return result


@dataclass(frozen=True)
class Chunk:
    """A naturally aligned piece of a byte buffer: `bits` (8, 16, 32, 64) at byte `at`."""

    at: int
    bits: int


def chunks(first: int, last: int) -> list[Chunk]:
    """Cut bytes first..last into the largest aligned pieces: what a BPF load can do at once."""
    result = []
    while first <= last:
        size = 8
        while first % size or first + size - 1 > last:
            size //= 2
        result.append(Chunk(first, 8 * size))
        first += size
    return result


def read_field(buffer: str, field: Field) -> str:
    """C expression of a field in a buffer of packet bytes (aligned to 8)."""
    end = field.offset + field.width
    if is_wide(field.width):
        high = Field(field.name, field.width - 64, field.offset)
        low = Field(field.name, 64, end - 64)
        return f"wide({read_field(buffer, high)}, {read_field(buffer, low)})"
    first, last = field.offset // 8, (end - 1) // 8
    if last - first + 1 > 8:  # a field of 58..64 bits that starts inside a byte
        return _read_straddling(buffer, field)
    terms = []
    for piece in chunks(first, last):
        shift = 8 * (last - piece.at + 1) - piece.bits
        term = f"(u64)load{piece.bits}({buffer} + {piece.at})"
        terms.append(f"({term} << {shift})" if shift else term)
    value = " | ".join(terms)
    down = 8 * (last + 1) - end
    value = f"(({value}) >> {down})" if down else f"({value})"
    if (last - first + 1) * 8 == field.width:
        return value
    return f"({value} & {hexadecimal(mask(field.width))})"


def _read_straddling(buffer: str, field: Field) -> str:
    first = field.offset // 8
    end = field.offset + field.width
    down = 8 * (first + 9) - end
    head = " | ".join(f"((u64)load8({buffer} + {first + i}) << {56 - 8 * i})" for i in range(8))
    value = f"((({head}) << {8 - down}) | (load8({buffer} + {first + 8}) >> {down}))"
    return f"({value} & {hexadecimal(mask(field.width))})"


Placed = tuple[str, int]
"""A C expression and its width in bits; its type is u64, or u128 where the width needs it."""


def _part(expression: str, width: int, shift: int) -> str:
    """The u64 that begins `shift` bits above the lowest bit of a value."""
    if is_wide(width):
        return f"(u64)(({expression}) >> {shift})"
    return f"((u64)({expression}) >> {shift})" if shift else f"(u64)({expression})"


def write_bytes(buffer: str, values: Sequence[Placed]) -> list[str]:
    """Statements that lay values one after the other, most significant bit first.

    Bytes that lie in one value only are written with the widest aligned store; shared ones are
    composed.
    """
    statements = []
    spans = []  # (first bit, end bit, expression)
    at = 0
    for expression, width in values:
        spans.append((at, at + width, expression))
        at += width
    total = (at + 7) // 8
    byte = 0
    while byte < total:
        inside = [s for s in spans if s[0] < 8 * byte + 8 and s[1] > 8 * byte]
        if len(inside) == 1 and inside[0][0] <= 8 * byte and inside[0][1] >= 8 * byte + 8:
            start, end, expression = inside[0]
            piece = chunks(byte, end // 8 - 1)[0]
            shift = end - 8 * byte - piece.bits
            value = _part(expression, end - start, shift)
            statements.append(f"store{piece.bits}({buffer} + {byte}, {value});")
            byte += piece.bits // 8
            continue
        terms = []
        for start, end, expression in inside:
            shift = end - (8 * byte + 8)
            value = _part(expression, end - start, max(shift, 0))
            moved = f" << {-shift}" if shift < 0 else ""
            lowest, highest = max(start, 8 * byte), min(end, 8 * byte + 8)
            keep = mask(highest - lowest) << (8 * byte + 8 - highest)
            terms.append(f"(({value}{moved}) & {keep:#x})")
        statements.append(f"store8({buffer} + {byte}, {' | '.join(terms)});")
        byte += 1
    return statements


def sum_words(values: Sequence[Placed], at: int = 0) -> list[str]:
    """Terms whose sum is the sum of the 16-bit big-endian words of the concatenated values.

    `at` is the bit position of the first value.
    """
    terms = []
    for expression, width in values:
        end = at + width
        word = at // 16
        while word * 16 < end:
            lowest, highest = max(at, word * 16), min(end, word * 16 + 16)
            value = _part(expression, width, end - highest)
            value = f"({value} & {mask(highest - lowest):#x})"
            left = word * 16 + 16 - highest
            terms.append(f"({value} << {left})" if left else value)
            word += 1
        at = end
    return terms
