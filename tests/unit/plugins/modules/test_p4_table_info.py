# SPDX-License-Identifier: Apache-2.0
"""p4_table_info: what it tells of tables, entries and counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fake_server import FakeSwitch
from flowferry_p4.client import Entry, Session, Update

RunModule = Callable[..., dict[str, Any]]

PARAMS = {"port": 1, "source_mac": "02:ff:00:00:00:01", "destination_mac": "02:ff:00:00:00:0b"}
ROUTE = {"table": "route", "match": {"destination": "198.19.0.0/24"}, "action": "forward",
         "params": PARAMS}  # fmt: skip
BACKEND = {"table": "backend", "match": {"backend_id": 1}, "action": "translate",
           "params": {"address": "198.19.0.11", "port": 80}}  # fmt: skip
COUNTED = {"counter": {"packets": 3, "bytes": 180}}


@pytest.fixture
def filled(switch: FakeSwitch) -> FakeSwitch:
    with Session.open(switch.address) as session:
        session.write(
            [
                Update("INSERT", Entry(raw["table"], raw["match"], raw["action"], raw["params"]))
                for raw in (ROUTE, BACKEND)
            ]
        )
    switch.count(packets=3, size=180)
    return switch


@pytest.mark.parametrize(
    ("arguments", "entries"),
    [
        ({}, [ROUTE, BACKEND]),
        ({"tables": ["backend"]}, [BACKEND]),
        ({"tables": ["ingress.backend", "filter"]}, [BACKEND]),
        ({"tables": []}, []),
        ({"tables": ["backend"], "match": {"backend_id": "0x1"}}, [BACKEND]),
        ({"tables": ["backend"], "match": {"backend_id": 2}}, []),
        ({"counters": True}, [{**ROUTE, **COUNTED}, BACKEND]),
        ({"tables": ["route"], "match": {"destination": "198.19.0.0/24"}, "counters": True},
         [{**ROUTE, **COUNTED}]),
        ({"tables": ["backend"], "defaults": True},
         [BACKEND, {"table": "backend", "default": True, "action": "NoAction", "params": {}}]),
    ],
)  # fmt: skip
def test_entries(
    filled: FakeSwitch, run_module: RunModule, arguments: dict[str, Any], entries: list[Any]
) -> None:
    result = run_module("p4_table_info", address=filled.address, **arguments)
    assert result["changed"] is False
    assert result["entries"] == entries


def test_tables_are_described(filled: FakeSwitch, run_module: RunModule) -> None:
    result = run_module("p4_table_info", address=filled.address)
    assert list(result["tables"]) == ["route", "backend", "service", "filter"]
    assert result["tables"]["backend"] == {
        "full_name": "ingress.backend",
        "size": 4,
        "entries": 1,
        "constant": False,
        "has_counter": False,
        "needs_priority": False,
        "match_fields": [
            {"name": "backend_id", "match_type": "exact", "width": 16, "shown_as": "integer"}
        ],
        "actions": {
            "translate": [
                {"name": "address", "width": 32, "shown_as": "IPv4 address"},
                {"name": "port", "width": 16, "shown_as": "integer"},
            ],
            "NoAction": [],
        },
    }
    assert result["tables"]["filter"]["needs_priority"] is True
    assert result["tables"]["route"]["has_counter"] is True


def test_indirect_counters_that_have_counted(filled: FakeSwitch, run_module: RunModule) -> None:
    result = run_module("p4_table_info", address=filled.address, counters=True)
    assert result["indirect_counters"] == {
        "dropped": {
            str(index): {"packets": index * 10, "bytes": index * 1000} for index in (1, 2, 3)
        }
    }
    assert "indirect_counters" not in run_module("p4_table_info", address=filled.address)


def test_it_disturbs_nobody(filled: FakeSwitch, run_module: RunModule) -> None:
    with Session.open(filled.address, election_id=3) as owner:
        assert run_module("p4_table_info", address=filled.address)["entries"] == [ROUTE, BACKEND]
        assert owner.is_primary


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"tables": ["rote"]}, "UnknownName", 'no table "rote"; did you mean "route"?'),
        ({"match": {"backend_id": 1}}, "BadValue", "a match needs the one table it belongs to"),
        ({"device_id": 3}, "P4Error", "no device 3"),
    ],
)
def test_failures(
    filled: FakeSwitch, run_module: RunModule, arguments: dict[str, Any], kind: str, message: str
) -> None:
    result = run_module("p4_table_info", address=filled.address, **arguments)
    assert (result["failed"], result["error_type"]) == (True, kind)
    assert message in result["msg"]
