# SPDX-License-Identifier: Apache-2.0
"""A BMv2 JSON document small enough to read, which tests then spoil or extend."""

from __future__ import annotations

from typing import Any

STANDARD_METADATA = [
    ["ingress_port", 9, False],
    ["egress_spec", 9, False],
    ["egress_port", 9, False],
    ["packet_length", 32, False],
    ["enq_timestamp", 32, False],
    ["mcast_grp", 16, False],
    ["parser_error", 32, False],
    ["checksum_error", 1, False],
    ["_padding", 5, False],
]


def source(line: int, fragment: str = "") -> dict[str, Any]:
    return {"filename": "small.p4", "line": line, "column": 1, "source_fragment": fragment}


def field(header: str, name: str) -> dict[str, Any]:
    return {"type": "field", "value": [header, name]}


def const(value: int) -> dict[str, Any]:
    return {"type": "hexstr", "value": hex(value)}


def op(name: str, left: dict[str, Any] | None, right: dict[str, Any]) -> dict[str, Any]:
    return {"type": "expression", "value": {"op": name, "left": left, "right": right}}


def primitive(name: str, *parameters: dict[str, Any], line: int = 7) -> dict[str, Any]:
    return {"op": name, "parameters": list(parameters), "source_info": source(line, name)}


def action(
    number: int, name: str, *primitives: dict[str, Any], parameters: dict[str, int] | None = None
) -> dict[str, Any]:
    runtime = [{"name": n, "bitwidth": w} for n, w in (parameters or {}).items()]
    return {"name": name, "id": number, "runtime_data": runtime, "primitives": list(primitives)}


def key(match: str, header: str, name: str) -> dict[str, Any]:
    return {"match_type": match, "target": [header, name], "mask": None, "name": name}


def table(
    name: str, keys: list[dict[str, Any]], actions: dict[str, int], **more: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "id": 0,
        "source_info": source(20, name),
        "key": keys,
        "match_type": "exact",
        "type": "simple",
        "max_size": 16,
        "with_counters": False,
        "support_timeout": False,
        "direct_meters": None,
        "actions": list(actions),
        "action_ids": list(actions.values()),
        "base_default_next": None,
        "next_tables": dict.fromkeys(actions),
        "default_entry": {
            "action_id": next(iter(actions.values())),
            "action_const": False,
            "action_data": [],
            "action_entry_const": False,
        },
        **more,
    }


def state(name: str, ops: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    default = {"type": "default", "value": None, "mask": None, "next_state": None}
    return {
        "name": name,
        "id": 0,
        "parser_ops": ops,
        "transition_key": [],
        "transitions": [default],
        **more,
    }


def extract(header: str) -> dict[str, Any]:
    return {"op": "extract", "parameters": [{"type": "regular", "value": header}]}


def small() -> dict[str, Any]:
    """Ethernet in, one exact table that names a port, Ethernet out."""
    send = primitive("assign", field("standard_metadata", "egress_spec"), {
        "type": "runtime_data", "value": 0,
    })  # fmt: skip
    return {
        "program": "small.p4",
        "__meta__": {"version": [2, 23]},
        "header_types": [
            {"name": "ethernet_t", "id": 0, "fields": [
                ["destination", 48, False], ["source", 48, False], ["kind", 16, False],
            ]},
            {"name": "standard_metadata", "id": 1, "fields": STANDARD_METADATA},
        ],
        "headers": [
            {"name": "ethernet", "id": 0, "header_type": "ethernet_t", "metadata": False},
            {"name": "standard_metadata", "id": 1, "header_type": "standard_metadata",
             "metadata": True},
        ],
        "header_stacks": [],
        "errors": [["NoError", 0], ["PacketTooShort", 1], ["NoMatch", 2]],
        "parsers": [{"name": "parser", "id": 0, "init_state": "start",
                     "parse_states": [state("start", [extract("ethernet")])]}],
        "parse_vsets": [],
        "deparsers": [{"name": "deparser", "id": 0, "order": ["ethernet"]}],
        "meter_arrays": [],
        "counter_arrays": [],
        "register_arrays": [],
        "calculations": [],
        "learn_lists": [],
        "actions": [
            action(0, "NoAction"),
            action(1, "send", send, parameters={"port": 9}),
        ],
        "pipelines": [
            {"name": "ingress", "id": 0, "init_table": "ingress.forward", "action_profiles": [],
             "conditionals": [],
             "tables": [table("ingress.forward", [key("exact", "ethernet", "destination")],
                              {"NoAction": 0, "send": 1})]},
            {"name": "egress", "id": 1, "init_table": None, "action_profiles": [],
             "conditionals": [], "tables": []},
        ],
        "checksums": [],
        "extern_instances": [],
    }  # fmt: skip
