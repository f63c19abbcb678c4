# SPDX-License-Identifier: Apache-2.0
"""Values of P4 fields as people write them, and as the wire carries them.

People write 198.19.0.1, 02:ff:00:00:00:01, 17 or 0x11. P4Runtime carries the shortest big-endian
byte string (specification, section "Bytestrings"). Everything between is an int.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum

# A bit<32> field is shown as an address when its name says so; nothing else in a p4info does,
# unless the program carries the annotation @format(IPV4_ADDRESS).
_ADDRESS_WORDS = {"addr", "address", "gateway", "ip", "ipv4", "ipv6", "neighbor", "nexthop"}
_ADDRESS_WORDS |= {"destination", "dst", "source", "src", "target"}
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_MAC = re.compile(r"[0-9a-f]{1,2}([:-][0-9a-f]{1,2}){5}", re.IGNORECASE)
_FORMAT = re.compile(r"@format\s*\(\s*([A-Z0-9_]+)\s*\)")


class Kind(Enum):
    """How a value is shown."""

    INTEGER = "integer"
    IPV4 = "IPv4 address"
    IPV6 = "IPv6 address"
    MAC = "MAC address"


_FORMATS = {
    "IPV4_ADDRESS": (Kind.IPV4, 32),
    "IPV6_ADDRESS": (Kind.IPV6, 128),
    "MAC_ADDRESS": (Kind.MAC, 48),
}


def kind_of(name: str, width: int, annotations: tuple[str, ...] = ()) -> Kind:
    """How a field of this name and width is shown to people."""
    for annotation in annotations:
        found = _FORMAT.match(annotation)
        if found and found.group(1) in _FORMATS:
            kind, needed = _FORMATS[found.group(1)]
            if needed == width:
                return kind
    if width == 48:
        return Kind.MAC
    if width not in (32, 128):
        return Kind.INTEGER
    words = {word.lower() for word in _WORD.findall(name)}
    if not words & _ADDRESS_WORDS:
        return Kind.INTEGER
    return Kind.IPV4 if width == 32 else Kind.IPV6


@dataclass(frozen=True)
class ValueType:
    """Width and appearance of one field, parameter or metadata value."""

    width: int
    kind: Kind = Kind.INTEGER

    @property
    def maximum(self) -> int:
        return (1 << self.width) - 1

    def parse(self, value: object) -> int:
        """The integer behind what a person wrote. ValueError says what is wrong with it."""
        number = self._number(value)
        if not 0 <= number <= self.maximum:
            shown = "0 and more" if number < 0 else f"0 to {self.maximum} (bit<{self.width}>)"
            raise ValueError(f"{value!r} is out of range, allowed is {shown}")
        return number

    def _number(self, value: object) -> int:
        if isinstance(value, bool):
            raise ValueError(f"{value!r} is a boolean, not a number; write {int(value)}")
        if isinstance(value, int):
            return int(value)
        if isinstance(value, bytes):
            return int.from_bytes(value, "big")
        if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is a {type(value).__name__}, not a number or an address")
        return self._from_text(value.strip())

    def _from_text(self, text: str) -> int:
        if self.width == 48 and _MAC.fullmatch(text):
            parts = re.split("[:-]", text)
            return int.from_bytes(bytes(int(part, 16) for part in parts), "big")
        try:
            if self.width == 32 and "." in text:
                return int(ipaddress.IPv4Address(text))
            if self.width == 128 and ":" in text:
                return int(ipaddress.IPv6Address(text))
            return int(text, 0)
        except ValueError:
            raise ValueError(f"{text!r} is not {self._expected()}") from None

    def _expected(self) -> str:
        number = "an integer (decimal or 0x hexadecimal)"
        named = {32: Kind.IPV4, 48: Kind.MAC, 128: Kind.IPV6}.get(self.width)
        if named is None:
            return number
        article = "a" if named is Kind.MAC else "an"
        return f"{article} {named.value} or {number}"

    def show(self, number: int) -> str | int:
        """The value as people read it: the one normal form of every way to write it."""
        if self.kind is Kind.IPV4:
            return str(ipaddress.IPv4Address(number))
        if self.kind is Kind.IPV6:
            return str(ipaddress.IPv6Address(number))
        if self.kind is Kind.MAC:
            return number.to_bytes(6, "big").hex(":")
        return number

    def mask(self, prefix_length: int) -> int:
        """The mask that keeps the first prefix_length bits."""
        return self.maximum ^ (self.maximum >> prefix_length)


def encode(number: int) -> bytes:
    """Canonical byte string: as short as possible, but never empty."""
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


def decode(data: bytes) -> int:
    return int.from_bytes(data, "big")
