# SPDX-License-Identifier: Apache-2.0
"""What is made of a runtime's answers; Molecule's scenarios try it with real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.cri import restore_check
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

PAUSE = "registry.example.com/pause:3.10"


class Crictl:
    """A CRI-O by its client's answers; what it was asked."""

    def __init__(self, *, restores: bool = True, fails: dict[str, str] | None = None) -> None:
        self.asked: list[list[str]] = []
        self.configs: list[dict[str, Any]] = []
        self.limits: dict[int, int] = {}
        self._restores, self._fails = restores, fails or {}
        self._started = 100

    def run(self, command: list[str], *, timeout: float, code: str) -> str:
        words = command[command.index("--image-endpoint") + 2 :]
        self.asked.append(words)
        if words[0] in self._fails:
            raise FlowferryError(code, "it failed", f"noise\n{self._fails[words[0]]}")
        return str(getattr(self, f"_{words[0]}", lambda *words: "")(*words[1:]))

    def _version(self) -> str:
        return "Version:  0.1.0\nRuntimeName:  cri-o\nRuntimeVersion:  1.36.3\n"

    def _runp(self, file: str) -> str:
        self.configs.append(json.loads(Path(file).read_text()))
        return "pod\n"

    def _create(self, pod: str, file: str, pod_file: str) -> str:
        assert pod == "pod"
        config = json.loads(Path(file).read_text())
        self.configs.append(config)
        self._started += 1
        restored = config["image"]["image"].endswith(".tar")
        first = self.limits.get(101, 0)
        self.limits[self._started] = first if restored and self._restores else 819200
        return f"{self._started}\n"

    def _inspect(self, _format: str, _json: str, container: str) -> str:
        return json.dumps(
            {"status": {"state": "CONTAINER_RUNNING"}, "info": {"pid": int(container)}}
        )

    def _pods(self, *words: str) -> str:
        return "pod\n"

    def limit(self, pid: int, new: int | None = None) -> int:
        if new is not None:
            self.limits[pid] = new
        return self.limits[pid]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(restore_check.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(restore_check, "kubelet_runs", lambda: False)
    return monkeypatch


def check(node: pytest.MonkeyPatch, crictl: Crictl) -> dict[str, Any]:
    node.setattr(restore_check, "run", crictl.run)
    node.setattr(restore_check, "_limit", crictl.limit)
    return restore_check.RestoreCheck("/run/crio/crio.sock", PAUSE).run()


def test_a_container_is_checkpointed_removed_and_restored(node: pytest.MonkeyPatch) -> None:
    crictl = Crictl()
    result = check(node, crictl)
    assert result["runtime"] == "cri-o"
    assert result["checkpoint_ms"] >= 0
    steps = [words[0] for words in crictl.asked]
    wanted = ["runp", "create", "start", "checkpoint", "rm", "create", "start", "pods", "rmp"]
    left = iter(steps)
    assert all(step in left for step in wanted), steps
    assert crictl.configs[1]["image"]["image"] == PAUSE
    assert crictl.configs[2]["image"]["image"].endswith("/checkpoint.tar")


def test_one_that_is_started_afresh_is_not_taken_for_a_restored_one(
    node: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(FlowferryError, match="started the container afresh") as caught:
        check(node, Crictl(restores=False))
    assert caught.value.code == "runtime_cannot_restore"


@pytest.mark.parametrize(
    ("step", "said", "code"),
    [
        ("runp", "failed to get sandbox image: not found", "no_image"),
        ("runp", "no CNI configuration", "runtime_cannot_restore"),
        ("checkpoint", "checkpoint/restore support not available", "runtime_cannot_restore"),
    ],
)
def test_what_fails_says_what_the_runtime_says_and_leaves_no_pod(
    node: pytest.MonkeyPatch, step: str, said: str, code: str
) -> None:
    crictl = Crictl(fails={step: said})
    with pytest.raises(FlowferryError, match=f"`crictl {step}` at .*: {said}$") as caught:
        check(node, crictl)
    assert caught.value.code == code
    assert crictl.asked[-1] == ["rmp", "--force", "pod"]


def test_an_image_that_is_not_there_is_pulled(node: pytest.MonkeyPatch) -> None:
    crictl = Crictl(fails={"inspecti": "no such image"})
    check(node, crictl)
    assert ["pull", PAUSE] in crictl.asked
    with pytest.raises(FlowferryError) as caught:
        check(node, Crictl(fails={"inspecti": "no such image", "pull": "manifest unknown"}))
    assert caught.value.code == "no_image"


def test_beside_a_kubelet_nothing_is_tried(node: pytest.MonkeyPatch) -> None:
    node.setattr(restore_check, "kubelet_runs", lambda: True)
    crictl = Crictl()
    with pytest.raises(FlowferryError, match="a kubelet runs here") as caught:
        check(node, crictl)
    assert caught.value.code == "kubelet_runs"
    assert [words[0] for words in crictl.asked] == ["version"]


def test_without_crictl_it_says_what_to_install(node: pytest.MonkeyPatch) -> None:
    node.setattr(restore_check.shutil, "which", lambda name: None)
    with pytest.raises(FlowferryError, match="install cri-tools"):
        restore_check.RestoreCheck("/run/crio/crio.sock")
