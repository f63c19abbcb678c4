# SPDX-License-Identifier: Apache-2.0
"""Table layouts and the bytes of their keys, rules and values."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import replace
from typing import Any

import pytest
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.compiler import GROUP, Kind, TableLayout
from flowferry_p4.switch.compiler.names import mask
from flowferry_p4.switch.compiler.tables import lay_out
from flowferry_p4.switch.encoding import (
    Call,
    FieldMatch,
    Key,
    decode_key,
    decode_reference,
    decode_rule,
    decode_value,
    encode_key,
    encode_reference,
    encode_rule,
    encode_value,
    key_size,
    rule_size,
)

from tests.unit.p4.switch.small_program import action, key, small


def layout(
    keys: list[dict[str, Any]], match: str = "exact", fields: list[list[Any]] | None = None
) -> TableLayout:
    document = small()
    document["header_types"][0]["fields"] = fields or document["header_types"][0]["fields"]
    document["pipelines"][0]["tables"][0].update(key=keys, match_type=match)
    program = load(json.dumps(document))
    return lay_out(program.ingress.tables["ingress.forward"], 3, program)


def entry(*matches: tuple[int, int]) -> Key:
    return Key(tuple(FieldMatch(value, second) for value, second in matches))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], Kind.KEYLESS),
        (["exact"], Kind.HASH),
        (["exact", "lpm"], Kind.TRIE),
        (["lpm"], Kind.TRIE),
        (["ternary"], Kind.SCAN),
        (["exact", "range"], Kind.SCAN),
        (["lpm", "ternary"], Kind.SCAN),
        (["optional"], Kind.SCAN),
    ],
)
def test_kind(kinds: list[str], expected: Kind) -> None:
    names = ["source", "destination"]
    keys = [key(kind, "ethernet", name) for kind, name in zip(kinds, names, strict=False)]
    assert layout(keys).kind is expected


def test_hash_keys_are_sorted_by_size_and_padded() -> None:
    made = layout(
        [
            key("exact", "ethernet", "kind"),
            key("exact", "standard_metadata", "checksum_error"),
            key("exact", "ethernet", "source"),
        ]
    )
    assert made.key_sizes == (8, 2, 1)
    assert made.padding == 5
    got = encode_key(made, entry((0x0800, 0), (1, 0), (0xA1B2C3D4E5F6, 0)))
    assert got == struct.pack("=QHB5x", 0xA1B2C3D4E5F6, 0x0800, 1)


def test_trie_keys_have_exact_fields_in_front() -> None:
    made = layout([key("lpm", "ethernet", "source"), key("exact", "ethernet", "kind")], "lpm")
    got = encode_key(made, entry((0xA1B2C3000000, 24), (0x0800, 0)))
    assert got == struct.pack("=I", 16 + 24) + bytes.fromhex("0800a1b2c3000000")


def test_trie_keys_of_odd_width_are_left_aligned() -> None:
    made = layout([key("lpm", "standard_metadata", "ingress_port")], "lpm")
    got = encode_key(made, entry((0b101000000, 3)))
    assert got == struct.pack("=I", 3) + bytes([0b10100000, 0])


def test_rules_of_every_match_kind() -> None:
    kinds = ["exact", "ternary", "range", "optional"]
    keys = [
        key(kind, "standard_metadata", name)
        for kind, name in zip(
            kinds, ["ingress_port", "egress_spec", "packet_length", "mcast_grp"], strict=True
        )
    ]
    keys.append(key("lpm", "ethernet", "kind"))
    made = layout(keys, "range")
    got = encode_rule(made, entry((5, 0), (0x10, 0xF0), (10, 20), (0, 0), (0xAB00, 8)))
    masks = (0x1FF, 0xF0, 0xFFFFFFFF, 0, 0xFF00)
    lows = (5, 0x10, 10, 0, 0xAB00)
    highs = (5, 0x10, 20, 0, 0xAB00)
    assert got == struct.pack("=16Q", *masks, *lows, *highs, 0)


def test_values_are_padded_to_the_longest_action() -> None:
    made = layout([key("exact", "ethernet", "kind")])
    assert made.arguments == 1
    actions = load(json.dumps(small())).actions
    assert encode_value(actions[0], Call(0), 7, 1) == struct.pack("=IIQ", 0, 7, 0)
    assert encode_value(actions[1], Call(1, (510,)), 7, 1) == struct.pack("=IIQ", 1, 7, 510)


def test_wide_arguments_take_two_slots() -> None:
    document = small()
    document["actions"].append(action(2, "wide", parameters={"a": 9, "b": 128, "c": 9}))
    actions = load(json.dumps(document)).actions
    got = encode_value(actions[2], Call(2, (1, 2 << 64 | 3, 4)), 7, 5)
    assert got == struct.pack("=II5Q", 2, 7, 1, 2, 3, 4, 0)


WIDE_FIELDS = [["a", 128, False], ["b", 100, False], ["c", 16, False], ["d", 4, False]]


def test_wide_hash_keys() -> None:
    made = layout([key("exact", "ethernet", n) for n in "ca"], fields=WIDE_FIELDS)
    assert (made.key_sizes, made.padding) == ((16, 2), 6)
    value = 0x20010DB8 << 96 | 1
    got = encode_key(made, entry((0x0800, 0), (value, 0)))
    assert got == value.to_bytes(16, sys.byteorder) + struct.pack("=H6x", 0x0800)


def test_wide_prefixes_are_left_aligned() -> None:
    made = layout([key("lpm", "ethernet", "b")], "lpm", WIDE_FIELDS)
    got = encode_key(made, entry((0xABC << 88, 12)))
    assert got == struct.pack("=I", 12) + bytes.fromhex("abc0") + bytes(11)


def test_wide_rules() -> None:
    """One wide field makes every word of the rule wide."""
    keys = [key("ternary", "ethernet", "a"), key("exact", "ethernet", "c")]
    made = layout(keys, "ternary", WIDE_FIELDS)
    high = (1 << 128) - (1 << 64)
    got = encode_rule(made, entry((5 << 64, high), (7, 0)))
    assert got == b"".join(
        value.to_bytes(16, sys.byteorder) for value in (high, 0xFFFF, 5 << 64, 7, 5 << 64, 7)
    ) + bytes(8)


@pytest.mark.parametrize("kinds", [("exact",) * 4, ("exact", "exact", "lpm", "exact")])
def test_keys_are_read_back(kinds: tuple[str, ...]) -> None:
    """What a process left in a map is found there by the next one."""
    keys = [key(kind, "ethernet", name) for kind, name in zip(kinds, "abcd", strict=True)]
    made = layout(keys, "lpm" if "lpm" in kinds else "exact", WIDE_FIELDS)
    for third in ((0xAB00, 8), (0xABCD, 16), (0, 0)) if "lpm" in kinds else ((0xABCD, 0),):
        original = entry((5 << 64 | 1, 0), (7 << 90, 0), third, (9, 0))
        encoded = encode_key(made, original)
        assert len(encoded) == key_size(made)
        assert decode_key(made, encoded) == original


@pytest.mark.parametrize("fields", [WIDE_FIELDS, [[n, 16, False] for n in "abcde"]])
def test_rules_are_read_back(fields: list[list[Any]]) -> None:
    names = [field[0] for field in fields]
    fields = [*fields, ["e", 24, False]] if "e" not in names else fields
    kinds = ("ternary", "range", "exact", "optional", "lpm")
    keys = [key(kind, "ethernet", name) for kind, name in zip(kinds, "abcde", strict=True)]
    made = layout(keys, "range", fields)
    for matches in (
        ((0x10, 0xF0), (10, 20), (5, 0), (3, mask(fields[3][1])), (0xA000, 4)),
        ((0, 0), (0, mask(fields[1][1])), (0, 0), (0, 0), (0, 0)),
    ):
        original = replace(entry(*matches), priority=0x7FFFFFFF)
        encoded = encode_rule(made, original)
        assert len(encoded) == rule_size(made)
        assert decode_rule(made, encoded + b"value") == original


def test_calls_are_read_back() -> None:
    document = small()
    document["actions"].append(action(2, "wide", parameters={"a": 9, "b": 128, "c": 9}))
    actions = load(json.dumps(document)).actions
    for call in (Call(0), Call(1, (510,)), Call(2, (1, 2 << 64 | 3, 4))):
        assert decode_value(actions, encode_value(actions[call.action], call, 7, 5)) == (call, 7)
    assert decode_reference(encode_reference(Call(GROUP, (9,)), 7)) == (Call(GROUP, (9,)), 7)
