# SPDX-License-Identifier: Apache-2.0
"""Keys and calls of entries as the maps hold them, and back."""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from .compiler import Kind, TableLayout
from .compiler.names import mask
from .compiler.slots import fill, join
from .model import Action


@dataclass(frozen=True)
class FieldMatch:
    """What one key field must be.

    `second` is the mask (ternary, optional), the prefix length (lpm), the end (range), or unused.
    """

    value: int
    second: int = 0


@dataclass(frozen=True)
class Key:
    match: tuple[FieldMatch, ...]
    priority: int = 0


@dataclass(frozen=True)
class Call:
    """An action by the id it has in the BMv2 JSON, and its arguments."""

    action: int
    arguments: tuple[int, ...] = ()


def encode_value(action: Action, call: Call, slot: int, slots: int) -> bytes:
    """The value of an entry whose table, or whose map, has room for ``slots`` arguments."""
    filled = fill(action, call.arguments)
    padded = filled + [0] * (slots - len(filled))
    return struct.pack(f"=II{slots}Q", call.action, slot, *padded)


def decode_value(actions: Mapping[int, Action], value: bytes) -> tuple[Call, int]:
    """What an entry calls, and its slot."""
    number, slot, *slots = struct.unpack(f"=II{(len(value) - 8) // 8}Q", value)
    return Call(number, join(actions[number], slots)), slot


def encode_reference(call: Call, slot: int) -> bytes:
    """The value of an indirect table's entry: MEMBER or GROUP, and its number."""
    return struct.pack("=IIQ", call.action, slot, *call.arguments)


def decode_reference(value: bytes) -> tuple[Call, int]:
    kind, slot, number = struct.unpack("=IIQ", value)
    return Call(kind, (number,)), slot


def encode_key(layout: TableLayout, key: Key) -> bytes:
    """The key of a hash or trie map, as the generated C lays it out."""
    values = [key.match[p.position] for p in layout.parts]
    if layout.kind is Kind.HASH:
        parts = zip(values, layout.key_sizes, strict=True)
        return b"".join(_native(v.value, size) for v, size in parts) + bytes(layout.padding)
    data = b""
    length = 0
    for part, size, match in zip(layout.parts, layout.key_sizes, values, strict=True):
        value = match.value
        bits = 8 * size
        if part.match == "lpm":
            value <<= bits - part.width
            bits = match.second
        data += value.to_bytes(size, "big")
        length += bits
    return struct.pack("=I", length) + data


def key_size(layout: TableLayout) -> int:
    """Bytes of the keys of a hash or trie map."""
    return layout.data_size + (4 if layout.kind is Kind.TRIE else layout.padding)


def decode_key(layout: TableLayout, key: bytes) -> Key:
    """What encode_key() made this of."""
    matches = [FieldMatch(0)] * len(layout.parts)
    trie = layout.kind is Kind.TRIE
    at = 4 if trie else 0
    length = struct.unpack_from("=I", key)[0] if trie else 0
    for part, size in zip(layout.parts, layout.key_sizes, strict=True):
        value = int.from_bytes(key[at : at + size], "big" if trie else sys.byteorder)
        if part.match == "lpm":  # the last one
            matches[part.position] = FieldMatch(value >> 8 * size - part.width, length)
        else:
            matches[part.position] = FieldMatch(value)
        length -= 8 * size
        at += size
    return Key(tuple(matches))


def _native(value: int, size: int) -> bytes:
    """An integer as C holds it."""
    return value.to_bytes(size, sys.byteorder)


def encode_rule(layout: TableLayout, key: Key) -> bytes:
    """Mask, lowest and highest value of each field, into which every match kind fits; and the
    priority, which no packet needs.
    """
    masks, lows, highs = [], [], []
    for part in layout.parts:
        match = key.match[part.position]
        full = mask(part.width)
        low = high = match.value
        keep = full
        if part.match == "lpm":
            keep = full ^ mask(part.width - match.second)
        elif part.match in ("ternary", "optional"):
            keep = match.second
        elif part.match == "range":
            high = match.second
        masks.append(keep)
        lows.append(low)
        highs.append(high)
    words = b"".join(_native(word, layout.rule_word) for word in masks + lows + highs)
    return words + struct.pack("=Q", key.priority)


def rule_size(layout: TableLayout) -> int:
    """Bytes of a rule, in front of its value."""
    return 3 * len(layout.parts) * layout.rule_word + 8


def decode_rule(layout: TableLayout, rule: bytes) -> Key:
    """What encode_rule() made this of."""
    word, count = layout.rule_word, len(layout.parts)
    words = [
        int.from_bytes(rule[at : at + word], sys.byteorder)
        for at in range(0, 3 * count * word, word)
    ]
    matches = [FieldMatch(0)] * count
    for part, keep, low, high in zip(
        layout.parts, words[:count], words[count : 2 * count], words[2 * count :], strict=True
    ):
        second = {"lpm": keep.bit_count(), "range": high, "exact": 0}.get(part.match, keep)
        matches[part.position] = FieldMatch(low, second)
    (priority,) = struct.unpack_from("=Q", rule, 3 * count * word)
    return Key(tuple(matches), priority)
