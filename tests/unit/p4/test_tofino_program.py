# SPDX-License-Identifier: Apache-2.0
"""The program for Tofino has the tables and actions of the other one, so clients see no difference.

It compares the sources: p4info for Tofino comes from p4c's backend for it alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
