# SPDX-License-Identifier: Apache-2.0
"""The program for Tofino has the tables and actions of the other one, so clients see no difference.

It compares the sources, and what the compilers have made of them for clients.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finsy.proto import p4i
from flowferry_p4.client import Entry
from flowferry_p4.client.schema import Schema
from google.protobuf import text_format

P4 = Path(__file__).resolve().parents[3] / "p4"

Signature = tuple[tuple[str, str], ...]


def source(folder: str) -> str:
    text = "".join(
        (P4 / folder / name).read_text(encoding="utf-8") for name in ("ingress.p4", "flows.p4")
    )
    return re.sub(r"//.*", "", text)


def actions(text: str) -> dict[str, Signature]:
    """Parameters, as type and name, of what tables offer."""
    offered = {name for _, names in tables(text).values() for name in names}
    found: dict[str, Signature] = {}
    for name, parameters in re.findall(r"action (\w+)\(([^)]*)\)", text):
        if name in offered:
            found[name] = tuple(re.findall(r"(\S+)\s+(\w+)(?:,|$)", parameters.strip()))
    return found


def tables(text: str) -> dict[str, tuple[list[tuple[str, str]], list[str]]]:
    """The name and the kind of each key, and the actions, of each table."""
    found = {}
    for name, body in re.findall(r"table (\w+) \{(.*?)\n    \}", text, re.DOTALL):
        keys = [(key, kind) for kind, key in re.findall(r':\s+(\w+)\s+@name\("(\w+)"\)', body)]
        listed = re.search(r"actions = \{(.*?)\}", body, re.DOTALL)
        assert keys and listed, f"table {name} is not read"
        found[name] = keys, re.findall(r"(?:@defaultonly )?(\w+);", listed[1])
    return found


SOFTWARE, TOFINO = source("program"), source("tofino")


def test_the_sources_are_read() -> None:
    assert len(tables(SOFTWARE)) == 20
    assert tables(SOFTWARE)["member"] == (
        [("service_id", "exact"), ("backend_id", "exact")],
        ["keep_flows", "keep_clients", "NoAction"],
    )
    assert actions(SOFTWARE)["translate"] == (
        ("ipv4_address_t", "address"),
        ("transport_port_t", "port"),
    )


def test_tables_keys_and_actions_are_the_same() -> None:
    assert tables(TOFINO) == tables(SOFTWARE)


def test_parameters_of_actions_are_the_same() -> None:
    assert actions(TOFINO) == actions(SOFTWARE)


@pytest.mark.parametrize("file", ["constants.p4", "headers.p4"])
def test_numbers_and_headers_are_the_same_files(file: str) -> None:
    """Reasons, ports and the headers in front of packets for the controller."""
    main = (P4 / "tofino/flowferry.p4").read_text(encoding="utf-8")
    assert f'#include "../program/{file}"' in main


def compiled(name: str) -> p4i.P4Info:
    return text_format.Parse((P4 / "compiled" / name).read_text(encoding="utf-8"), p4i.P4Info())


def without_ids(info: p4i.P4Info) -> dict[str, Any]:
    """Tables, actions and the controller's headers by their short names; ids are hashes of long
    ones, which begin with the name of the pipeline on Tofino."""
    actions = {action.preamble.id: action for action in info.actions}
    return {
        "tables": {
            table.preamble.alias: (
                [(f.id, f.name, f.bitwidth, f.match_type) for f in table.match_fields],
                [(actions[ref.id].preamble.alias, ref.scope) for ref in table.action_refs],
            )
            for table in info.tables
        },
        "actions": {
            action.preamble.alias: [(p.id, p.name, p.bitwidth) for p in action.params]
            for action in info.actions
        },
        "headers": {
            header.preamble.alias: [(m.id, m.name, m.bitwidth) for m in header.metadata]
            for header in info.controller_packet_metadata
        },
    }


def sizes(info: p4i.P4Info) -> dict[str, int]:
    return {table.preamble.alias: table.size for table in info.tables}


def test_the_compiled_p4info_is_the_same_but_for_ids() -> None:
    software, tofino = (compiled(f"{part}flowferry.p4info.txtpb") for part in ("", "tofino2/"))
    assert len(without_ids(software)["tables"]) == len(software.tables) == 20
    assert without_ids(tofino) == without_ids(software)
    # Of ternary entries a stage of the chip has room for few.
    differ = dict(sizes(tofino).items() - sizes(software).items())
    assert differ == {"route": 4096, "route_ipv6": 2048}


def test_clients_find_the_tables_by_the_same_names() -> None:
    schemas = [Schema(compiled(f"{part}flowferry.p4info.txtpb")) for part in ("", "tofino2/")]
    assert schemas[0].tables.keys() == schemas[1].tables.keys()
    entry = Entry("hold_to", {"address": "198.19.0.100"}, "buffer")
    decoded = [schema.decode_entry(schema.encode_entry(entry)) for schema in schemas]
    assert decoded[0] == decoded[1]


def test_the_compiled_p4info_is_fresh(tmp_path: Path) -> None:
    script = [sys.executable, str(P4 / "compile_tofino.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0
    for part in ("tofino", "program", "compiled"):
        shutil.copytree(P4 / part, tmp_path / part)
    for name in ("compile.py", "compile_tofino.py"):
        shutil.copy(P4 / name, tmp_path)
    with (tmp_path / "tofino" / "cells.p4").open("a", encoding="utf-8") as file:
        file.write("// changed\n")
    script[1] = str(tmp_path / "compile_tofino.py")
    ended = subprocess.run(script, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "tofino/cells.p4 changed since it was compiled" in ended.stderr
