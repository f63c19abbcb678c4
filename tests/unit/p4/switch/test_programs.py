# SPDX-License-Identifier: Apache-2.0
"""Whole programs: what is read, what is refused and how that is said, what clang takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.clang import compile_c
from flowferry_p4.switch.compiler import CompiledProgram, compile_program
from flowferry_p4.switch.compiler.checksums import CRC_POLYNOMIALS, crc_table
from flowferry_p4.switch.errors import BadProgram, CompileFailed, Refused, ToolMissing
from flowferry_p4.switch.model import Const, Transition

from tests.unit.p4.switch.small_program import (
    action,
    const,
    extract,
    field,
    key,
    op,
    primitive,
    small,
    source,
    state,
    table,
)

Spoil = Callable[[dict[str, Any]], None]
COMPILED = Path(__file__).resolve().parents[4] / "p4" / "compiled" / "flowferry.json"


def build(document: dict[str, Any]) -> CompiledProgram:
    return compile_program(load(json.dumps(document)), 510)


def test_the_small_program_compiles() -> None:
    assert compile_c(build(small()).source)


def test_the_project_program_compiles() -> None:
    compiled = compile_program(load(COMPILED.read_bytes()), 510)
    assert compile_c(compiled.source)
    assert {"ingress.route", "ingress.backend", "ingress.hold_to"} <= set(compiled.tables)


def test_source_is_deterministic() -> None:
    assert build(small()).source == build(small()).source


# --- refusals -------------------------------------------------------------------------------------
def _wide(d: dict[str, Any]) -> None:
    d["header_types"][0]["fields"][0][1] = 136


def _varbit(d: dict[str, Any]) -> None:
    d["header_types"][0]["fields"][2][1] = "*"


def _union(d: dict[str, Any]) -> None:
    d["header_union_types"] = [{"name": "ip_u", "id": 0, "headers": []}]


def _used_union(d: dict[str, Any]) -> None:
    """As p4c writes it: neither the type nor what the parser does has a line."""
    d["header_union_types"] = [{"name": "ip_u", "id": 0, "headers": [["v4", "ethernet_t"]]}]
    d["header_unions"] = [
        {"name": "ip", "id": 0, "union_type": "ip_u", "header_ids": [2], "pi_omit": True}
    ]
    d["headers"].append(
        {"name": "ip.v4", "id": 2, "header_type": "ethernet_t", "metadata": False, "pi_omit": True}
    )
    d["actions"][1]["primitives"].append(
        primitive("remove_header", {"type": "header", "value": "ip.v4"}, line=33)
    )


def _two_prefixes(d: dict[str, Any]) -> None:
    d["pipelines"][0]["tables"][0]["key"] = [
        key("lpm", "ethernet", "source"), key("lpm", "ethernet", "destination"),
    ]  # fmt: skip


def _large_ternary(d: dict[str, Any]) -> None:
    d["pipelines"][0]["tables"][0].update(
        key=[key("ternary", "ethernet", "source")], match_type="ternary", max_size=5000
    )


def _match_kind(d: dict[str, Any]) -> None:
    d["pipelines"][0]["tables"][0]["key"] = [key("selector", "ethernet", "source")]


def _primitive(name: str, *parameters: dict[str, Any]) -> Spoil:
    def spoil(d: dict[str, Any]) -> None:
        d["actions"][1]["primitives"] = [primitive(name, *parameters)]

    return spoil


def _loop(d: dict[str, Any]) -> None:
    states = d["parsers"][0]["parse_states"]
    states[0]["transitions"][0]["next_state"] = "start"


def _jump_back(d: dict[str, Any]) -> None:
    d["actions"][1]["primitives"] = [primitive("_jump", const(0))]


def _checksum(algorithm: str, *inputs: dict[str, Any], **more: Any) -> Spoil:
    def spoil(d: dict[str, Any]) -> None:
        d["calculations"] = [
            {"name": "sum", "id": 0, "algo": algorithm, "input": list(inputs),
             "source_info": source(40)},
        ]  # fmt: skip
        d["checksums"] = [
            {"name": "c", "id": 0, "type": "generic", "target": ["ethernet", "kind"],
             "calculation": "sum", "if_cond": None, "source_info": source(41), "update": True,
             "verify": False, **more},
        ]  # fmt: skip

    return spoil


def _payload_change(d: dict[str, Any]) -> None:
    """A header behind the checksummed one is part of what its checksum covers."""
    d["header_types"].append({"name": "inner_t", "id": 2, "fields": [["x", 8, False]]})
    d["headers"].append({"name": "inner", "id": 2, "header_type": "inner_t", "metadata": False})
    d["parsers"][0]["parse_states"][0]["parser_ops"].append(extract("inner"))
    d["deparsers"][0]["order"].append("inner")
    d["actions"][1]["primitives"].append(primitive("assign", field("inner", "x"), const(1)))
    _checksum("csum16", field("ethernet", "source"), {"type": "payload"})(d)


REFUSALS: list[tuple[Spoil, str]] = [
    (_wide, "field ethernet_t.destination of 136 bits; fields may have up to 128 bits"),
    (_varbit, "varbit field ethernet_t.kind"),
    (_union, "header union ip_u"),
    (_used_union, "small.p4:33: the embedded switch does not support header union ip_u in "
                  "'remove_header'"),
    (_two_prefixes, "small.p4:20: the embedded switch does not support table ingress.forward with "
                    "two lpm keys"),
    (_large_ternary, "table ingress.forward with 5000 ternary entries"),
    (_match_kind, "match kind selector"),
    (_primitive("brew_coffee"), "small.p4:7: the embedded switch does not support brew_coffee"),
    (_primitive("assign", {"type": "stack_field", "value": ["vlan", "id"]}, const(1)),
     "assign to something that is not a field"),
    (_loop, "a loop in the parser through state start"),
    (_jump_back, "a loop in action send"),
    (_checksum("crc16", field("ethernet", "source")),
     "small.p4:41: the embedded switch does not support a checksum by crc16"),
    (_payload_change, "changing header inner, which the payload checksum of ethernet covers"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), REFUSALS, ids=lambda x: getattr(x, "__name__", ""))
def test_refused_by_name(spoil: Spoil, message: str) -> None:
    document = small()
    spoil(document)
    with pytest.raises(Refused) as caught:
        build(document)
    assert message in str(caught.value)


def _no_metadata(d: dict[str, Any]) -> None:
    d["headers"][1]["name"] = "other_metadata"
    d["actions"][1]["primitives"] = []


def _old(d: dict[str, Any]) -> None:
    d["__meta__"]["version"] = [1, 0]


def _unaligned(d: dict[str, Any]) -> None:
    d["header_types"][0]["fields"][2][1] = 15


def _unknown_field(d: dict[str, Any]) -> None:
    d["pipelines"][0]["tables"][0]["key"] = [key("exact", "ethernet", "colour")]


def _unknown_header(d: dict[str, Any]) -> None:
    d["deparsers"][0]["order"] = ["tcp"]


def _no_actions(d: dict[str, Any]) -> None:
    del d["actions"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_metadata, "no standard_metadata; compile it for v1model"),
        (_old, "BMv2 JSON version 1.0 is unknown"),
        (_unaligned, "header ethernet is 111 bits, not whole bytes"),
        (_unknown_field, "header ethernet has no field colour"),
        (_unknown_header, "names header tcp but does not declare it"),
        (_no_actions, "lacks or garbles KeyError('actions')"),
    ],
)
def test_broken_documents(spoil: Spoil, message: str) -> None:
    document = small()
    spoil(document)
    with pytest.raises(BadProgram) as caught:
        build(document)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "not json", "[1]"])
def test_not_bmv2_json(text: str) -> None:
    with pytest.raises(BadProgram, match="the device configuration is not"):
        load(text)


def test_clang_rejections_keep_the_source() -> None:
    with pytest.raises(CompileFailed) as caught:
        compile_c("int broken(")
    path = Path(str(caught.value).split("program ")[1].split(":")[0])
    assert path.read_text() == "int broken("
    path.unlink()


def test_without_clang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="apt-get install clang"):
        compile_c("")


# --- what is read right ---------------------------------------------------------------------------
def test_transition_values_are_split() -> None:
    """A 12-bit and a 2-bit key are padded to three bytes in the JSON."""
    document = small()
    document["header_types"][0]["fields"] = [["a", 12, False], ["b", 2, False], ["c", 2, False]]
    document["pipelines"][0]["tables"][0]["key"] = []
    document["parsers"][0]["parse_states"] = [
        state(
            "start",
            [extract("ethernet")],
            transition_key=[field("ethernet", "a"), field("ethernet", "b")],
            transitions=[
                {"type": "hexstr", "value": "0x0aba03", "mask": "0x0fff01", "next_state": None}
            ],
        )
    ]
    program = load(json.dumps(document))
    (transition,) = program.parser.states["start"].transitions
    assert transition == Transition((0xABA, 3), (0xFFF, 1), None)


def test_hexstr_may_be_negative() -> None:
    document = small()
    document["actions"][1]["primitives"] = [
        primitive("assign", field("ethernet", "kind"), {"type": "hexstr", "value": "-0x1"})
    ]
    program = load(json.dumps(document))
    assert program.actions[1].primitives[0].arguments[1] == Const(-1)
    assert compile_c(build(document).source)


def test_many_constructs_compile() -> None:
    """Jumps, exit, random, log, header copies, conditionals, hit and miss, constant defaults."""
    document = small()
    document["header_types"].append(
        {"name": "tag_t", "id": 2, "fields": [["a", 3, False], ["b", 13, False]]}
    )
    for number, name in enumerate(("tag", "copy"), start=2):
        document["headers"].append(
            {"name": name, "id": number, "header_type": "tag_t", "metadata": False}
        )
    document["deparsers"][0]["order"] += ["tag", "copy"]
    text, values = {"type": "string", "value": "x"}, {"type": "parameters_vector", "value": []}
    tag, copy = ({"type": "header", "value": n} for n in ("tag", "copy"))
    document["counter_arrays"] = [{"name": "ingress.seen", "id": 0, "size": 4, "is_direct": False}]
    document["actions"] += [
        action(
            2,
            "everything",
            primitive("_jump_if_zero", op("d2b", None, field("ethernet", "kind")), const(3)),
            primitive("add_header", tag),
            primitive("_jump", const(4)),
            primitive("remove_header", tag),
            primitive("assign_header", copy, tag),
            primitive("count", {"type": "counter_array", "value": "ingress.seen"}, const(1)),
            primitive("modify_field_rng_uniform", field("tag", "b"), const(1), const(9)),
            primitive("log_msg", text, values),
            primitive("mark_to_drop", {"type": "header", "value": "standard_metadata"}),
            primitive("exit"),
        )
    ]  # fmt: skip
    ingress = document["pipelines"][0]
    ingress["init_table"] = "node_2"
    ingress["conditionals"] = [
        {
            "name": "node_2",
            "id": 0,
            "source_info": source(50),
            "expression": op("==", field("ethernet", "$valid$"), const(1)),
            "true_next": "ingress.forward",
            "false_next": None,
        }
    ]
    ingress["tables"][0]["next_tables"] = {"__HIT__": "ingress.fixed", "__MISS__": None}
    fixed = table("ingress.fixed", [], {"everything": 2})
    fixed["default_entry"]["action_entry_const"] = True
    ingress["tables"].append(fixed)
    assert compile_c(build(document).source)


def test_crc_tables() -> None:
    """Check values of the catalogue: CRC-32/ISO-HDLC and CRC-16/ARC of "123456789"."""
    for name, start, last, expected in (
        ("crc32", 0xFFFFFFFF, 0xFFFFFFFF, 0xCBF43926),
        ("crc16", 0, 0, 0xBB3D),
    ):
        crc = start
        lookup = crc_table(CRC_POLYNOMIALS[name])
        for byte in b"123456789":
            crc = (crc >> 8) ^ lookup[(crc ^ byte) & 0xFF]
        assert crc ^ last == expected
