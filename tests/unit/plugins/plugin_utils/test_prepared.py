# SPDX-License-Identifier: Apache-2.0
"""What prepares a workload for direct moves, and takes that away again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flowferry.core.plugins.filter import prepared as filters
from ansible_collections.flowferry.core.plugins.modules import pod_commands
from ansible_collections.flowferry.core.plugins.plugin_utils import prepared
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import pod_direct

INIT = ["/.flowferry/placeholder", "--init"]
STARTED = {"web": ["/entry.sh", "$(X)", "serve"], "side": ["/entry.sh", "--port", "80"]}


def deployment(**spec: Any) -> dict[str, Any]:
    containers = [
        {"name": "web", "image": "it"},
        {"name": "side", "image": "it", "args": ["--port", "80"]},
        {"name": "own", "image": "it", "command": ["sh", "-c"], "args": ["exec $(Y)"]},
    ]
    first = {"name": "first", "image": "it"}
    sidecar = {"name": "proxy", "image": "it", "command": ["proxy"], "restartPolicy": "Always"}
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "creationTimestamp": None},
                "spec": {"containers": containers, "initContainers": [first, sidecar]},
            },
            **spec,
        },
    }


def applied(manifest: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    if manifest["kind"] == "Pod":
        return {**changed, **template}
    changed["spec"]["template"] = template
    return changed


def commands(template: dict[str, Any]) -> dict[str, Any]:
    containers = prepared.lasting_containers(template["spec"])
    return {one["name"]: one.get("command") for one in containers}


def test_a_template_is_prepared_once_and_is_itself_again() -> None:
    before = deployment()
    told = prepared.plan(before, "present", [{}, STARTED])
    assert commands(told["wanted"]) == {
        "proxy": [*INIT, "proxy"],
        "web": [*INIT, "/entry.sh", "$$(X)", "serve"],
        "side": [*INIT, "/entry.sh"],
        "own": [*INIT, "sh", "-c"],
    }
    spec = told["wanted"]["spec"]
    (volume,) = spec["volumes"]
    assert volume["hostPath"] == {"path": told["path"], "type": "Directory"}
    for container in prepared.lasting_containers(spec):
        (mount,) = container["volumeMounts"]
        assert (mount["name"], mount["readOnly"]) == (volume["name"], True)
    assert "volumeMounts" not in spec["initContainers"][0]
    assert spec["containers"][1]["args"] == ["--port", "80"]

    after = applied(before, told["wanted"])
    assert not prepared.plan(after, "present")["changed"]
    assert prepared.plan(after, "absent")["wanted"] == before["spec"]["template"]
    assert not prepared.plan(before, "absent")["changed"]


def test_what_was_there_stays() -> None:
    before = deployment()
    template = before["spec"]["template"]
    template["metadata"]["annotations"] = {"a": "b"}
    template["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    told = prepared.plan(before, "present", [STARTED])
    assert told["wanted"]["metadata"]["annotations"] == {
        "a": "b",
        prepared.FROM_IMAGE: "web,side",
    }
    assert [one["name"] for one in told["wanted"]["spec"]["volumes"]] == [
        "data",
        pod_direct.VOLUME,
    ]
    assert prepared.plan(applied(before, told["wanted"]), "absent")["wanted"] == template


def test_another_version_of_the_program_is_another_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = deployment()
    old = prepared.plan(before, "present", [STARTED])["wanted"]
    monkeypatch.setattr(prepared.placeholder, "version", lambda: "new")
    # Its containers were started by the old one by then.
    started = {name: [*INIT, *words] for name, words in STARTED.items()}
    told = prepared.plan(applied(before, old), "present", [started])
    assert told["changed"] and told["path"].endswith("/new")
    assert commands(told["wanted"]) == commands(old)


def test_a_command_that_only_the_image_has_is_asked_for() -> None:
    told = prepared.plan(deployment(), "present", [{"web": ["serve"]}])
    assert (told["unknown"], told["wanted"], told["changed"]) == (["side"], None, False)
    assert prepared.plan(deployment(), "absent")["unknown"] == []


def test_its_pods_are_found_and_one_is_tried() -> None:
    expressions = [
        {"key": "a", "operator": "In", "values": ["1", "2"]},
        {"key": "b", "operator": "NotIn", "values": ["3"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "web"}, "matchExpressions": expressions}
    claims = [{"metadata": {"name": "data"}}]
    made = {
        **deployment(selector=selector, volumeClaimTemplates=claims),
        "kind": "StatefulSet",
    }
    told = prepared.plan(made, "present", [STARTED])
    assert told["selectors"] == ["app=web", "a in (1,2)", "b notin (3)", "c", "!d"]
    assert told["pod"]["metadata"]["name"] == "web-prepared"
    assert [one["name"] for one in told["pod"]["spec"]["volumes"]] == [pod_direct.VOLUME, "data"]
    assert len(told["wanted"]["spec"]["volumes"]) == 1


def test_a_pod_is_made_anew_with_its_name() -> None:
    before = {
        "kind": "Pod",
        "metadata": {"name": "it", "namespace": "default", "uid": "1", "resourceVersion": "2"},
        "spec": {"nodeName": "node1", "containers": [{"name": "web", "image": "it"}]},
        "status": {"phase": "Running"},
    }
    told = prepared.plan(before, "present", [STARTED])
    assert told["changed"] and told["selectors"] == []
    assert told["pod"]["metadata"] == {
        "name": "it",
        "namespace": "default",
        "annotations": {prepared.FROM_IMAGE: "web"},
    }
    assert told["pod"]["spec"]["nodeName"] == "node1" and "status" not in told["pod"]
    again = prepared.plan(applied(before, told["wanted"]), "absent")
    assert again["wanted"]["spec"] == before["spec"]


def test_filters_say_the_same_and_why_not() -> None:
    by_name = filters.FilterModule().filters()
    assert by_name["prepared_workload"](deployment()) == prepared.plan(deployment(), "present")
    with pytest.raises(AnsibleFilterError, match="the node is s390x"):
        by_name["placeholder_program"]("s390x")


class Runtime:
    """A container runtime with a pod of two containers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "config.json").write_text('{"process": {"args": ["serve"]}}')

    def containers_of(self, uid: str) -> list[Any]:
        names = {"sandbox": (True, True), "web": (False, True), "ended": (False, False)}
        return [
            type("Container", (), {"name": name, "is_sandbox": sandbox, "lives": lives})
            for name, (sandbox, lives) in names.items()
            if uid == "here"
        ]

    def spec(self, _: Any) -> Any:
        return json.loads((self._directory / "config.json").read_bytes())


def test_a_node_says_what_its_containers_were_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_commands, "container_runtime", lambda: Runtime(tmp_path))
    assert pod_commands.commands_of(["elsewhere", "here"]) == {"web": ["serve"]}
