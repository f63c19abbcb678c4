# SPDX-License-Identifier: Apache-2.0
"""Constructs that the project's own program does not use, run in the kernel."""

from __future__ import annotations

import binascii
import zlib
from typing import Any

import pytest
from flowferry_p4.switch.cells import Counts
from flowferry_p4.switch.encoding import Call, FieldMatch, Key
from flowferry_p4.switch.entries import EntryExists, EntryMissing, TableConstant

from tests.integration.switch_testrun import TestRun
from tests.unit.p4.switch.small_program import (
    action,
    const,
    extract,
    field,
    key,
    op,
    primitive,
    small,
    state,
)

TABLE = "ingress.forward"
SEND = 1
PAYLOAD = bytes(range(64, 164))


def frame(kind: int, source: int = 0xA1A2A3A4A5A6, destination: int = 0xB1B2B3B4B5B6) -> bytes:
    return b"".join(
        (destination.to_bytes(6, "big"), source.to_bytes(6, "big"), kind.to_bytes(2, "big"))
    )


def with_keys(match: str, *keys: dict[str, Any]) -> dict[str, Any]:
    document = small()
    document["actions"][0]["primitives"] = [
        primitive("mark_to_drop", {"type": "header", "value": "standard_metadata"})
    ]
    document["pipelines"][0]["tables"][0].update(
        key=list(keys), match_type=match, with_counters=True
    )
    return document


def always(document: dict[str, Any], *primitives: dict[str, Any]) -> dict[str, Any]:
    """The table does the same to every packet, which leaves on port 3."""
    out = primitive("assign", field("standard_metadata", "egress_spec"), const(3))
    document["actions"] = [action(0, "NoAction"), action(1, "send", out, *primitives)]
    table = document["pipelines"][0]["tables"][0]
    table["key"] = []
    table["default_entry"] = {"action_id": 1, "action_entry_const": True, "action_data": []}
    return document


def add_header(document: dict[str, Any], name: str, **widths: int) -> None:
    fields = [[n, w, False] for n, w in widths.items()]
    number = len(document["headers"])
    document["header_types"].append({"name": f"{name}_t", "id": number, "fields": fields})
    document["headers"].append(
        {"name": name, "id": number, "header_type": f"{name}_t", "metadata": False}
    )


def entry(*matches: int | tuple[int, int], priority: int = 0) -> Key:
    parts = [FieldMatch(*m) if isinstance(m, tuple) else FieldMatch(m) for m in matches]
    return Key(tuple(parts), priority)


# --- match kinds ----------------------------------------------------------------------------------
def test_ternary_takes_the_highest_priority() -> None:
    run = TestRun(with_keys("ternary", key("ternary", "ethernet", "kind")))
    store = run.dataplane.tables[TABLE]
    store.insert(entry((0, 0), priority=1), Call(SEND, (1,)))
    store.insert(entry((0x8800, 0xFF00), priority=5), Call(SEND, (5,)))
    store.insert(entry((0x88B5, 0xFFFF), priority=9), Call(SEND, (9,)))
    store.insert(entry((0x88B5, 0xFFFF), priority=3), Call(SEND, (3,)))

    def port(kind: int) -> int:
        left = run(frame(kind) + PAYLOAD)
        assert left is not None
        return left[0]

    assert [port(0x88B5), port(0x8801), port(0x0800)] == [9, 5, 1]
    store.delete(entry((0x88B5, 0xFFFF), priority=9))
    assert port(0x88B5) == 5
    store.modify(entry((0x8800, 0xFF00), priority=5), Call(SEND, (6,)))
    assert port(0x88B5) == 6
    store.delete(entry((0x8800, 0xFF00), priority=5))
    assert port(0x88B5) == 3
    counts = store.counts(store.find(entry((0, 0), priority=1)))
    assert counts == Counts(1, len(frame(0) + PAYLOAD))


def test_range_exact_and_prefix_together() -> None:
    document = with_keys(
        "range",
        key("range", "ethernet", "kind"),
        key("exact", "ethernet", "source"),
        key("lpm", "ethernet", "destination"),
    )
    run = TestRun(document)
    store = run.dataplane.tables[TABLE]
    match = entry((0x100, 0x1FF), 7, (0xB10000000000, 8), priority=1)
    store.insert(match, Call(SEND, (4,)))
    near = 0xB1FFFFFFFFFF
    for kind, source, destination, passes in (
        (0x100, 7, near, True),
        (0x1FF, 7, near, True),
        (0x200, 7, near, False),
        (0x0FF, 7, near, False),
        (0x180, 8, near, False),
        (0x180, 7, 0xB2FFFFFFFFFF, False),
    ):
        assert (run(frame(kind, source, destination) + PAYLOAD) is not None) == passes


