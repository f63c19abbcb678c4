# SPDX-License-Identifier: Apache-2.0
"""P4Info beside the program: byte strings, packet headers, disagreement."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from finsy.proto import p4i, p4r
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.errors import BadProgram
from flowferry_p4.switch.model import Program
from flowferry_p4.switch.rpc_errors import RpcFailure
from flowferry_p4.switch.schema import Schema, canonical, parse_bytes
from google.protobuf import text_format

COMPILED = Path(__file__).resolve().parents[4] / "p4" / "compiled"


@pytest.fixture(scope="module")
def program() -> Program:
    return load((COMPILED / "flowferry.json").read_bytes())


@pytest.fixture
def p4info() -> p4i.P4Info:
    text = (COMPILED / "flowferry.p4info.txtpb").read_text()
    return text_format.Parse(text, p4i.P4Info())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, b"\0"), (1, b"\1"), (255, b"\xff"), (256, b"\1\0"), (0x0A000001, b"\x0a\0\0\1")],
)
def test_canonical(value: int, expected: bytes) -> None:
    assert canonical(value) == expected
    assert parse_bytes(expected, 32, "x") == value
    assert parse_bytes(b"\0\0" + expected, 32, "x") == value, "leading zeros are accepted"


@pytest.mark.parametrize(
    ("data", "width", "code", "message"),
    [
        (b"", 8, grpc.StatusCode.OUT_OF_RANGE, "x has an empty value"),
        (b"\2\0", 9, grpc.StatusCode.OUT_OF_RANGE, "x: 0x200 does not fit in 9 bits"),
    ],
)
def test_bad_bytes(data: bytes, width: int, code: grpc.StatusCode, message: str) -> None:
    with pytest.raises(RpcFailure) as caught:
        parse_bytes(data, width, "x")
    assert (caught.value.code, caught.value.message) == (code, message)


def test_packet_headers(program: Program, p4info: p4i.P4Info) -> None:
    schema = Schema(p4info, program)
    assert schema.packet_in is not None and schema.packet_out is not None
    decoded = schema.packet_in.decode(bytes([0b11111111, 0b00000010]))
    assert {m.metadata_id: m.value for m in decoded} == {1: b"\x01\xfe", 2: b"\2"}
    metadata = [
        p4r.PacketMetadata(metadata_id=1, value=b"\1\xfe"),
        p4r.PacketMetadata(metadata_id=2, value=b"\1"),
    ]
    assert schema.packet_out.encode(metadata) == bytes([0b11111111, 0b01000000])
    with pytest.raises(RpcFailure, match="lacks metadata: past_hold"):
        schema.packet_out.encode(metadata[:1])
    unknown = p4r.PacketMetadata(metadata_id=77, value=b"\1")
    with pytest.raises(RpcFailure, match="has no metadata 77"):
        schema.packet_out.encode([*metadata, unknown])


def _table(p4info: p4i.P4Info) -> None:
    p4info.tables[0].preamble.name = "ingress.nowhere"


def _width(p4info: p4i.P4Info) -> None:
    p4info.tables[0].match_fields[0].bitwidth += 1


def _kind(p4info: p4i.P4Info) -> None:
    p4info.tables[0].match_fields[0].match_type = p4i.MatchField.TERNARY


def _action(p4info: p4i.P4Info) -> None:
    for action in p4info.actions:
        if action.preamble.alias == "forward":
            action.preamble.name = "ingress.backward"


def _counter(p4info: p4i.P4Info) -> None:
    p4info.counters[0].preamble.name = "ingress.lost"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_table, "the BMv2 JSON has no table ingress.nowhere"),
        (_width, "disagree on the key of table"),
        (_kind, "they are not from the same compilation"),
        (_action, "table ingress.route has no action ingress.backward"),
        (_counter, "the BMv2 JSON has no counter ingress.lost"),
    ],
)
def test_disagreement(program: Program, p4info: p4i.P4Info, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    spoil(p4info)
    with pytest.raises(BadProgram) as caught:
        Schema(p4info, program)
    assert message in str(caught.value)
