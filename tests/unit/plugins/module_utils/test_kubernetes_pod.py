# SPDX-License-Identifier: Apache-2.0
"""A pod on its node: what is done to it, and what the container runtime is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes import kubernetes

ABOUT: dict[str, Any] = {
    "namespace": "default",
    "pod": "redis",
    "steady": False,
    "containers": {"redis": {"freezer": "/it", "dumped": "/it"}},
}


class Runtime:
    """Remembers in order what was done."""

    name = "CRI-O"

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def require(self) -> None:
        """It restores."""

    def freeze(self, *arguments: Any) -> None:
        self.done.append(("freeze", *arguments))

    def keep_frozen(self, *arguments: Any) -> None:
        self.done.append(("keep_frozen", *arguments))

    def resume(self, *arguments: Any) -> None:
        self.done.append(("resume", *arguments))

    def forget(self, names: list[str]) -> None:
        self.done.append(("forget", names))


class Door:
    """Of the pod's network."""

    def __init__(self, done: list[tuple[Any, ...]]) -> None:
        self._done = done

    def close(self) -> None:
        self._done.append(("close",))

    def open(self) -> None:
        self._done.append(("open",))


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> kubernetes.KubernetesPod:
    made = kubernetes.KubernetesPod("default/redis")
    runtime = Runtime()
    monkeypatch.setattr(kubernetes.KubernetesPod, "_runtime", runtime)
    monkeypatch.setattr(made, "_remove_archives", lambda about: runtime.done.append(("remove",)))
    monkeypatch.setattr(made, "_door_of", lambda about: Door(runtime.done))
    return made


@pytest.mark.parametrize("steady", [False, True])
def test_how_containers_stand_still_is_the_runtimes_matter(
    pod: Any, tmp_path: Path, steady: bool
) -> None:
    """Archives are removed when the runtime writes none any more."""
    about = {**ABOUT, "steady": steady, "archives": {"redis": "/it.tar"}}
    containers = list(ABOUT["containers"].values())
    pod.freeze(about)
    pod.checkpoint(about, tmp_path)
    assert (tmp_path / "redis.tar").readlink() == Path("/it.tar")
    pod.resume(about)
    assert pod._runtime.done == [
        ("close",),
        ("freeze", containers, steady),
        ("keep_frozen", containers),
        ("resume", containers),
        ("open",),
        ("remove",),
        ("forget", []),
    ]


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