def test_exact_and_prefix_in_a_trie() -> None:
    document = with_keys(
        "lpm", key("lpm", "ethernet", "source"), key("exact", "standard_metadata", "ingress_port")
    )
    run = TestRun(document)
    store = run.dataplane.tables[TABLE]
    store.insert(entry((0, 0), 1), Call(SEND, (1,)))
    store.insert(entry((0xA1A200000000, 16), 1), Call(SEND, (16,)))
    store.insert(entry((0xA1A2A0000000, 20), 1), Call(SEND, (20,)))
    store.insert(entry((0xA1A2A3A4A5A6, 48), 2), Call(SEND, (8,)))
    for source, ingress, port in (
        (0xA1A2A3A4A5A6, 1, 20),
        (0xA1A2B3A4A5A6, 1, 16),
        (0xA2A2A3A4A5A6, 1, 1),
        (0xA1A2A3A4A5A6, 2, 8),
    ):
        assert run(frame(0, source) + PAYLOAD, ingress) == (port, frame(0, source) + PAYLOAD)
    assert run(frame(0, 1) + PAYLOAD, 3) is None


def test_the_programs_own_entries_are_in_order_and_constant() -> None:
    document = with_keys("ternary", key("ternary", "ethernet", "kind"))
    document["pipelines"][0]["tables"][0]["entries"] = [
        {
            "match_key": [{"match_type": "ternary", "key": value, "mask": mask}],
            "priority": rank,
            "action_entry": {"action_id": SEND, "action_data": [port]},
        }
        for rank, value, mask, port in (
            (1, "0x1181", "0x00f0", "0x4"),
            (2, "0x1181", "0x000f", "0x5"),
        )
    ]  # fmt: skip
    run = TestRun(document)
    for kind, port in ((0x81, 4), (0x01, 5), (0x9980, 4)):
        assert run(frame(kind) + PAYLOAD) == (port, frame(kind) + PAYLOAD)
    assert run(frame(2) + PAYLOAD) is None
    with pytest.raises(TableConstant, match="the entries of table"):
        run.dataplane.tables[TABLE].insert(entry((0, 1), priority=1), Call(SEND, (1,)))


def test_store_refuses() -> None:
    store = TestRun(with_keys("exact", key("exact", "ethernet", "kind"))).dataplane.tables[TABLE]
    store.insert(entry(1), Call(SEND, (1,)))
    with pytest.raises(EntryExists):
        store.insert(entry(1), Call(SEND, (1,)))
    with pytest.raises(EntryMissing):
        store.modify(entry(2), Call(SEND, (1,)))
    with pytest.raises(EntryMissing):
        store.delete(entry(2))


# --- headers --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((0x0800, size) for size in (15, 19, 20, 1400)),
        *((0x88B5, size) for size in (0, 1, 63, 64, 65, 1400)),
    ],
)
def test_a_header_is_removed(kind: int, size: int) -> None:
    document = small()
    add_header(document, "tag", a=24, b=16)
    document["parsers"][0]["parse_states"] = [state("start", [extract("ethernet"), extract("tag")])]
    document["deparsers"][0]["order"] = ["ethernet", "tag"]
    run = TestRun(always(document, primitive("remove_header", {"type": "header", "value": "tag"})))
    payload = bytes(i % 251 for i in range(size))
    assert run(frame(kind) + b"\1\2\3\4\5" + payload) == (3, frame(kind) + payload)


def test_a_header_is_removed_in_front_of_what_looks_like_ip() -> None:
    """What is left is shorter than the Ethernet header that the kernel sees."""
    document = small()
    add_header(document, "tag", a=64)
    document["parsers"][0]["parse_states"] = [state("start", [extract("tag")])]
    document["deparsers"][0]["order"] = ["tag"]
    run = TestRun(always(document, primitive("remove_header", {"type": "header", "value": "tag"})))
    packet = bytes(range(12)) + b"\x08\0" + bytes(range(100))
    assert run(packet) == (3, packet[8:])


