# SPDX-License-Identifier: Apache-2.0
"""The P4 modules in playbooks, against the embedded switch with the real program."""

from __future__ import annotations

from typing import Any

import pytest
from flowferry_p4.client import Counter, Entry, Session, Update
from p4_lab import COMPILED, Playbook, RunningSwitch

Task = dict[str, Any]

FILES = {
    "p4info": str(COMPILED / "flowferry.p4info.txtpb"),
    "device_config": str(COMPILED / "flowferry.json"),
}
LOAD: Task = {"flowferry.core.p4_pipeline": FILES}
MACS = {"source_mac": "02:ff:00:00:00:01", "destination_mac": "02:ff:00:00:00:0b"}


def table(state: str = "merged", **arguments: Any) -> Task:
    return {"flowferry.core.p4_table": {"state": state, **arguments}}


def info(**arguments: Any) -> Task:
    return {"flowferry.core.p4_table_info": arguments}


def backend(number: int, address: str = "198.19.0.11") -> dict[str, Any]:
    params = {"address": address, "port": 6379}
    return {"table": "backend", "match": {"backend_id": number}, "action": "translate",
            "params": params}  # fmt: skip


def route(prefix: str, port: int = 1) -> dict[str, Any]:
    return {"table": "route", "match": {"destination": prefix}, "action": "forward",
            "params": {"port": port, **MACS}}  # fmt: skip


START = [backend(1), backend(2), route("198.19.0.11/32")]


def prepare(switch: RunningSwitch) -> None:
    """Load the program and put START into it, without the modules."""
    with Session.open(switch.address) as session:
        program = (COMPILED / "flowferry.json").read_bytes()
        session.set_pipeline((COMPILED / "flowferry.p4info.txtpb").read_text("utf-8"), program)
        session.write([Update("INSERT", entry) for entry in map(to_entry, START)])


def to_entry(raw: dict[str, Any]) -> Entry:
    return Entry(raw["table"], raw["match"], raw["action"], raw["params"])


def content(switch: RunningSwitch) -> list[str]:
    """What the switch holds, in one line for each entry."""
    with Session.open(switch.address, primary=False) as session:
        return sorted(f"{entry.label} {entry.params}" for entry in session.read())


def lines(*raw: dict[str, Any]) -> list[str]:
    return sorted(f"{entry.label} {entry.params}" for entry in map(to_entry, raw))


def test_from_an_empty_switch_to_one_that_forwards(
    switch: RunningSwitch, playbook: Playbook
) -> None:
    fill = table(entries=START)
    results = playbook.run(
        fill,
        {**LOAD, "check": True, "diff": True},
        LOAD,
        LOAD,
        {**fill, "check": True, "diff": True},
        {**fill, "diff": True},
        {**fill, "diff": True},
        info(tables=["backend"], counters=True),
        LOAD,
        address=switch.address,
    )
    too_early, checked, loaded, again, foretold, filled, refilled, told, reloaded = results
    assert too_early["error_type"] == "NoPipeline"
    assert "it has no pipeline yet; load one first" in too_early["msg"]
    assert [item["changed"] for item in (checked, loaded, again)] == [True, True, False]
    assert checked["after"] == loaded["after"] == again["before"]
    assert "hold_to" in loaded["after"]["tables"]
    assert [item["changed"] for item in (foretold, filled, refilled)] == [True, True, False]
    assert foretold["updates"] == filled["updates"]
    assert foretold["diff"] == filled["diff"]
    assert filled["diff"]["after"].splitlines()[:2] == [
        "backend backend_id=1 -> translate(address=198.19.0.11, port=6379)",
        "backend backend_id=2 -> translate(address=198.19.0.11, port=6379)",
    ]
    assert filled["after"] == refilled["before"] == refilled["after"]
    assert [item["counter"] for item in told["entries"]] == [{"packets": 0, "bytes": 0}] * 2
    assert told["tables"]["backend"]["entries"] == 2
    assert reloaded["changed"] is False, "a program that runs already must keep its entries"
    assert content(switch) == lines(*START)


