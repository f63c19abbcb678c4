# SPDX-License-Identifier: Apache-2.0
"""Values as people write them, and the normal form they take."""

from __future__ import annotations

import ipaddress

import pytest
from flowferry_p4.client.values import Kind, ValueType, decode, encode, kind_of
from hypothesis import given
from hypothesis import strategies as st

IPV4 = ValueType(32, Kind.IPV4)
IPV6 = ValueType(128, Kind.IPV6)
MAC = ValueType(48, Kind.MAC)
PORT = ValueType(9)


@pytest.mark.parametrize(
    ("kind", "written", "shown"),
    [
        (IPV4, "198.19.0.1", "198.19.0.1"),
        (IPV4, 0xC6130001, "198.19.0.1"),
        (IPV4, "0xC6130001", "198.19.0.1"),
        (IPV4, "3323133953", "198.19.0.1"),
        (IPV4, ipaddress.IPv4Address("198.19.0.1"), "198.19.0.1"),
        (IPV4, b"\xc6\x13\x00\x01", "198.19.0.1"),
        (IPV6, "2001:DB8:0:0::1", "2001:db8::1"),
        (MAC, "02:FF:00:00:00:01", "02:ff:00:00:00:01"),
        (MAC, "2-ff-0-0-0-1", "02:ff:00:00:00:01"),
        (MAC, 0x02FF00000001, "02:ff:00:00:00:01"),
        (PORT, "510", 510),
        (PORT, " 0x1fe ", 510),
        (PORT, "0b101", 5),
        (ValueType(32), "198.19.0.1", 0xC6130001),
    ],
)
def test_every_way_to_write_a_value_has_one_normal_form(
    kind: ValueType, written: object, shown: object
) -> None:
    number = kind.parse(written)
    assert kind.show(number) == shown
    assert kind.parse(kind.show(number)) == number


@pytest.mark.parametrize(
    ("kind", "written", "message"),
    [
        (PORT, 512, r"512 is out of range, allowed is 0 to 511 \(bit<9>\)"),
        (PORT, -1, "-1 is out of range, allowed is 0 and more"),
        (PORT, True, "True is a boolean, not a number; write 1"),
        (PORT, None, "None is a NoneType, not a number or an address"),
        (PORT, "many", "'many' is not an integer"),
        (PORT, "010", "'010' is not an integer"),
        (IPV4, "198.19.0.256", "'198.19.0.256' is not an IPv4 address or an integer"),
        (IPV6, "2001:db8", "'2001:db8' is not an IPv6 address or an integer"),
        (MAC, "02:ff:00:00:01", "'02:ff:00:00:01' is not a MAC address or an integer"),
    ],
)
def test_a_wrong_value_is_refused_in_words(kind: ValueType, written: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.parse(written)


@pytest.mark.parametrize(
    ("name", "width", "annotations", "kind"),
    [
        ("address", 32, (), Kind.IPV4),
        ("hdr.ipv4.dstAddr", 32, (), Kind.IPV4),
        ("virtual_address", 128, (), Kind.IPV6),
        ("destination", 32, (), Kind.IPV4),
        ("destination_mac", 48, (), Kind.MAC),
        ("weight", 32, (), Kind.INTEGER),
        ("weight", 32, ("@format(IPV4_ADDRESS)",), Kind.IPV4),
        ("weight", 16, ("@format(IPV4_ADDRESS)",), Kind.INTEGER),
        ("port", 16, (), Kind.INTEGER),
    ],
)
def test_names_tell_addresses_from_numbers(
    name: str, width: int, annotations: tuple[str, ...], kind: Kind
) -> None:
    assert kind_of(name, width, annotations) is kind


@given(st.integers(min_value=0, max_value=(1 << 128) - 1))
def test_byte_strings_are_canonical(number: int) -> None:
    data = encode(number)
    assert decode(data) == number
    assert data == b"\x00" or data[0] != 0


@given(st.integers(min_value=0, max_value=(1 << 48) - 1))
def test_macs_survive_the_round_trip(number: int) -> None:
    assert MAC.parse(MAC.show(number)) == number
