# SPDX-License-Identifier: Apache-2.0
"""A pod on its node: frozen once its dump is over, unless the move was given up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes import kubernetes

ABOUT: dict[str, Any] = {
    "namespace": "default",
    "pod": "redis",
    "steady": False,
    "containers": {"redis": {"freezer": "/it", "dumped": "/it"}},
}


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


class Runtime:
    """A dump that ends when the test says so."""

    name = "CRI-O"

    def __init__(self) -> None:
        self.dumped = threading.Event()
        self.waited = threading.Event()
        self.written = threading.Event()
        self.written.set()

    def wait_for_dump(self, container: dict[str, Any], deadline: float) -> bool:
        assert self.dumped.wait(10)
        self.waited.set()
        return True

    def resume(self, container: dict[str, Any]) -> None:
        """Nothing."""

    def require(self) -> None:
        """It restores."""

    def is_writing(self, container: dict[str, Any]) -> bool:
        return not self.written.is_set()

    def pause(self, containers: list[dict[str, Any]]) -> bool:
        Freezer.done.append("pause")
        return True

    def unpause(self, containers: list[dict[str, Any]]) -> None:
        Freezer.done.append("unpause")

    def forget(self, names: list[str]) -> None:
        """Nothing."""


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> kubernetes.KubernetesPod:
    Freezer.done, Freezer.told = [], threading.Event()
    monkeypatch.setattr(kubernetes, "Freezer", Freezer)
    made = kubernetes.KubernetesPod("default/redis")
    runtime = Runtime()
    monkeypatch.setattr(kubernetes.KubernetesPod, "_runtime", runtime)
    monkeypatch.setattr(made, "_remove_archives", lambda about: Freezer.done.append("remove"))
    return made


def test_a_container_is_frozen_as_soon_as_its_dump_is_over(pod: Any) -> None:
    pod.freeze(ABOUT)
    assert Freezer.done == []
    pod._runtime.dumped.set()
    assert Freezer.told.wait(10)


def test_a_dump_that_outlives_its_move_freezes_nothing(pod: Any) -> None:
    """A kubelet that ends in the middle lets the runtime go on alone."""
    before = threading.active_count()
    pod.freeze(ABOUT)
    pod.resume(ABOUT)
    pod._runtime.dumped.set()
    assert pod._runtime.waited.wait(10)
    for thread in threading.enumerate()[before:]:
        thread.join(10)
    assert Freezer.done == ["thaw", "remove"]


def test_the_runtime_hears_of_it_before_its_container_goes_on(
    pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod._runtime, "resume", lambda container: Freezer.done.append("told"))
    pod.resume(ABOUT)
    assert Freezer.done == ["told", "thaw", "remove"]


@pytest.mark.parametrize(("source", "refused"), [("CRI-O", False), ("containerd", True)])
def test_source_and_destination_have_the_same_runtime(
    pod: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, refused: bool
) -> None:
    for check in ("check_criu", "check_space"):
        monkeypatch.setattr(kubernetes, check, lambda *_: None)
    about = {"containers": {"redis": {"container_runtime": source}}, "memory_bytes": 1}
    if not refused:
        pod.check_destination(about, tmp_path)
        return
    with pytest.raises(
        FlowferryError, match="runs in containerd, and this node has CRI-O"
    ) as raised:
        pod.check_destination(about, tmp_path)
    assert raised.value.code == "runtimes_differ"


def test_an_archive_that_is_still_written_is_waited_for_and_removed(pod: Any) -> None:
    pod._runtime.written.clear()
    resumed = threading.Thread(target=pod.resume, args=(ABOUT,))
    resumed.start()
    resumed.join(0.05)
    assert Freezer.done == []
    pod._runtime.written.set()
    resumed.join(10)
    assert Freezer.done == ["thaw", "remove"]


def test_what_could_be_seen_between_dumps_stands_still_before_the_first(pod: Any) -> None:
    before = threading.active_count()
    about = {**ABOUT, "steady": True}
    pod.freeze(about)
    assert threading.active_count() == before
    pod.resume(about)
    assert Freezer.done == ["pause", "unpause", "thaw", "remove"]