@pytest.mark.parametrize("kind", [0x0800, 0x88B5], ids=["ip", "not-ip"])
def test_a_header_is_added_and_filled(kind: int) -> None:
    document = small()
    add_header(document, "tag", a=3, b=13, c=64)
    document["deparsers"][0]["order"] = ["tag", "ethernet"]
    run = TestRun(
        always(
            document,
            primitive("add_header", {"type": "header", "value": "tag"}),
            primitive("assign", field("tag", "a"), const(0b101)),
            primitive("assign", field("tag", "b"), op("+", field("ethernet", "kind"), const(1))),
            primitive("assign", field("tag", "c"), const(0x0102030405060708)),
        )
    )
    tag = (0b101 << 13 | (kind + 1) & 0x1FFF).to_bytes(2, "big") + bytes(range(1, 9))
    assert run(frame(kind) + PAYLOAD) == (3, tag + frame(kind) + PAYLOAD)


def test_headers_leave_in_the_deparsers_order() -> None:
    document = small()
    add_header(document, "tag", a=16)
    document["parsers"][0]["parse_states"] = [state("start", [extract("tag"), extract("ethernet")])]
    document["deparsers"][0]["order"] = ["ethernet", "tag"]
    run = TestRun(always(document))
    assert run(b"\1\2" + frame(7) + PAYLOAD) == (3, frame(7) + b"\1\2" + PAYLOAD)


def test_short_packets_keep_what_was_not_parsed() -> None:
    document = small()
    add_header(document, "long", a=64, b=64, c=64)
    ops = [extract("ethernet"), extract("long")]
    document["parsers"][0]["parse_states"] = [state("start", ops)]
    document["deparsers"][0]["order"] = ["ethernet", "long"]
    error = primitive(
        "assign", field("ethernet", "kind"), field("standard_metadata", "parser_error")
    )
    run = TestRun(always(document, error))
    assert run(frame(7) + b"short") == (3, frame(1) + b"short")  # 1: PacketTooShort


def test_lookahead_masks_verify_and_advance() -> None:
    document = small()
    ahead = {"type": "lookahead", "value": [4, 12]}
    document["parsers"][0]["parse_states"] = [
        state(
            "start",
            [extract("ethernet")],
            transition_key=[ahead],
            transitions=[
                {"type": "hexstr", "value": "0x0a00", "mask": "0x0f00", "next_state": "skip"},
                {"type": "hexstr", "value": "0x0bcd", "mask": None, "next_state": "check"},
                {"type": "default", "value": None, "mask": None, "next_state": None},
            ],
        ),
        state("skip", [{"op": "advance", "parameters": [const(16)]}]),
        state(
            "check",
            [
                {
                    "op": "verify",
                    "parameters": [op("==", field("ethernet", "kind"), const(7)), const(2)],
                }
            ],
        ),
    ]
    error = primitive(
        "assign", field("ethernet", "kind"), field("standard_metadata", "parser_error")
    )
    run = TestRun(always(document, error))
    assert run(frame(7) + b"\x1a\xff" + PAYLOAD) == (3, frame(0) + PAYLOAD)
    assert run(frame(7) + b"\x1b\xcd" + PAYLOAD) == (3, frame(0) + b"\x1b\xcd" + PAYLOAD)
    assert run(frame(8) + b"\x1b\xcd" + PAYLOAD) == (3, frame(2) + b"\x1b\xcd" + PAYLOAD)
    assert run(frame(8) + b"\x1c\xcd" + PAYLOAD) == (3, frame(0) + b"\x1c\xcd" + PAYLOAD)


# --- fields wider than a register -----------------------------------------------------------------
def wide_document(match: str) -> dict[str, Any]:
    """A 128-bit address behind Ethernet: matched on, and replaced by the action's parameter."""
    document = small()
    add_header(document, "ip", flow=20, next=4, source=128, destination=128)
    ops = [extract("ethernet"), extract("ip")]
    document["parsers"][0]["parse_states"] = [state("start", ops)]
    document["deparsers"][0]["order"] = ["ethernet", "ip"]
    document["actions"] = [
        action(0, "NoAction", primitive("mark_to_drop")),
        action(
            1,
            "rewrite",
            primitive("assign", field("standard_metadata", "egress_spec"), parameter(0)),
            primitive("assign", field("ip", "source"), parameter(1)),
            parameters={"port": 9, "address": 128},
        ),
    ]
    document["pipelines"][0]["tables"][0].update(
        key=[key(match, "ip", "destination"), key("exact", "ip", "next")],
        match_type=match,
        actions=["NoAction", "rewrite"],
        next_tables={"NoAction": None, "rewrite": None},
    )
    return document


