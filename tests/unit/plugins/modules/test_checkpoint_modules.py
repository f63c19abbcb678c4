# SPDX-License-Identifier: Apache-2.0
"""The checkpoint modules against real archives and a Podman that does what it is told."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint import podman

pytestmark = pytest.mark.usefixtures("pycriu")

BASE = "ansible_collections.flowferry.core.plugins"
DATA = Path(__file__).parents[1] / "module_utils" / "checkpoint" / "data"
MODULES = ["checkpoint", "checkpoint_address", "checkpoint_info", "restore"]
TINY = "cfc95e30a2b72b0a9f15a38826bdd688ee0e1fdeb88cc157c6013ae3d216531c"
RunModule = Callable[..., dict[str, Any]]

# Keeps its containers in a file, {name: {id, status, pid}}, and writes down what it was asked.
FAKE_PODMAN = """#!/usr/bin/python3
import json, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
state = json.loads((here / "state").read_text())
with (here / "calls").open("a") as calls:
    print(*words, file=calls)
if words[0] == "ps":
    print(*state, sep="\\n")
elif words[1] == "inspect":
    about = state[words[2]]
    status = {"Status": about["status"], "Pid": about["pid"]}
    print(json.dumps([{"Id": about["id"], "Name": words[2], "Image": "1", "State": status}]))
elif words[1] == "checkpoint":
    target = words[words.index("--export") + 1]
    shutil.copy(here / "archive", target)
    if (here / "fail").exists():
        sys.exit("CRIU says no")
    if "--leave-running" not in words:
        state[words[-1]].update(status="exited", pid=0)
elif words[1] == "restore":
    name = words[words.index("--name") + 1] if "--name" in words else "tiny"
    state[name] = {"id": "TINY" if name == "tiny" else "other", "status": "running", "pid": 42}
elif words[0] == "rm":
    del state[words[-1]]
