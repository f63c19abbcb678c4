# SPDX-License-Identifier: Apache-2.0
"""p4_pipeline: loads what is not there yet, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeSwitch
from flowferry_p4.client import Entry, Session, Update, cookie_of

RunModule = Callable[..., dict[str, Any]]

TABLES = ["backend", "filter", "route", "service"]


@pytest.fixture
def empty() -> Iterator[FakeSwitch]:
    with FakeSwitch() as switch:
        yield switch


@pytest.fixture
def files(tmp_path: Path, sample_path: Path) -> dict[str, str]:
    config = tmp_path / "sample.json"
    config.write_text('{"program": 1}', encoding="utf-8")
    return {"p4info": str(sample_path), "device_config": str(config)}


def test_load_once(empty: FakeSwitch, run_module: RunModule, files: dict[str, str]) -> None:
    arguments = {"address": empty.address, **files}
    checked = run_module("p4_pipeline", check=True, diff=True, **arguments)
    assert empty.config is None, "check mode has loaded the program"
    done = run_module("p4_pipeline", diff=True, **arguments)
    assert done == checked
    assert (done["changed"], done["before"], done["diff"]["before"]) == (True, None, {})
    assert done["after"]["tables"] == TABLES
    p4info = Path(files["p4info"]).read_text(encoding="utf-8")
    assert done["after"]["cookie"] == cookie_of(p4info, b'{"program": 1}')
    assert empty.config is not None
    assert empty.config.p4_device_config == b'{"program": 1}'

    again = run_module("p4_pipeline", diff=True, **arguments)
    assert again["changed"] is False
    assert again["before"] == again["after"] == done["after"]


def test_entries_stay_while_the_program_stays(
    empty: FakeSwitch, run_module: RunModule, files: dict[str, str]
) -> None:
    arguments = {"address": empty.address, **files}
    run_module("p4_pipeline", **arguments)
    entry = Entry("backend", {"backend_id": 1}, "translate", {"address": 1, "port": 1})
    with Session.open(empty.address) as session:
        session.write([Update("INSERT", entry)])
    run_module("p4_pipeline", **arguments)
    assert len(empty.entries) == 1
    assert run_module("p4_pipeline", **arguments, force=True)["changed"]
    assert empty.entries == {}


def test_another_build_is_replaced(
    empty: FakeSwitch, run_module: RunModule, files: dict[str, str]
) -> None:
    arguments = {"address": empty.address, **files}
    run_module("p4_pipeline", **arguments)
    Path(files["device_config"]).write_text('{"program": 2}', encoding="utf-8")
    assert run_module("p4_pipeline", **arguments)["changed"]
    assert empty.config is not None
    assert empty.config.p4_device_config == b'{"program": 2}'


@pytest.mark.parametrize(("content", "changed"), [(b'{"program": 1}', False), (b"other", True)])
def test_a_program_loaded_by_others_is_compared_by_content(
    empty: FakeSwitch, run_module: RunModule, files: dict[str, str], content: bytes, changed: bool
) -> None:
    empty.load(Path(files["p4info"]).read_text(encoding="utf-8"), cookie=77)
    assert empty.config is not None
    empty.config.p4_device_config = content
    result = run_module("p4_pipeline", address=empty.address, **files)
    assert (result["changed"], result["before"]["cookie"]) == (changed, 77)


@pytest.mark.parametrize(("method", "number"), [("commit", 3), ("reconcile", 5)])
def test_methods(
    empty: FakeSwitch,
    run_module: RunModule,
    files: dict[str, str],
    method: str,
    number: int,
) -> None:
    run_module("p4_pipeline", address=empty.address, method=method, **files)
    assert empty.pipeline_actions == [number]


def test_a_refused_program(empty: FakeSwitch, run_module: RunModule, files: dict[str, str]) -> None:
    empty.refuse_pipeline = "flowferry.p4(31): registers are not supported"
    result = run_module("p4_pipeline", address=empty.address, **files)
    assert result["failed"]
    assert "loading the pipeline failed: INVALID_ARGUMENT: flowferry.p4(31): reg" in result["msg"]


def test_another_primary_controller(
    empty: FakeSwitch, run_module: RunModule, files: dict[str, str]
) -> None:
    with Session.open(empty.address, election_id=5):
        result = run_module("p4_pipeline", address=empty.address, **files)
    assert result["error_type"] == "NotPrimary"
    assert "another controller is primary (election id 5)" in result["msg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p4info", None, "cannot read the p4info "),
        ("p4info", "", "is empty; compile the program again"),
        ("p4info", "{", "this is not a p4info in text form"),
        ("device_config", None, "cannot read the device_config "),
        ("device_config", " \n", "is empty; compile the program again"),
    ],
)
def test_wrong_files(
    run_module: RunModule,
    files: dict[str, str],
    tmp_path: Path,
    name: str,
    content: str | None,
    message: str,
) -> None:
    path = tmp_path / "wrong"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = run_module("p4_pipeline", address="127.0.0.1:1", **{**files, name: str(path)})
    assert (result["failed"], result["error_type"]) == (True, "BadValue")
    assert message in result["msg"] and str(path) in result["msg"]
