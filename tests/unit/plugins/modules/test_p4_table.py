# SPDX-License-Identifier: Apache-2.0
"""p4_table: every state, run twice, in check mode and with diff; and what it says on failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import grpc
import pytest
from fake_server import FakeSwitch
from finsy.proto import p4r
from flowferry_p4.client import Entry, Session, Update
from google.protobuf import text_format

RunModule = Callable[..., dict[str, Any]]
Raw = dict[str, Any]


def backend(number: int, address: str = "198.19.0.11", port: int = 80) -> Raw:
    params = {"address": address, "port": port}
    return {"table": "backend", "match": {"backend_id": number}, "action": "translate",
            "params": params}  # fmt: skip


def route(prefix: str, port: int = 1) -> Raw:
    params = {
        "port": port,
        "source_mac": "02:ff:00:00:00:01",
        "destination_mac": "02:ff:00:00:00:0b",
    }
    return {"table": "route", "match": {"destination": prefix}, "action": "forward",
            "params": params}  # fmt: skip


def default(table: str, action: str, **params: Any) -> Raw:
    return {"table": table, "default": True, "action": action, "params": params}


def without(raw: Raw, *names: str) -> Raw:
    return {name: value for name, value in raw.items() if name not in names}


START = [backend(1), backend(2), route("198.19.0.11/32")]
DEFAULTS = [
    default("route", "drop"),
    default("backend", "NoAction"),
    default("service", "NoAction"),
]
FORWARD = default("route", "forward", **route("")["params"])
FILTER = {"table": "filter", "match": {"port": "80..90"}, "priority": 3, "action": "mark",
          "params": {"weight": 1}}  # fmt: skip


def to_entry(raw: Raw) -> Entry:
    return Entry(raw["table"], raw.get("match", {}), raw["action"], raw["params"],
                 raw.get("priority", 0), is_default=raw.get("default", False))  # fmt: skip


def fill(switch: FakeSwitch, entries: list[Raw]) -> None:
    with Session.open(switch.address) as session:
        session.write(
            [Update("MODIFY" if raw.get("default") else "INSERT", to_entry(raw)) for raw in entries]
        )
    switch.requests.clear()


def content(switch: FakeSwitch) -> list[Raw]:
    """What the switch holds, as the client that no module is made of reads it."""
    with Session.open(switch.address, primary=False) as session:
        found = session.read(defaults=True)
    result = []
    for entry in found:
        if entry.action is None:
            continue
        raw: Raw = {"table": entry.table, "action": entry.action, "params": entry.params}
        raw.update({"default": True} if entry.is_default else {"match": entry.match})
        if entry.priority:
            raw["priority"] = entry.priority
        result.append(raw)
    return result


def same(left: list[Raw], right: list[Raw]) -> bool:
    return sorted(map(repr, map(ordered, left))) == sorted(map(repr, map(ordered, right)))


def ordered(raw: Raw) -> Any:
    return {name: raw[name] if not isinstance(raw[name], dict) else sorted(raw[name].items())
            for name in sorted(raw)}  # fmt: skip


class Case(TypedDict):
    state: str
    arguments: dict[str, Any]
    kinds: list[str]
    after: list[Raw]


CASES: dict[str, Case] = {
    "merged adds and changes, and leaves the rest": {
        "state": "merged",
        "arguments": {"entries": [backend(1, "198.19.0.12"), backend(3)]},
        "kinds": ["MODIFY", "INSERT"],
        "after": [backend(1, "198.19.0.12"), backend(2), backend(3), *START[2:], *DEFAULTS],
    },
    "merged takes what is left out from the switch": {
        "state": "merged",
        "arguments": {
            "entries": [
                without(backend(1), "action", "params") | {"params": {"address": "198.19.0.12"}}
            ]
        },
        "kinds": ["MODIFY"],
        "after": [backend(1, "198.19.0.12"), *START[1:], *DEFAULTS],
    },
    "merged understands every way to write a value": {
        "state": "merged",
        "arguments": {
            "entries": [
                {
                    "table": "ingress.backend",
                    "match": {"backend_id": "0x1"},
                    "action": "ingress.translate",
                    "params": {"address": 0xC613000B, "port": "80"},
                },
                {
                    "table": "route",
                    "match": {"destination": "0xc613000b"},
                    "action": "forward",
                    "params": {
                        "port": "0b1",
                        "source_mac": "02-FF-00-00-00-01",
                        "destination_mac": 0x02FF0000000B,
                    },
                },
            ]
        },
        "kinds": [],
        "after": [*START, *DEFAULTS],
    },
    "merged changes a default entry by MODIFY": {
        "state": "merged",
        "arguments": {"entries": [FORWARD]},
        "kinds": ["MODIFY"],
        "after": [*START, FORWARD, *DEFAULTS[1:]],
    },
    "merged keeps entries apart by priority": {
        "state": "merged",
        "arguments": {"entries": [FILTER, {**FILTER, "priority": 4}]},
        "kinds": ["INSERT", "INSERT"],
        "after": [*START, *DEFAULTS, FILTER, {**FILTER, "priority": 4}],
    },
    "replaced has exactly these in the tables that are named": {
        "state": "replaced",
        "arguments": {"entries": [backend(2, port=81), backend(3)]},
        "kinds": ["DELETE", "MODIFY", "INSERT"],
        "after": [backend(2, port=81), backend(3), *START[2:], *DEFAULTS],
    },
    "replaced empties further tables": {
        "state": "replaced",
        "arguments": {"entries": [backend(1)], "tables": ["ingress.route"]},
        "kinds": ["DELETE", "DELETE"],
        "after": [backend(1), *DEFAULTS],
    },
    "overridden has exactly these in all tables": {
        "state": "overridden",
        "arguments": {"entries": [backend(2), FORWARD]},
        "kinds": ["DELETE", "DELETE", "MODIFY"],
        "after": [backend(2), FORWARD, *DEFAULTS[1:]],
    },
    "overridden with nothing empties the switch": {
        "state": "overridden",
        "arguments": {"entries": []},
        "kinds": ["DELETE", "DELETE", "DELETE"],
        "after": DEFAULTS,
    },
    "deleted removes by key alone": {
        "state": "deleted",
        "arguments": {"entries": [without(backend(1), "action", "params"), backend(9)]},
        "kinds": ["DELETE"],
        "after": [*START[1:], *DEFAULTS],
    },
    "deleted empties tables": {
        "state": "deleted",
        "arguments": {"tables": ["backend", "filter"]},
        "kinds": ["DELETE", "DELETE"],
        "after": [*START[2:], *DEFAULTS],
    },
}


@pytest.mark.parametrize("name", CASES)
def test_states(switch: FakeSwitch, run_module: RunModule, name: str) -> None:
    case = CASES[name]
    arguments = {"address": switch.address, "state": case["state"], **case["arguments"]}
    fill(switch, START)
    before = content(switch)

    checked = run_module("p4_table", check=True, diff=True, **arguments)
    assert same(content(switch), before), "check mode has changed something"
    assert switch.requests == []

    done = run_module("p4_table", diff=True, **arguments)
    assert checked == done, "check mode has foretold something else"
    assert same(content(switch), case["after"])
    assert [update["kind"] for update in done["updates"]] == case["kinds"]
    assert done["changed"] is bool(case["kinds"])
    assert len(switch.requests) == bool(case["kinds"]), "one batch a task, none without a change"
    tables = {raw["table"] for raw in done["before"]}
    assert same(done["before"], [raw for raw in before if raw["table"] in tables])
    touched = {raw["table"] for raw in done["after"]}
    assert same(done["after"], [raw for raw in case["after"] if raw["table"] in touched])
    assert (done["diff"]["before"] != done["diff"]["after"]) is done["changed"]

    again = run_module("p4_table", diff=True, **arguments)
    assert (again["changed"], again["updates"]) == (False, [])
    assert again["before"] == again["after"]
    assert len(switch.requests) == bool(case["kinds"])


@pytest.mark.parametrize("state", ["overridden", "deleted"])
def test_a_changed_default_goes_back_to_the_programs(
    switch: FakeSwitch, run_module: RunModule, state: str
) -> None:
    fill(switch, [FORWARD])
    entries = [] if state == "overridden" else [{"table": "route", "default": True}]
    arguments = {"address": switch.address, "state": state, "entries": entries}
    result = run_module("p4_table", **arguments)
    assert [(update["kind"], update["before"]) for update in result["updates"]] == [
        ("MODIFY", FORWARD)
    ]
    assert DEFAULTS[0] in result["after"]
    assert same(content(switch), DEFAULTS)
    assert not run_module("p4_table", **arguments)["changed"]


def test_the_diff_has_one_line_for_each_entry(switch: FakeSwitch, run_module: RunModule) -> None:
    fill(switch, START[:1])
    result = run_module(
        "p4_table", diff=True, address=switch.address, entries=[backend(1, "198.19.0.12"), FILTER]
    )
    assert result["diff"] == {
        "before": "backend backend_id=1 -> translate(address=198.19.0.11, port=80)\n"
        "backend default -> NoAction()\n",
        "after": "backend backend_id=1 -> translate(address=198.19.0.12, port=80)\n"
        "backend default -> NoAction()\n"
        "filter port=80..90 priority=3 -> mark(weight=1)\n",
    }
    assert result["updates"][0] == {"kind": "MODIFY", **backend(1, "198.19.0.12"),
                                    "before": backend(1)}  # fmt: skip


def test_what_is_gathered_can_be_given_back(switch: FakeSwitch, run_module: RunModule) -> None:
    fill(switch, [*START, FILTER])
    gathered = run_module("p4_table", address=switch.address, state="gathered")
    assert gathered["changed"] is False
    assert same(gathered["gathered"], [*START, FILTER])
    entries = gathered["gathered"]
    again = run_module("p4_table", address=switch.address, state="overridden", entries=entries)
    assert again["changed"] is False
    run_module("p4_table", address=switch.address, state="overridden", entries=[])
    run_module("p4_table", address=switch.address, entries=entries)
    assert same(content(switch), [*START, *DEFAULTS, FILTER])
    some = run_module("p4_table", address=switch.address, state="gathered", tables=["backend"])
    assert same(some["gathered"], START[:2])
    none = run_module("p4_table", address=switch.address, state="gathered", tables=[])
    assert none["gathered"] == []


def test_rendered_is_what_the_switch_would_get(
    switch: FakeSwitch, run_module: RunModule, sample_path: Path
) -> None:
    entries = [{**backend(0x10), "match": {"backend_id": "0x10"}}, FORWARD, FILTER]
    rendered = run_module("p4_table", state="rendered", p4info=str(sample_path), entries=entries)
    assert rendered["changed"] is False
    assert rendered["rendered"] == [backend(16), FORWARD, FILTER]
    run_module("p4_table", address=switch.address, entries=entries)
    sent = switch.requests[0]
    sent.ClearField("election_id")
    assert text_format.Parse(rendered["request"], p4r.WriteRequest()) == sent


# -- failures


@pytest.mark.parametrize(
    ("raw", "code", "message"),
    [
        ({**backend(1), "table": "backed"}, "UNKNOWN_NAME",
         'the p4info has no table "backed"; did you mean "backend"?'),
        ({**backend(1), "match": {"id": 1}}, "UNKNOWN_NAME",
         'table "backend" has no match field "id"'),
        ({**backend(1), "action": "transate"}, "UNKNOWN_NAME", 'did you mean "translate"?'),
        (backend(1, "198.19.0.999"), "BAD_VALUE",
         'parameter "address": \'198.19.0.999\' is not an IPv4 address'),
        (route("198.19.0.1/24"), "BAD_VALUE", "write 198.19.0.0/24"),
        (without(backend(7), "action", "params"), "BAD_VALUE",
         "no action is given, and there is no such entry to take it from"),
        (backend(2), "BAD_VALUE", "it repeats entries[0]; keep one of them"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("check", [True, False])
def test_wrong_entries_fail_before_anything_is_sent(
    switch: FakeSwitch, run_module: RunModule, raw: Raw, code: str, message: str, check: bool
) -> None:
    result = run_module("p4_table", check=check, address=switch.address, entries=[backend(2), raw])
    assert result["failed"]
    assert result["msg"].startswith("nothing was sent: entries[1] (")
    (error,) = result["errors"]
    assert (error["index"], error["table"], error["code"]) == (1, raw["table"], code)
    assert message in error["message"]
    assert error["remedy"] in result["msg"]
    assert switch.requests == []


def test_all_wrong_entries_are_told_at_once(switch: FakeSwitch, run_module: RunModule) -> None:
    entries = [backend(70000), backend(1), route("nowhere")]
    result = run_module("p4_table", address=switch.address, entries=entries)
    assert [error["index"] for error in result["errors"]] == [0, 2]


def test_refused_updates_name_entry_code_and_remedy(
    switch: FakeSwitch, run_module: RunModule
) -> None:
    fill(switch, START)
    entries = [backend(number) for number in (1, 2, 3, 4, 5, 6)]
    result = run_module("p4_table", address=switch.address, entries=entries)
    assert result["failed"] and result["changed"]
    assert result["errors"] == [
        {
            "index": index,
            "table": "backend",
            "key": f"INSERT backend backend_id={index + 1}",
            "code": "RESOURCE_EXHAUSTED",
            "message": "the table is full (4); the program gives the table room for 4 entries",
            "remedy": "delete entries that are not needed, or enlarge the table in the program",
        }
        for index in (4, 5)
    ]
    assert result["msg"].startswith("the switch refused 2 of 4 updates: entries[4] (INSERT backend")
    assert [update["match"] for update in result["updates"]] == [
        {"backend_id": 3},
        {"backend_id": 4},
    ]


def test_a_batch_that_is_refused_as_a_whole(
    switch: FakeSwitch, run_module: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(errors: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")

    monkeypatch.setattr(switch, "_fail", overloaded)
    entries = [backend(number) for number in range(6)]
    result = run_module("p4_table", address=switch.address, entries=entries)
    assert result["failed"] and not result["changed"]
    assert result["updates"] == []
    (error,) = result["errors"]
    assert (error["index"], error["key"], error["code"], error["message"]) == (
        None,
        "the whole batch",
        "RESOURCE_EXHAUSTED",
        "too many requests",
    )


def test_a_constant_table_is_refused_and_spared(run_module: RunModule, sample_path: Path) -> None:
    p4info = sample_path.read_text(encoding="utf-8").replace(
        "size: 16384", "size: 16384 is_const_table: true"
    )
    with FakeSwitch(p4info=p4info) as switch:
        fill(switch, [route("198.19.0.0/24")])
        result = run_module(
            "p4_table", address=switch.address, state="deleted", entries=[route("198.19.0.0/24")]
        )
        assert 'table "route" is constant: its entries are part of the program' in result["msg"]
        assert not run_module(
            "p4_table", address=switch.address, state="overridden", entries=[]
        )["changed"]  # fmt: skip


def test_a_default_that_is_not_known_cannot_be_deleted(
    switch: FakeSwitch, run_module: RunModule
) -> None:
    changed = default("filter", "mark", weight=3)
    fill(switch, [changed])
    result = run_module(
        "p4_table", address=switch.address, state="deleted",
        entries=[{"table": "filter", "default": True}],
    )  # fmt: skip
    assert "the p4info does not tell the program's default action; set the one" in result["msg"]
    overridden = run_module("p4_table", address=switch.address, state="overridden", entries=[])
    assert not overridden["changed"]


def test_another_primary_controller_is_in_the_way_only_of_changes(
    switch: FakeSwitch, run_module: RunModule
) -> None:
    fill(switch, START)
    with Session.open(switch.address, election_id=40):
        arguments = {"address": switch.address}
        assert not run_module("p4_table", **arguments, entries=START)["changed"]
        refused = run_module("p4_table", **arguments, entries=[backend(3)])
        assert refused["error_type"] == "NotPrimary"
        assert "another controller is primary (election id 40); stop it, or use" in refused["msg"]
        assert run_module("p4_table", check=True, **arguments, entries=[backend(3)])["changed"]
        forced = run_module("p4_table", **arguments, election_id=41, entries=[backend(3)])
        assert forced["changed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "state is merged but all of the following are missing: address, entries"),
        ({"state": "replaced", "address": "a:1"}, "any of the following are missing: entries, t"),
        ({"state": "deleted", "address": "a:1"}, "any of the following are missing: entries, t"),
        ({"state": "rendered", "entries": []}, "all of the following are missing: p4info"),
        ({"state": "gathered"}, "all of the following are missing: address"),
        ({"state": "rendered", "entries": [], "p4info": "/nowhere/p4info"},
         "cannot read the p4info /nowhere/p4info: No such file or directory"),
        ({"address": "198.18.0.2", "entries": []}, "the address '198.18.0.2' has no port"),
        ({"address": "127.0.0.1:1", "entries": []}, "no P4Runtime server answers"),
        ({"address": "127.0.0.1:1", "entries": [], "ca": "ca.pem", "token": "sesame"},
         "ca, token: only used on a secured connection; add 'tls: true'"),
        ({"address": "127.0.0.1:1", "entries": [], "tls": True, "ca": "/nowhere/ca.pem"},
         "TLS: cannot read the ca file /nowhere/ca.pem"),
        ({"address": "127.0.0.1:1", "entries": [{"match": {}}]},
         "missing required arguments: table found in entries"),
    ],
)  # fmt: skip
def test_wrong_arguments(run_module: RunModule, arguments: dict[str, Any], message: str) -> None:
    result = run_module("p4_table", **arguments)
    assert result["failed"]
    assert message in result["msg"]


def test_a_switch_without_pipeline(run_module: RunModule) -> None:
    with FakeSwitch() as empty:
        result = run_module("p4_table", address=empty.address, entries=[backend(1)])
    assert result["error_type"] == "NoPipeline"
    assert "it has no pipeline yet; load one first" in result["msg"]


def test_a_python_without_the_client_is_told_what_to_install(
    run_module: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.flowferry.core.plugins.module_utils import p4runtime

    monkeypatch.setattr(p4runtime, "IMPORT_ERROR", "ModuleNotFoundError: flowferry_p4")
    result = run_module("p4_table", address="127.0.0.1:1", entries=[])
    assert "(flowferry_p4)" in result["msg"] and "pip install ./p4" in result["msg"]
