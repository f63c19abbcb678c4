# SPDX-License-Identifier: Apache-2.0
"""Fields in packet bytes: reading, writing and summing them, against plain big integers."""

from __future__ import annotations

import ctypes
import json
import random

import pytest
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.clang import compile_c
from flowferry_p4.switch.compiler import compile_program
from flowferry_p4.switch.compiler.names import (
    Chunk,
    Names,
    chunks,
    identifier,
    read_field,
    sum_words,
    write_bytes,
)
from flowferry_p4.switch.model import Field

from tests.unit.p4.switch.native import compile_functions
from tests.unit.p4.switch.small_program import extract, key, small

IPV4 = (4, 4, 8, 16, 16, 1, 1, 1, 13, 8, 8, 16, 32, 32)
LAYOUTS = [
    (48, 48, 16),
    IPV4,
    (16, 16, 32, 32, 4, 4, 8, 16, 16, 16),
    (9, 7),
    (9, 1, 6),
    (1,) * 16,
    (3, 61),
    (4, 64, 4),
    (1, 58, 5),
    (7, 57),
    (64, 64),
    (12, 20, 40, 24),
    (4, 8, 20, 16, 8, 8, 128, 128),
    (128,),
    (3, 128, 5),
    (65, 7),
    (1, 100, 27),
]


def test_identifiers() -> None:
    assert identifier("ingress.route") == "ingress_route"
    assert identifier("vlan[0].id") == "vlan_0__id"


def test_chunks_are_aligned_and_cover() -> None:
    assert chunks(0, 5) == [Chunk(0, 32), Chunk(4, 16)]
    assert chunks(6, 11) == [Chunk(6, 16), Chunk(8, 32)]
    assert chunks(1, 1) == [Chunk(1, 8)]
    for first in range(20):
        for last in range(first, 40):
            covered = []
            for piece in chunks(first, last):
                assert piece.at % (piece.bits // 8) == 0
                covered += range(piece.at, piece.at + piece.bits // 8)
            assert covered == list(range(first, last + 1))


@pytest.fixture(params=LAYOUTS, ids=lambda widths: "-".join(map(str, widths)))
def layout(request: pytest.FixtureRequest) -> tuple[int, ...]:
    widths: tuple[int, ...] = request.param
    return widths


def values_of(widths: tuple[int, ...], seed: int) -> list[int]:
    chance = random.Random(seed)
    if seed == 0:
        return [(1 << w) - 1 for w in widths]
    return [chance.getrandbits(w) for w in widths]


def place(widths: tuple[int, ...]) -> list[tuple[str, int]]:
    """Values in an array of words, two for each, of the C type that their width needs."""
    return [
        (f"wide(v[{2 * i + 1}], v[{2 * i}])" if width > 64 else f"v[{2 * i}]", width)
        for i, width in enumerate(widths)
    ]


def words(values: list[int]) -> ctypes.Array[ctypes.c_uint64]:
    halves = [half for value in values for half in (value & (1 << 64) - 1, value >> 64)]
    return (ctypes.c_uint64 * len(halves))(*halves)


def join(widths: tuple[int, ...], values: list[int]) -> bytes:
    """The reference: one big integer, left aligned in whole bytes."""
    whole = 0
    for width, value in zip(widths, values, strict=True):
        whole = whole << width | value
    bits = sum(widths)
    size = (bits + 7) // 8
    return (whole << 8 * size - bits).to_bytes(size, "big")


def test_read_field(layout: tuple[int, ...]) -> None:
    functions = []
    at = 0
    for number, width in enumerate(layout):
        text = read_field("b", Field("f", width, at))
        functions.append(
            f"void read{number}(const u8 *b, u64 *v)"
            f" {{ u128 f = {text}; v[0] = f; v[1] = f >> 64; }}"
        )
        at += width
    library = compile_functions(functions)
    for seed in range(20):
        values = values_of(layout, seed)
        buffer = ctypes.create_string_buffer(join(layout, values), 64)
        for number, value in enumerate(values):
            halves = (ctypes.c_uint64 * 2)()
            getattr(library, f"read{number}")(buffer, halves)
            assert halves[1] << 64 | halves[0] == value


def test_write_bytes(layout: tuple[int, ...]) -> None:
    body = "".join(write_bytes("b", place(layout)))
    library = compile_functions([f"void write(u8 *b, const u64 *v) {{ {body} }}"])
    for seed in range(20):
        values = values_of(layout, seed)
        buffer = ctypes.create_string_buffer(b"\xaa" * 64, 64)
        library.write(buffer, words(values))
        expected = join(layout, values)
        assert buffer.raw[: len(expected)] == expected
        assert buffer.raw[len(expected) :] == b"\xaa" * (64 - len(expected))


def test_sum_words(layout: tuple[int, ...]) -> None:
    text = " + ".join(sum_words(place(layout)))
    library = compile_functions([f"u64 sum(const u64 *v) {{ return {text}; }}"])
    library.sum.restype = ctypes.c_uint64
    for seed in range(20):
        values = values_of(layout, seed)
        data = join(layout, values)
        data += b"\0" * (len(data) % 2)
        expected = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
        assert library.sum(words(values)) == expected


def test_sum_words_from_inside_a_word() -> None:
    """A field keeps its place within its word wherever the list that holds it starts."""
    library = compile_functions(
        [f"u64 sum(u64 v) {{ return {' + '.join(sum_words([('v', 16)], at=8))}; }}"]
    )
    assert library.sum(ctypes.c_uint64(0xABCD)) == 0xAB + 0xCD00


def test_difference_adjusts_a_checksum() -> None:
    """RFC 1624: the adjusted checksum is the one computed anew."""
    library = compile_functions(
        ["u64 apply(u64 old, u64 before, u64 after)"
         "{ u64 d = BIG16((u16)difference(after, before));"
         "  return (u16)~fold((~old & 0xffff) + d); }"]
    )  # fmt: skip
    library.apply.restype = ctypes.c_uint64
    chance = random.Random(3)
    for _ in range(200):
        rest, before, after = (chance.getrandbits(16) for _ in range(3))
        old, new = (~fold(rest + word) & 0xFFFF for word in (before, after))
        got = library.apply(*(ctypes.c_uint64(v) for v in (old, before, after)))
        assert got == new or {got, new} == {0, 0xFFFF}


def fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_names_that_c_reserves() -> None:
    """P4 has other reserved words than C: a header may be called long, a field register."""
    document = small()
    document["header_types"][0]["fields"] = [["register", 48, False], ["u8", 64, False]]
    document["headers"][0]["name"] = "long"
    document["parsers"][0]["parse_states"][0]["parser_ops"] = [extract("long")]
    document["deparsers"][0]["order"] = ["long"]
    document["pipelines"][0]["tables"][0]["key"] = [key("exact", "long", "register")]
    program = load(json.dumps(document))
    assert compile_c(compile_program(program, 510).source)


def test_names_that_become_equal() -> None:
    """`a.b` and `a_b` are different names in P4."""
    document = small()
    document["header_types"][0]["fields"] = [["a.b", 48, False], ["a_b", 64, False]]
    document["pipelines"][0]["tables"][0]["key"] = []
    names = Names(load(json.dumps(document)))
    assert names.fields["ethernet"] == {"a.b": "a_b", "a_b": "a_b_2"}
