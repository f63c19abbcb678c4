# SPDX-License-Identifier: Apache-2.0
"""The text of STF tests, and the numbers in it."""

from __future__ import annotations

import pytest
from flowferry_p4.switch.stf import script
from flowferry_p4.switch.stf.control import pattern, prefix
from flowferry_p4.switch.stf.runner import needs_frames, ports
from flowferry_p4.switch.stf.script import BadScript, parse


def statements(text: str) -> list[script.Statement]:
    return [line.statement for line in parse(text)]


def test_an_entry() -> None:
    (found,) = statements("add t 7 a.b:0x1* c$1.d:10/8 do.it(port:2, mac:0xff) = A  # why")
    call = script.Call("do.it", (("port", "2"), ("mac", "0xff")))
    assert found == script.Add("t", 7, (("a.b", "0x1*"), ("c$1.d", "10/8")), call, "A")


def test_an_entry_without_priority_and_arguments() -> None:
    (found,) = statements("add t f:1 drop()")
    assert found == script.Add("t", None, (("f", "1"),), script.Call("drop", ()), None)


def test_packets() -> None:
    found = statements("packet 1 00 ff\nexpect 2 00 *f $\nexpect 3 0a\nexpect 4\nno_packet\nwait")
    assert found == [
        script.Packet(1, b"\x00\xff"),
        script.Expect(2, "00*f", True),
        script.Expect(3, "0a", False),
        script.Expect(4, None, False),
        script.Wait(nothing_else=True),
        script.Wait(),
    ]


@pytest.mark.parametrize(
    ("expected", "packet", "fits"),
    [
        ("expect 1 00ff", b"\x00\xff", True),
        ("expect 1 00ff", b"\x00\xff\x01", True),
        ("expect 1 00ff$", b"\x00\xff\x01", False),
        ("expect 1 00f*", b"\x00\xf7", True),
        ("expect 1 00f*", b"\x00\xe7", False),
        ("expect 1 00ff", b"\x00", False),
        ("expect 1", b"\x12", True),
        ("expect 1 $", b"", True),
        ("expect 1 $", b"\x00", False),
    ],
)
def test_what_is_expected(expected: str, packet: bytes, fits: bool) -> None:
    (statement,) = statements(expected)
    assert isinstance(statement, script.Expect)
    assert statement.matches(packet) is fits


def test_checks() -> None:
    found = statements(
        "check_counter c(3) bytes >= 60\ncheck_counter d($A)\ncheck_register r(1) == 0x10"
    )
    assert found == [
        script.CheckCounter("c", 3, "bytes", script.Condition(">=", 60)),
        script.CheckCounter("d", "A", "packets", script.Condition("==", 0)),
        script.CheckRegister("r", 1, script.Condition("==", 16)),
    ]


@pytest.mark.parametrize(
    ("operator", "holds"),
    [("==", False), ("!=", True), ("<", True), ("<=", True), (">", False), (">=", False)],
)
def test_conditions(operator: str, holds: bool) -> None:
    assert script.Condition(operator, 3).holds(2) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wait\nfoo 1", "line 2: 'foo' is no statement of STF"),
        ("packet 1 0g", "line 1: non-hexadecimal"),
        ("mirroring_add 1", "line 1: 2 numbers are expected"),
        ("add t f:1 drop", "line 1: substring not found"),
        ("expect 1 xy", "line 1: the packet is not understood"),
        ("check_counter c", "line 1: the counter is not understood"),
    ],
)
def test_bad_scripts(text: str, message: str) -> None:
    with pytest.raises(BadScript, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "width", "value", "mask"),
    [
        ("0x0a", 8, 0x0A, 0xFF),
        ("0x0*", 8, 0, 0xF0),
        ("0b1*0*", 4, 0b1000, 0b1010),
        ("0x*", 8, 0, 0xF0),
        ("12", 8, 12, 0xFF),
        ("007", 8, 7, 0xFF),
    ],
)
def test_patterns(text: str, width: int, value: int, mask: int) -> None:
    assert pattern(text, width) == (value, mask)


@pytest.mark.parametrize(
    ("text", "expected"), [("0x0a000000/8", (0x0A000000, 8)), ("0x0a******", (0x0A000000, 8))]
)
def test_prefixes(text: str, expected: tuple[int, int]) -> None:
    assert prefix(text, 32) == expected


def test_ports_of_a_test() -> None:
    lines = parse("packet 1 00\nexpect 2\nmirroring_add 5 3\nmc_node_create 0 4 5")
    assert ports(lines) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "framed"),
    [
        ("packet 1 " + "00" * 14, False),
        ("packet 1 " + "00" * 13, True),
        ("packet 1 " + "00" * 12 + "8100 0000", True),
        ("expect 1 " + "00" * 12 + "8100 0000", True),
        ("expect 1 00", False),
        ("expect 1 00$", True),
    ],
)
def test_packets_that_no_device_carries(text: str, framed: bool) -> None:
    assert needs_frames(parse(text)) is framed
