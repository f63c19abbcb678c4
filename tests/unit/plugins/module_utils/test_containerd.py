# SPDX-License-Identifier: Apache-2.0
"""Containers of a pod, as containerd's bundles on the node have them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.cri import containerd
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

UID = "0189d991-774c-48f6-a48b-13604b1a46ee"
RUNTIME = containerd.Containerd("/run/containerd/containerd.sock")


def bundle(directory: Path, name: str, uid: str = UID, kind: str = "container") -> Path:
    """A bundle as containerd's shim has it before the container is started."""
    made = directory / f"id-of-{name}"
    made.mkdir()
    annotations = {"sandbox-uid": uid, "container-type": kind, "container-name": name}
    told = {f"io.kubernetes.cri.{key}": value for key, value in annotations.items()}
    (made / "config.json").write_text(json.dumps({"annotations": told}))
    return made


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(containerd, "BUNDLES", tmp_path)
    return tmp_path


def test_the_containers_of_one_pod(bundles: Path) -> None:
    bundle(bundles, "redis")
    bundle(bundles, "pause", kind="sandbox")
    bundle(bundles, "other", uid="another")
    found = {one.name: one for one in RUNTIME.containers_of(UID)}
    assert set(found) == {"redis", "pause"}
    assert found["pause"].is_sandbox and not found["redis"].is_sandbox
    assert found["redis"].id == "id-of-redis" and found["redis"].pid == 0


def test_a_container_that_is_started_has_a_pid_at_once(bundles: Path) -> None:
    made = bundle(bundles, "redis")
    assert not RUNTIME.containers_of(UID)[0].lives
    (made / "init.pid").write_text(str(os.getpid()))
    (one,) = RUNTIME.containers_of(UID)
    assert one.pid == os.getpid() and one.lives


def test_a_bundle_that_is_half_written_is_looked_at_again(bundles: Path) -> None:
    made = bundle(bundles, "redis")
    whole = (made / "config.json").read_text()
    (made / "config.json").write_text(whole[:20])
    assert RUNTIME.containers_of(UID) == []
    (made / "config.json").write_text(whole)
    assert [one.name for one in RUNTIME.containers_of(UID)] == ["redis"]


def test_an_unchanged_bundle_is_read_once(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(bundles, "redis")
    read: list[str] = []
    plain = json.loads

    def counted(text: bytes) -> object:
        read.append("")
        return plain(text)

    monkeypatch.setattr(containerd.json, "loads", counted)
    for _ in range(100):
        assert len(RUNTIME.containers_of(UID)) == 1
    assert len(read) == 1


@pytest.mark.parametrize("present", ["a registry/redis@sha256:11", "sha256:22"])
def test_only_what_is_not_here_is_asked_of_a_registry(
    present: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest says what an image is, whatever it is called here."""
    name, wanted = present.replace(" ", "-"), "gone.example/redis@sha256:11"
    digest = present.rpartition("@")[2]
    ran: list[list[str]] = []

    def run(command: list[str], **_limits: object) -> str:
        ran.append(command[3:])
        return f"REF TYPE DIGEST\n{name} manifest {digest} 1 MiB\n"

    monkeypatch.setattr(containerd, "run", run)
    RUNTIME.pull(wanted)
    taken = {
        "sha256:11": ["images", "tag", "--force", name, wanted],
        "sha256:22": ["images", "pull", "--hosts-dir", str(containerd.REGISTRIES), wanted],
    }
    assert ran == [["images", "list"], taken[digest]]


class Freezer:
    """Remembers in order what was done to any of them."""

    done: ClassVar[list[str]] = []
    told: ClassVar[threading.Event] = threading.Event()

    def __init__(self, path: str) -> None:
        self.path = path

    def freeze(self) -> None:
        self.done.append("freeze")
        self.told.set()

    def thaw(self) -> None:
        self.done.append("thaw")


@pytest.fixture
def dumping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A container whose dump is over when the file ``dumped`` is there."""
    Freezer.done, Freezer.told = [], threading.Event()
    monkeypatch.setattr(containerd, "Freezer", Freezer)

    tell_status(monkeypatch, "RUNNING")
    return {"id": "1", "freezer": "/it", "dumped": str(tmp_path / "checkpoint" / "config.dump")}


def tell_status(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """What containerd takes the container for; nothing, if that is empty: it does not run."""

    def run(command: list[str], timeout: float = 0.0) -> str:
        if not status:
            raise FlowferryError("command_failed", "ctr: cannot connect")
        Freezer.done.append(" ".join(command[3:]))
        return f"TASK PID STATUS\n1 42 {status}\n"

    monkeypatch.setattr(containerd, "run", run)


def end_dump(container: dict[str, Any]) -> Callable[[], None]:
    """It is over, and then the archive is written, until what this returns is called."""
    mark = Path(container["dumped"])
    mark.parent.mkdir()
    mark.touch()

    def end() -> None:
        mark.unlink()
        mark.parent.rmdir()

    return end


def test_a_container_is_frozen_as_soon_as_its_dump_is_over(dumping: dict[str, Any]) -> None:
    containerd.Containerd("").freeze([dumping], steady=False)
    assert Freezer.done == []
    end_dump(dumping)
    assert Freezer.told.wait(10)


def test_a_dump_that_outlives_its_move_freezes_nothing(
    dumping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet that ends in the middle lets containerd go on alone."""
    monkeypatch.setattr(containerd.Containerd, "is_writing", lambda *_: False)
    runtime, before = containerd.Containerd(""), threading.active_count()
    runtime.freeze([dumping], steady=False)
    runtime.resume([dumping])
    end_dump(dumping)
    for thread in threading.enumerate()[before:]:
        thread.join(10)
    assert Freezer.done == ["tasks list", "thaw"]


def test_an_archive_that_is_still_written_is_waited_for(dumping: dict[str, Any]) -> None:
    end = end_dump(dumping)
    resuming = threading.Thread(target=containerd.Containerd("").resume, args=([dumping],))
    resuming.start()
    resuming.join(0.05)
    assert Freezer.done == []
    end()
    resuming.join(10)
    assert Freezer.done == ["tasks list", "thaw"]


@pytest.mark.parametrize("status", ["PAUSED", "PAUSING"])
def test_what_a_dump_that_was_given_up_has_paused_goes_on(
    dumping: dict[str, Any], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Or nobody could run anything in it any more, as if it stood still."""
    tell_status(monkeypatch, status)
    containerd.Containerd("").resume([dumping])
    assert Freezer.done == ["tasks list", "tasks resume 1", "thaw"]


def test_without_containerd_a_container_goes_on_all_the_same(
    dumping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_status(monkeypatch, "")
    containerd.Containerd("").resume([dumping])
    assert Freezer.done == ["thaw"]


def test_what_could_be_seen_between_dumps_stands_still_before_the_first(
    dumping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, before = containerd.Containerd(""), threading.active_count()
    runtime.freeze([dumping], steady=True)
    assert threading.active_count() == before
    tell_status(monkeypatch, "PAUSED")
    runtime.resume([dumping])
    assert Freezer.done == ["tasks pause 1", "tasks list", "tasks resume 1", "thaw"]
