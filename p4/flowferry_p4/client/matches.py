# SPDX-License-Identifier: Apache-2.0
"""The match kinds of P4Runtime: how a person writes each, and how the wire carries it.

=========  ==========================================  ==========================================
kind       accepted                                    normal form
=========  ==========================================  ==========================================
exact      value                                       value
lpm        value, value/length                         value/length; a field left out is .../0
ternary    value, value/length, value&&&mask           value, or value&&&mask; left out: any
range      value, low..high                            low..high; left out: any
optional   value                                       value; left out: any
=========  ==========================================  ==========================================
"""

from __future__ import annotations

from typing import Any

from finsy.proto import p4r

from .values import ValueType, decode, encode


class MatchCodec:
    """One match kind. ``encode`` returns None where the message leaves the field out."""

    name: str
    mandatory = False
    needs_priority = False

    def encode(self, kind: ValueType, given: object) -> p4r.FieldMatch | None:
        raise NotImplementedError

    def decode(self, kind: ValueType, match: p4r.FieldMatch | None) -> Any:
        raise NotImplementedError


class Exact(MatchCodec):
    name = "exact"
    mandatory = True

    def encode(self, kind: ValueType, given: object) -> p4r.FieldMatch:
        return p4r.FieldMatch(exact=p4r.FieldMatch.Exact(value=encode(kind.parse(given))))

    def decode(self, kind: ValueType, match: p4r.FieldMatch | None) -> Any:
        return None if match is None else kind.show(decode(match.exact.value))


class Lpm(MatchCodec):
    name = "lpm"

    def encode(self, kind: ValueType, given: object) -> p4r.FieldMatch | None:
        number, length = _prefix(kind, given)
        if length == 0:
            return None
        return p4r.FieldMatch(lpm=p4r.FieldMatch.LPM(value=encode(number), prefix_len=length))

    def decode(self, kind: ValueType, match: p4r.FieldMatch | None) -> Any:
        if match is None:
            return f"{kind.show(0)}/0"
        return f"{kind.show(decode(match.lpm.value))}/{match.lpm.prefix_len}"


class Ternary(MatchCodec):
    name = "ternary"
    needs_priority = True

    def encode(self, kind: ValueType, given: object) -> p4r.FieldMatch | None:
        if isinstance(given, str) and "&&&" in given:
            value, mask = (kind.parse(part) for part in given.split("&&&", 1))
        else:
            value, length = _prefix(kind, given)
            mask = kind.mask(length)
        if value & ~mask:
            raise ValueError(
                f"{given!r} has bits outside its mask; write {kind.show(value & mask)}"
                f"&&&{kind.show(mask)}"
            )
        if mask == 0:
            return None
        ternary = p4r.FieldMatch.Ternary(value=encode(value), mask=encode(mask))
        return p4r.FieldMatch(ternary=ternary)

    def decode(self, kind: ValueType, match: p4r.FieldMatch | None) -> Any:
        if match is None:
            return None
        value, mask = decode(match.ternary.value), decode(match.ternary.mask)
        if mask == kind.maximum:
            return kind.show(value)
        return f"{kind.show(value)}&&&{kind.show(mask)}"


class Range(MatchCodec):
    name = "range"
    needs_priority = True

    def encode(self, kind: ValueType, given: object) -> p4r.FieldMatch | None:
        parts = given.split("..", 1) if isinstance(given, str) and ".." in given else [given, given]
        low, high = (kind.parse(part) for part in parts)
        if low > high:
            raise ValueError(f"{given!r} ends before it begins; write {high}..{low}")
        if (low, high) == (0, kind.maximum):
            return None
        return p4r.FieldMatch(range=p4r.FieldMatch.Range(low=encode(low), high=encode(high)))

    def decode(self, kind: ValueType, match: p4r.FieldMatch | None) -> Any:
        if match is None:
            return None
        return f"{kind.show(decode(match.range.low))}..{kind.show(decode(match.range.high))}"


class Optional(MatchCodec):
    name = "optional"
    needs_priority = True

    def encode(self, kind: ValueType, given: object) -> p4r.FieldMatch:
        return p4r.FieldMatch(optional=p4r.FieldMatch.Optional(value=encode(kind.parse(given))))

    def decode(self, kind: ValueType, match: p4r.FieldMatch | None) -> Any:
        return None if match is None else kind.show(decode(match.optional.value))


_CODECS: dict[str, MatchCodec] = {
    codec.name.upper(): codec for codec in (Exact(), Lpm(), Ternary(), Range(), Optional())
}


def codec_for(match_type: str) -> MatchCodec | None:
    """The codec of a match type as the p4info names it (EXACT, LPM, ...)."""
    return _CODECS.get(match_type)


def _prefix(kind: ValueType, given: object) -> tuple[int, int]:
    """(value, prefix length) of "value/length" or of a plain value, which is matched whole."""
    if not isinstance(given, str) or "/" not in given:
        return kind.parse(given), kind.width
    text, _, suffix = given.partition("/")
    if not suffix.isdecimal() or int(suffix) > kind.width:
        raise ValueError(f"{given!r}: the prefix length must be a number from 0 to {kind.width}")
    number, length = kind.parse(text), int(suffix)
    kept = number & kind.mask(length)
    if kept != number:
        raise ValueError(
            f"{given!r} has bits beyond its prefix length; write {kind.show(kept)}/{length}"
        )
    return number, length