def parameter(index: int) -> dict[str, Any]:
    return {"type": "runtime_data", "value": index}


def ip(source: int, destination: int) -> bytes:
    start = (0xABCDE << 4 | 5).to_bytes(3, "big")
    return frame(7) + start + source.to_bytes(16, "big") + destination.to_bytes(16, "big")


NET = 0x20010DB8 << 96


@pytest.mark.parametrize(
    ("match", "entries"),
    [
        ("exact", [(entry(NET | 1, 5), 1), (entry(NET | 1 << 64 | 1, 5), 2)]),
        ("lpm", [(entry((NET, 32), 5), 1), (entry((NET | 1 << 64, 70), 5), 2)]),
        (
            "ternary",
            [
                (entry((NET, 0xFFFFFFFF << 96), 5, priority=1), 1),
                (entry((1 << 64, 0xFF << 64), 5, priority=2), 2),
            ],
        ),
    ],
)
def test_wide_keys_and_parameters(match: str, entries: list[tuple[Key, int]]) -> None:
    run = TestRun(wide_document(match))
    new = 0xFD00 << 112 | 0x1122334455667788
    store = run.dataplane.tables[TABLE]
    for found, port in entries:
        store.insert(found, Call(SEND, (port, new + port)))
    for destination, port in ((NET | 1, 1), (NET | 1 << 64 | 1, 2)):
        assert run(ip(3, destination) + PAYLOAD) == (port, ip(new + port, destination) + PAYLOAD)
    assert run(ip(3, NET + (1 << 96) | 1) + PAYLOAD) is None
    store.delete(entries[1][0])
    assert run(ip(3, NET | 2 << 64 | 1) + PAYLOAD) == (
        None if match == "exact" else (1, ip(new + 1, NET | 2 << 64 | 1) + PAYLOAD)
    )


def test_a_wide_argument_of_a_default_action() -> None:
    document = wide_document("exact")
    document["pipelines"][0]["tables"][0]["default_entry"] = {
        "action_id": 1, "action_entry_const": True, "action_data": ["0x4", hex(NET | 9)],
    }  # fmt: skip
    run = TestRun(document)
    assert run(ip(3, 4) + PAYLOAD) == (4, ip(NET | 9, 4) + PAYLOAD)


def test_wide_arithmetic() -> None:
    """Comparison, slice, a shift by a field, and a sum over the middle."""
    document = wide_document("exact")
    source, destination = field("ip", "source"), field("ip", "destination")
    every = {"type": "hexstr", "value": hex((1 << 128) - 1)}
    run = TestRun(
        always(
            document,
            primitive("_jump_if_zero", op("<", source, destination), const(4)),
            primitive("assign", field("ethernet", "kind"),
                      op("&", op(">>", destination, const(112)), const(0xFFFF))),
            primitive("assign", source, op("&", op("+", source, destination), every)),
            primitive("assign", destination,
                      op("&", op("<<", destination, field("ip", "next")), every)),
        )
    )  # fmt: skip
    a, b = (1 << 64) - 1, NET | 1
    changed = frame(0x2001) + ip(a + b, b << 5 & (1 << 128) - 1)[14:]
    assert run(ip(a, b) + PAYLOAD) == (3, changed + PAYLOAD)
    assert run(ip(b, a) + PAYLOAD) == (3, ip(b, a << 5) + PAYLOAD)


def test_checksum_and_hash_over_wide_fields() -> None:
    document = wide_document("exact")
    inputs = [field("ip", "source"), field("ip", "destination")]
    document["calculations"] = [
        {"name": "sum", "id": 0, "algo": "csum16", "input": inputs},
        {"name": "hash", "id": 1, "algo": "crc32", "input": inputs},
    ]
    document["checksums"] = [
        {
            "name": "set", "id": 0, "type": "generic", "target": ["ethernet", "kind"],
            "calculation": "sum", "if_cond": None, "update": True, "verify": False,
        }
    ]  # fmt: skip
    calculation = {"type": "calculation", "value": "hash"}
    run = TestRun(
        always(
            document,
            primitive(
                "modify_field_with_hash_based_offset",
                field("ip", "flow"), const(0), calculation, const(1 << 20),
            ),
        )
    )  # fmt: skip
    packet = ip(NET | 0x1122334455667788, (1 << 128) - 1)
    words = packet[-32:]
    start = ((zlib.crc32(words) & 0xFFFFF) << 4 | 5).to_bytes(3, "big")
    assert run(packet + PAYLOAD) == (3, frame(ones_complement(words)) + start + words + PAYLOAD)