STATES: dict[str, tuple[Task, list[str], list[dict[str, Any]]]] = {
    "merged": (
        table(entries=[{"table": "backend", "match": {"backend_id": "0x1"},
                        "params": {"address": 0xC613000C}}]),
        ["MODIFY"],
        [backend(1, "198.19.0.12"), *START[1:]],
    ),
    "replaced": (
        table("replaced", entries=[route("198.19.0.0/24", 3)]),
        ["DELETE", "INSERT"],
        [*START[:2], route("198.19.0.0/24", 3)],
    ),
    "overridden": (
        table("overridden", entries=[backend(2, "198.19.0.12")]),
        ["DELETE", "DELETE", "MODIFY"],
        [backend(2, "198.19.0.12")],
    ),
    "deleted": (
        table("deleted", entries=[{"table": "backend", "match": {"backend_id": 2}}],
              tables=["ingress.route"]),
        ["DELETE", "DELETE"],
        [backend(1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_states(switch: RunningSwitch, playbook: Playbook, state: str) -> None:
    task, kinds, after = STATES[state]
    prepare(switch)
    checked, untouched, done, again, gathered = playbook.run(
        {**task, "check": True}, table("gathered"), task, task, table("gathered"),
        address=switch.address,
    )  # fmt: skip
    assert lines(*untouched["gathered"]) == lines(*START), "check mode has changed something"
    assert sorted(update["kind"] for update in done["updates"]) == sorted(kinds)
    assert checked["updates"] == done["updates"]
    assert [item["changed"] for item in (checked, done, again)] == [True, True, False]
    assert done["after"] == again["before"] == again["after"]
    assert content(switch) == lines(*after) == lines(*gathered["gathered"])


def test_default_entries(switch: RunningSwitch, playbook: Playbook) -> None:
    change = {"table": "route", "default": True, "action": "forward", "params": {"port": 3, **MACS}}
    back = {"table": "route", "default": True}
    prepare(switch)
    results = playbook.run(
        table(entries=[change]),
        table(entries=[change]),
        table("deleted", entries=[back]),
        table("deleted", entries=[back]),
        info(tables=["route"], defaults=True),
        address=switch.address,
    )
    assert [item["changed"] for item in results[:4]] == [True, False, True, False]
    assert [update["kind"] for update in results[0]["updates"]] == ["MODIFY"]
    assert results[4]["entries"] == [
        START[2],
        {"table": "route", "default": True, "action": "drop", "params": {}},
    ]


def test_rendered_needs_no_switch(playbook: Playbook) -> None:
    arguments = {"p4info": FILES["p4info"], "entries": [backend(0x10)]}
    good, wrong = playbook.run(
        table("rendered", **arguments),
        table("rendered", **{**arguments, "entries": [{**backend(1), "action": "transport"}]}),
    )
    assert (good["changed"], good["rendered"]) == (False, [backend(16)])
    assert "type: INSERT" in good["request"]
    assert 'table "backend" has no action "transport"' in wrong["msg"]


def test_what_is_said_when_it_cannot_be_done(switch: RunningSwitch, playbook: Playbook) -> None:
    prepare(switch)
    full = [
        {"table": "guard", "match": {"ingress_port": 1, "source": number}, "action": "drop"}
        for number in range(1026)
    ]
    with Session.open(switch.address, election_id=30):
        other, harmless = playbook.run(
            table(entries=[backend(3)]), table(entries=START), address=switch.address
        )
    assert other["error_type"] == "NotPrimary"
    assert "another controller is primary (election id 30); stop it, or use" in other["msg"]
    assert harmless["changed"] is False
    wrong, _, crowded, device, nobody = playbook.run(
        table(entries=[backend(1), {**backend(2), "table": "backends"}, backend(70000)]),
        table(entries=full[:1024]),
        table(entries=full[1024:]),
        table(entries=START, device_id=2),
        table(entries=START, address="127.0.0.1:1"),
        address=switch.address,
    )
    assert [(error["index"], error["code"]) for error in wrong["errors"]] == [
        (1, "UNKNOWN_NAME"),
        (2, "BAD_VALUE"),
    ]
    assert 'no table "backends"; did you mean "backend"?' in wrong["msg"]
    assert "Remedy: use a name of the p4info; p4_table_info lists them" in wrong["msg"]
    assert [(error["index"], error["code"]) for error in crowded["errors"]] == [
        (0, "RESOURCE_EXHAUSTED"),
        (1, "RESOURCE_EXHAUSTED"),
    ]
    assert crowded["errors"][0]["key"] == "INSERT guard ingress_port=1 source=0.0.4.0"
    assert "the program gives the table room for 1024 entries" in crowded["msg"]
    assert crowded["updates"] == []
    assert "this is device 1, not 2" in device["msg"]
    assert nobody["error_type"] == "SwitchUnreachable"
    assert "check that the switch runs and that the address and port are right" in nobody["msg"]


def test_another_program_is_told_apart(
    switch: RunningSwitch, playbook: Playbook, tmp_path: Any
) -> None:
    changed = tmp_path / "other.p4info.txtpb"
    text = (COMPILED / "flowferry.p4info.txtpb").read_text(encoding="utf-8")
    changed.write_text(text.replace('alias: "route"', 'alias: "way"'), encoding="utf-8")
    broken = tmp_path / "broken.json"
    broken.write_text("{}", encoding="utf-8")
    load = LOAD["flowferry.core.p4_pipeline"]
    prepare(switch)
    refused, checked = playbook.run(
        {"flowferry.core.p4_pipeline": {**load, "device_config": str(broken)}},
        {"flowferry.core.p4_pipeline": {**load, "p4info": str(changed)}, "check": True},
        address=switch.address,
    )
    assert refused["failed"]
    assert "loading the pipeline failed: INVALID_ARGUMENT" in refused["msg"]
    assert checked["changed"]
    assert "way" in checked["after"]["tables"] and "route" in checked["before"]["tables"]


def test_the_client_and_the_switch_agree(switch: RunningSwitch) -> None:
    """What the fake server of the unit tests does, the real one does too."""
    text = (COMPILED / "flowferry.p4info.txtpb").read_text(encoding="utf-8")
    with Session.open(switch.address) as session:
        assert session.pipeline() is None
        session.set_pipeline(text, (COMPILED / "flowferry.json").read_bytes())
        session.require_pipeline(text)
        session.send_packets((bytes(60), {"egress_port": 1}) for _ in range(100))
        session.flush()
        assert session.read_counter("dropped", 0) == {0: Counter(0, 0)}
        with Session.open(switch.address, election_id=session.election_id + 1):
            assert not session.closed.is_set()
        election = session.election_id
    with Session.open(switch.address) as session:
        assert session.election_id == election + 2
