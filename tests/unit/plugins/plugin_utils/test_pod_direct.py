# SPDX-License-Identifier: Apache-2.0
"""Which pods move directly, and the manifest of their copies."""

from __future__ import annotations

import base64
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import (
    placeholder,
    pod_direct,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for fake_cluster

from fake_cluster import member, pod

ABOUT = {
    "place": "default_redis_uid",
    "containers": {"redis": {"direct": {"command": ["redis-server", "--name", "$(HOST)"]}}},
}


def with_probe(**probe: int) -> dict[str, Any]:
    made = pod()
    made["spec"]["containers"][0]["livenessProbe"] = {"exec": {"command": ["true"]}, **probe}
    return made


def changed(**spec: Any) -> dict[str, Any]:
    made = pod()
    made["spec"].update(spec)
    return made


def mounting(volume: dict[str, Any]) -> dict[str, Any]:
    made = changed(volumes=[{"name": "data", **volume}])
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return made


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (member(), "very name"),
        (with_probe(periodSeconds=5), "livenessProbe of redis"),
        (
            changed(containers=[{"name": "a", "lifecycle": {"postStart": {"exec": {}}}}]),
            "postStart hooks would be run once more: a",
        ),
    ],
)
def test_a_pod_is_refused_with_the_reason(refused: dict[str, Any], reason: str) -> None:
    with pytest.raises(FlowferryError, match=reason) as raised:
        pod_direct.refuse(refused)
    assert raised.value.code == "direct_impossible"


@pytest.mark.parametrize(
    "accepted",
    [
        pod(),
        mounting({"configMap": {"name": "it"}}),
        mounting({"emptyDir": {}}),
        changed(containers=[{"name": "a"}, {"name": "b"}]),
        with_probe(periodSeconds=20),
    ],
)
def test_others_are_not(accepted: dict[str, Any]) -> None:
    pod_direct.refuse(accepted)


def test_a_copy_begins_as_a_placeholder_and_loses_nothing() -> None:
    """Of a copy of a copy there is one placeholder, and its place; words are not expanded again."""
    source = mounting({"configMap": {"name": "it"}})
    source["spec"]["containers"][0]["args"] = ["--name", "$(HOST)"]
    copy = pod_direct.with_placeholders(ABOUT, source)
    again = pod_direct.with_placeholders({**ABOUT, "place": "default_redis-moved_other"}, copy)
    for made, place in ((copy, "default_redis_uid"), (again, "default_redis-moved_other")):
        (container,) = made["spec"]["containers"]
        assert container["command"] == [
            *("/.flowferry/placeholder", "redis-server", "--name", "$$(HOST)")
        ]
        assert "args" not in container and made["metadata"]["labels"] == {}
        assert [one["mountPath"] for one in container["volumeMounts"]] == ["/data", "/.flowferry"]
        assert container["volumeMounts"][1]["readOnly"]
        assert [one["name"] for one in made["spec"]["volumes"]] == ["data", pod_direct.VOLUME]
        assert pod_direct.place_of(made) == place and pod_direct.was_moved_directly(made)
    assert not pod_direct.was_moved_directly(source)
    assert pod_direct.without_place(copy)["spec"]["volumes"] == source["spec"]["volumes"]


def test_a_machine_unlike_the_controller_is_refused() -> None:
    with pytest.raises(FlowferryError, match="the node is s390x"):
        placeholder.program("s390x")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The placeholder as a node gets it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = tmp_path / "placeholder"
    made.write_bytes(base64.b64decode(placeholder.program(platform.machine())))
    made.chmod(0o755)
    return made


def test_a_placeholder_ends_by_a_signal_when_nothing_has_come(program: Path) -> None:
    with subprocess.Popen([program, "true"]) as running:
        try:
            wait_until_it_waits(program, running.pid)
            running.terminate()
            assert running.wait(10) == 128 + signal.SIGTERM
        finally:
            running.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a directory: run as root")
def test_where_an_application_has_come_its_command_is_run(program: Path, tmp_path: Path) -> None:
    """In a container that is started again; the command is found by PATH."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "moved").write_text("7")
    root = "mount -t tmpfs none /mnt && mkdir -p /mnt/.flowferry /mnt/bin /mnt/lib /mnt/usr"
    binds = "for d in bin lib usr; do mount --bind /$d /mnt/$d; done"
    binds += "; [ ! -e /lib64 ] || { mkdir /mnt/lib64 && mount --bind /lib64 /mnt/lib64; }"
    binds += f"; mount --bind {place} /mnt/.flowferry"
    inside = f"cp {program} /mnt/placeholder && exec chroot /mnt /placeholder sh -c 'exit 3'"
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{root}; {binds}; {inside}"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        timeout=30,
    )
    assert ended.returncode == 3


def wait_until_it_waits(program: Path, pid: int) -> None:
    """It waits for signals, and for nothing else: none is lost from here on."""
    process, deadline = Path(f"/proc/{pid}"), time.monotonic() + 10
    while time.monotonic() < deadline:
        state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "S" and (process / "exe").readlink() == program:
            return
        time.sleep(0.005)
    raise AssertionError(f"process {pid} does not wait for signals")
