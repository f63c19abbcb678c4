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
from ansible_collections.flowferry.core.plugins.module_utils.direct.application import command_of
from ansible_collections.flowferry.core.plugins.module_utils.direct.place import PREPARED
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import (
    placeholder,
    pod_direct,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for fake_cluster

from fake_cluster import member, pod

ABOUT = {
    "place": "default_redis_uid",
    "containers": {
        "redis": {"direct": {"command": ["redis-server", "--name", "$(HOST)"], "is_child": False}}
    },
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
        (
            changed(
                initContainers=[
                    {
                        "name": "side",
                        "restartPolicy": "Always",
                        "startupProbe": {"failureThreshold": 30},
                    }
                ]
            ),
            "others wait for a probe of side",
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


def prepared() -> dict[str, Any]:
    path = f"{PREPARED}/1"
    made = changed(volumes=[{"name": pod_direct.VOLUME, "hostPath": {"path": path}}])
    mount = {"name": pod_direct.VOLUME, "mountPath": "/.flowferry"}
    made["spec"]["containers"][0]["volumeMounts"] = [mount]
    return made


def test_a_prepared_pod_has_a_copy_like_it() -> None:
    """It has one volume for the program, and a placeholder that is the parent of what comes."""
    pod_direct.refuse(prepared())
    assert not pod_direct.was_moved_directly(prepared())
    told = {"command": ["redis-server"], "is_child": True}
    about = {**ABOUT, "containers": {"redis": {"direct": told}}}
    assert pod_direct.why(about) == pod_direct.WHY_PREPARED != pod_direct.why(ABOUT)
    made = pod_direct.with_placeholders(about, prepared())
    (container,) = made["spec"]["containers"]
    assert container["command"] == ["/.flowferry/placeholder", "--child", "redis-server"]
    assert len(container["volumeMounts"]) == len(made["spec"]["volumes"]) == 1
    assert pod_direct.place_of(made) == ABOUT["place"]


def test_a_volume_of_another_kind_at_that_place_is_refused() -> None:
    made = prepared()
    made["spec"]["volumes"][0]["hostPath"]["path"] = "/srv"
    with pytest.raises(FlowferryError, match=r"a volume at /\.flowferry"):
        pod_direct.refuse(made)


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


@pytest.mark.parametrize("words", [[], ["--child"]])
def test_a_placeholder_ends_by_a_signal_when_nothing_has_come(
    program: Path, words: list[str]
) -> None:
    with subprocess.Popen([program, *words, "true"]) as running:
        try:
            wait_until_it_waits(program, running.pid)
            running.terminate()
            assert running.wait(10) == 128 + signal.SIGTERM
        finally:
            running.kill()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["redis-server", "--init"], (["redis-server", "--init"], False)),
        (["/.flowferry/placeholder", "redis-server"], (["redis-server"], False)),
        (["/.flowferry/placeholder", "--init", "redis-server"], (["redis-server"], True)),
        (["/.flowferry/placeholder", "--child", "--init"], (["--init"], True)),
    ],
)
def test_whose_command_it_is(arguments: list[str], command: tuple[list[str], bool]) -> None:
    assert command_of(arguments) == command


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 3", 3), ("kill -9 $$", 128 + signal.SIGKILL), ("exit 0", 0)],
)
def test_an_init_ends_as_its_child_does(program: Path, script: str, status: int) -> None:
    ended = subprocess.run([program, "--init", "sh", "-c", script], timeout=30, check=False)
    assert ended.returncode == status


def test_an_init_says_as_a_shell_that_there_is_no_such_command(program: Path) -> None:
    assert subprocess.run([program, "--init", "/none"], timeout=30, check=False).returncode == 127
    assert subprocess.run([program, "--init"], timeout=30, check=False).returncode == 64


# Tells what it is, leaves orphans, and ends by one of two signals in a way of its own.
FAMILY = """
import os, signal, sys, time

def say(*words):
    print(*words, flush=True)

for number, status in ((signal.SIGTERM, 5), (signal.SIGUSR1, 6)):
    signal.signal(number, lambda _, __, status=status: os._exit(status))
say(os.getppid(), os.getsid(0) == os.getpid(), len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            while os.getppid() != 1:
                time.sleep(0.001)
        os._exit(0)
for _ in range(3):
    os.wait()
say("left")
while True:
    signal.pause()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes process ids of its own: run as root")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 5), (signal.SIGUSR1, 6)])
def test_an_init_reaps_and_passes_signals_on(program: Path, number: int, status: int) -> None:
    """As the first process: what its child has left becomes its own, and nothing of it stays."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    words += [str(program), "--init", sys.executable, "-c", FAMILY]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline().split() == ["1", "True", "0"]
            assert started.stdout.readline() == "left\n"
            (init,) = children_of(started.pid)
            deadline = time.monotonic() + 20
            while len(children_of(init)) > 1:
                assert time.monotonic() < deadline, "orphans are not reaped"
                time.sleep(0.01)
            os.kill(init, number)
            assert started.wait(20) == status
        finally:
            started.kill()


def children_of(pid: int) -> list[int]:
    """Those that were not waited for are among them."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a directory: run as root")
@pytest.mark.parametrize("words", [[], ["--child"]])
def test_where_an_application_has_come_its_command_is_run(
    program: Path, tmp_path: Path, words: list[str]
) -> None:
    """In a container that is started again; the command is found by PATH."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "moved").write_text("7")
    root = "mount -t tmpfs none /mnt && mkdir -p /mnt/.flowferry /mnt/bin /mnt/lib /mnt/usr"
    binds = "for d in bin lib usr; do mount --bind /$d /mnt/$d; done"
    binds += "; [ ! -e /lib64 ] || { mkdir /mnt/lib64 && mount --bind /lib64 /mnt/lib64; }"
    binds += f"; mount --bind {place} /mnt/.flowferry"
    inside = f"cp {program} /mnt/placeholder && exec chroot /mnt"
    inside += f" /placeholder {' '.join(words)} sh -c 'exit 3'"
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