(here / "state").write_text(json.dumps(state))
""".replace("TINY", TINY)


class FakePodman:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.set({})
        shutil.copy(DATA / "podman.tar.gz", directory / "archive")
        for name, text in (("podman", FAKE_PODMAN), ("criu", "#!/bin/sh\necho Version: 4.2.1\n")):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)

    def set(self, containers: dict[str, dict[str, Any]]) -> None:
        (self._directory / "state").write_text(json.dumps(containers))

    def run(self, name: str = "tiny", status: str = "running", pid: int = 7) -> None:
        self.set({name: {"id": TINY, "status": status, "pid": pid}})

    def fail(self) -> None:
        (self._directory / "fail").touch()

    def calls(self) -> list[str]:
        """What changed something."""
        path = self._directory / "calls"
        asked = path.read_text().splitlines() if path.exists() else []
        return [line for line in asked if not line.startswith(("ps ", "container inspect"))]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePodman:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    monkeypatch.setattr(podman, "RESTORED", tmp_path / "restored")
    return FakePodman(directory)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "podman.tar.gz", tmp_path / "tiny.tar.gz"))


def refused(result: dict[str, Any], code: str, *words: str) -> None:
    assert result.get("failed"), result
    assert result["failure"]["code"] == code
    for word in words:
        assert word in result["msg"]


# -- checkpoint


def test_a_checkpoint_is_made_once(fake: FakePodman, run_module: RunModule, tmp_path: Path) -> None:
    fake.run()
    path = tmp_path / "new.tar"
    arguments = {"name": "tiny", "path": str(path), "compression": "gzip"}
    planned = run_module("checkpoint", check=True, diff=True, **arguments)
    assert planned["changed"] and not path.exists() and fake.calls() == []
    made = run_module("checkpoint", diff=True, **arguments)
    assert made["changed"]
    assert made["checkpoint"]["container"]["id"] == TINY
    assert made["checkpoint"]["size"] == path.stat().st_size
    assert made["diff"]["before"] == {"container": "running", "checkpoint": None}
    assert made["diff"]["after"] == {"container": "exited", "checkpoint": made["checkpoint"]}
    again = run_module("checkpoint", **arguments)
    assert not again["changed"] and again["checkpoint"] == made["checkpoint"]
    assert fake.calls() == [
        f"container checkpoint --compress gzip --export {path}.partial --tcp-established "
        "--file-locks tiny"
    ]


def test_force_makes_another(fake: FakePodman, run_module: RunModule, archive: Path) -> None:
    fake.run()
    arguments = {"name": "tiny", "path": str(archive), "leave_running": True}
    assert not run_module("checkpoint", **arguments)["changed"]
    assert run_module("checkpoint", force=True, **arguments)["changed"]
    assert "--leave-running" in fake.calls()[0]


def test_a_failed_checkpoint_leaves_the_old_one(
    fake: FakePodman, run_module: RunModule, archive: Path
) -> None:
    fake.run()
    fake.fail()
    before = archive.stat()
    result = run_module("checkpoint", name="tiny", path=str(archive), force=True)
    refused(result, "checkpoint_failed", "CRIU says no")
    assert archive.stat() == before
    assert not archive.with_name(archive.name + ".partial").exists()


def test_what_cannot_be_checkpointed(
    fake: FakePodman, run_module: RunModule, archive: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "new.tar")
    refused(run_module("checkpoint", name="tiny", path=path), "unknown_workload", "podman ps -a")
    fake.run(status="exited")
    refused(run_module("checkpoint", name="tiny", path=path), "not_running", "podman start tiny")
    missing = str(tmp_path / "missing" / "new.tar")
    refused(run_module("checkpoint", name="tiny", path=missing), "path_taken", "make it first")
    fake.run("redis")
    fake.set({"redis": {"id": "another", "status": "running", "pid": 7}})
    result = run_module("checkpoint", name="redis", path=str(archive))
    refused(result, "path_taken", 'is a checkpoint of the container "tiny"', "force: true")
    assert fake.calls() == []


# -- restore


def test_a_restore_is_done_once(fake: FakePodman, run_module: RunModule, archive: Path) -> None:
    planned = run_module("restore", check=True, diff=True, path=str(archive))
    assert planned["changed"] and planned["container"] is None and fake.calls() == []
    done = run_module("restore", path=str(archive))
    assert done["changed"] and done["container"]["pid"] == 42
    assert not run_module("restore", path=str(archive))["changed"]
    assert fake.calls() == [f"container restore --import {archive} --tcp-established --file-locks"]


def test_a_container_that_was_started_again_is_another(
    fake: FakePodman, run_module: RunModule, archive: Path
) -> None:
    run_module("restore", path=str(archive))
    fake.run(pid=43)
    refused(run_module("restore", path=str(archive)), "name_taken", "replace: true")
    assert run_module("restore", path=str(archive), replace=True)["changed"]
    assert fake.calls()[1] == "rm --force --time 0 tiny"


def test_a_name_of_its_own(fake: FakePodman, run_module: RunModule, archive: Path) -> None:
    fake.run()
    done = run_module("restore", path=str(archive), name="copy", tcp_established=False)
    assert done["container"]["name"] == "copy"
    assert fake.calls() == [f"container restore --import {archive} --file-locks --name copy"]


def test_a_name_that_is_taken(fake: FakePodman, run_module: RunModule, archive: Path) -> None:
    fake.run(status="exited")
    refused(run_module("restore", path=str(archive)), "name_taken", "(exited)", "podman rm tiny")
    assert fake.calls() == []


def test_what_cannot_be_restored(
    fake: FakePodman, run_module: RunModule, archive: Path, tmp_path: Path
) -> None:
    refused(run_module("restore", path=str(DATA / "sockets")), "not_podman", "of kind criu")
    archive.write_bytes(archive.read_bytes()[:9000])
    refused(run_module("restore", path=str(archive)), "bad_archive", str(archive))
    refused(run_module("restore", path=str(tmp_path / "none")), "no_checkpoint", "check the path")
    assert fake.calls() == []


# -- checkpoint_info and checkpoint_address


def test_info(run_module: RunModule, archive: Path) -> None:
    result = run_module("checkpoint_info", path=str(archive))
    assert result["changed"] is False
    assert result["checkpoint"]["container"]["id"] == TINY
    assert result["tree"][0] == "tiny (podman)"


def test_info_of_more_than_is_allowed(run_module: RunModule, archive: Path) -> None:
    refused(
        run_module("checkpoint_info", path=str(archive), max_size="50K"),
        "bad_archive",
        "unpacks to more than 51200 bytes",
    )
    refused(run_module("checkpoint_info", path=str(archive), max_size="lots"), "bad_size", "64G")


@pytest.mark.parametrize("place", ["", "checkpoint"])
def test_addresses_of_a_directory(run_module: RunModule, tmp_path: Path, place: str) -> None:
    """Images by themselves, and in an unpacked archive."""
    directory = tmp_path / "some"
    shutil.copytree(DATA / "sockets", directory / place)
    image = directory / place / "files.img"
    arguments = {"path": str(directory), "addresses": {"192.0.2.1": "198.51.100.7"}}
    before = image.read_bytes()
    planned = run_module("checkpoint_address", check=True, diff=True, **arguments)
    assert planned["changed"] and image.read_bytes() == before
    done = run_module("checkpoint_address", diff=True, **arguments)
    assert {**done, "invocation": 0} == {**planned, "invocation": 0}
    assert len(done["sockets"]) == 8
    lines = [done["diff"][when].splitlines() for when in ("before", "after")]
    assert "udp bound 192.0.2.1:1005" in lines[0]
    assert "udp bound 198.51.100.7:1005" in lines[1]
    assert not run_module("checkpoint_address", **arguments)["changed"]


def test_addresses_that_cannot_be(run_module: RunModule, archive: Path) -> None:
    result = run_module("checkpoint_address", path=str(archive), addresses={"192.0.2.1": "::1"})
    refused(result, "bad_address", "a socket keeps its address family")


# -- documentation


def load(path: str) -> Any:
    return importlib.import_module(f"{BASE}.{path}")


@pytest.mark.parametrize("name", MODULES)
def test_the_options_are_the_argument_spec(name: str) -> None:
    module = load(f"modules.{name}")
    documented = yaml.safe_load(module.DOCUMENTATION)
    options = documented["options"]
    if "extends_documentation_fragment" in documented:
        fragment = load("doc_fragments.checkpoint").ModuleDocFragment.DOCUMENTATION
        options = {**options, **yaml.safe_load(fragment)["options"]}
    assert set(options) == set(module.ARGUMENTS)
    for option, spec in module.ARGUMENTS.items():
        for aspect in ("type", "default", "required", "choices"):
            assert options[option].get(aspect) == spec.get(aspect), f"{option}: {aspect}"
    for task in yaml.safe_load(module.EXAMPLES):
        assert set(task.get(f"flowferry.core.{name}", {})) <= set(module.ARGUMENTS)