# --- hashes and checksums -------------------------------------------------------------------------
def ones_complement(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc16_arc(data: bytes) -> int:
    """CRC-16/ARC bit by bit; the standard library has only CCITT's."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("crc32", zlib.crc32),
        ("crc16", crc16_arc),
        ("csum16", ones_complement),
    ],
)
def test_hash(algorithm: str, expected: Any) -> None:
    document = small()
    document["calculations"] = [
        {
            "name": "hash",
            "id": 0,
            "algo": algorithm,
            "input": [field("ethernet", "source"), field("ethernet", "destination")],
        }
    ]
    calculation = {"type": "calculation", "value": "hash"}
    run = TestRun(
        always(
            document,
            primitive(
                "modify_field_with_hash_based_offset",
                field("ethernet", "kind"), const(1000), calculation, const(60000),
            ),
        )
    )  # fmt: skip
    for source in (0, 1, 0xFFFFFFFFFFFF, 0x123456789ABC):
        data = source.to_bytes(6, "big") + frame(0)[:6]
        value = 1000 + expected(data) % 60000
        assert run(frame(0, source) + PAYLOAD) == (3, frame(value & 0xFFFF, source) + PAYLOAD)


def test_checksum_is_verified_and_updated() -> None:
    document = small()
    document["calculations"] = [
        {
            "name": "sum",
            "id": 0,
            "algo": "csum16",
            "input": [field("ethernet", "destination"), field("ethernet", "source")],
        }
    ]
    document["checksums"] = [
        {
            "name": name, "id": number, "type": "generic", "target": ["ethernet", "kind"],
            "calculation": "sum", "if_cond": None, "update": update, "verify": not update,
        }
        for number, (name, update) in enumerate((("check", False), ("set", True)))
    ]  # fmt: skip
    wrong = field("standard_metadata", "checksum_error")
    mark = primitive("assign", field("ethernet", "source"), op("+", wrong, const(0x100)))
    run = TestRun(always(document, mark))
    right = ones_complement(frame(0)[:12])
    for kind, error in ((right, 0), (right ^ 1, 1)):
        left = run(frame(kind) + PAYLOAD)
        changed = frame(0, 0x100 + error)[:12]
        assert left == (3, changed + ones_complement(changed).to_bytes(2, "big") + PAYLOAD)


def test_checksum_of_an_added_header_sums_the_payload() -> None:
    document = small()
    add_header(document, "udp", ports=32, length=16, checksum=16)
    document["deparsers"][0]["order"] = ["ethernet", "udp"]
    document["calculations"] = [
        {
            "name": "sum",
            "id": 0,
            "algo": "csum16",
            "input": [field("udp", "ports"), {"type": "payload", "value": None}],
        }
    ]
    document["checksums"] = [
        {
            "name": "set", "id": 0, "type": "generic", "target": ["udp", "checksum"],
            "calculation": "sum", "if_cond": None, "update": True, "verify": False,
        }
    ]  # fmt: skip
    run = TestRun(always(document, primitive("add_header", {"type": "header", "value": "udp"})))
    for payload in (PAYLOAD, PAYLOAD[:-1], b""):
        left = run(frame(7) + payload)
        assert left is not None
        checksum = int.from_bytes(left[1][20:22], "big")
        assert checksum == ones_complement(payload + bytes(len(payload) % 2))
        assert left == (3, frame(7) + bytes(6) + left[1][20:22] + payload)


def test_a_port_that_is_not_there() -> None:
    document = small()
    run = TestRun(always(document), ports=2)
    assert run(frame(7) + PAYLOAD) is None
    assert run.only_drop() == "no_port"


def test_reference_crc16() -> None:
    assert crc16_arc(b"123456789") == 0xBB3D
    assert binascii.crc32(b"123456789") == 0xCBF43926
