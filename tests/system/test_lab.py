# SPDX-License-Identifier: Apache-2.0
"""The embedded lab itself: it starts once, heals, and ends without a trace."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.lab_control import Lab, Played

NUMBER = 8
"""A lab beside the one that migrations are tested in: this one gets broken."""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("run: sudo make system")
    lab = Lab(NUMBER, tmp_path_factory.mktemp("state"))
    try:
        lab.playbook("lab.yml").must_succeed()
        yield lab
    finally:
        lab.end()


def changed(played: Played) -> list[tuple[str, str]]:
    """Tasks that changed something, with their hosts."""
    return [(task, host) for task, host, result in played.results if result.get("changed")]


def pids() -> dict[str, int]:
    """The init of every host, by name."""
    hosts = Path(f"/run/flowferry/lab{NUMBER}/hosts")
    return {path.parent.name: record(path)["pid"] for path in hosts.glob("*/host.json")}


def record(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def remains() -> list[str]:
    """Whatever on this machine belongs to the lab."""
    cgroups = Path("/sys/fs/cgroup").glob(f"**/flowferry-lab{NUMBER}-*")
    links = json.loads(subprocess.check_output(["ip", "-j", "link", "show"]))
    state = Path(f"/run/flowferry/lab{NUMBER}")
    return [
        *map(str, cgroups),
        *(link["ifname"] for link in links if link.get("ifname", "").startswith(f"ffm{NUMBER}")),
        *([str(state)] if state.exists() else []),
        *processes_of_lab(),
    ]


def processes_of_lab() -> list[str]:
    """Processes with the lab's directory in their command line, such as ssh connections."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if f"/run/flowferry/lab{NUMBER}/".encode() in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def test_a_second_run_changes_nothing(fragile: Lab) -> None:
    before = pids()
    again = fragile.playbook("lab.yml").must_succeed()
    assert changed(again) == []
    assert pids() == before


def test_check_mode_of_a_running_lab_promises_nothing(fragile: Lab) -> None:
    assert changed(fragile.playbook("lab.yml", "--check").must_succeed()) == []


def test_the_hosts_reach_each_other_through_the_switch(fragile: Lab) -> None:
    for host, number in (("client", 11), ("node1", 12), ("node2", 3)):
        assert "1 received" in fragile.run(host, f"ping -c 1 -W 5 198.19.{NUMBER}.{number}")


def test_what_broke_is_mended_and_nothing_else_is_touched(fragile: Lab) -> None:
    """A host that died comes back; a removed cable is put back without a restart."""
    before = pids()
    fragile.run("node1", "ip link delete data0")
    os.kill(before["node2"], 9)
    fragile.playbook("lab.yml").must_succeed()
    after = pids()
    assert after.pop("node2") != before.pop("node2")
    assert after == before
    # The switch has a new port1 and port2: it must forward there as before.
    for number in (11, 12):
        assert "1 received" in fragile.run("client", f"ping -c 1 -W 5 198.19.{NUMBER}.{number}")
    assert "localhost/redis" in fragile.run("node2", "podman images")


def test_the_status_shows_hosts_containers_and_routes(fragile: Lab) -> None:
    shown = fragile.playbook("lab_status.yml").must_succeed()
    text = "\n".join(shown.task("Hosts, workloads and switch entries")["msg"])
    for name, pid in pids().items():
        assert f"{name}: runs, pid {pid}" in text
    assert f"route destination=198.19.{NUMBER}.12/32 -> forward(port=2" in text
    assert f"arp target=198.19.{NUMBER}.0/24 -> answer" in text


def test_the_same_container_id_on_two_nodes_is_two_cgroups(fragile: Lab) -> None:
    """A moved container keeps its id; freezing the original must not freeze the copy."""
    inside = {}
    for node in ("node1", "node2"):
        # Podman names the cgroup after the id, so the same name is the same id.
        fragile.run(node, "podman run --detach --name twin --network none localhost/redis:lab")
        pid = fragile.run(node, "podman inspect --format '{{.State.Pid}}' twin")
        inside[node] = fragile.run(node, f"cat /proc/{pid}/cgroup")
        fragile.run(node, "podman rm --force --time 0 twin")
    for node, cgroups in inside.items():
        assert "/libpod_parent/libpod-" in cgroups
        assert f"flowferry-lab{NUMBER}-{node}" not in cgroups, "the node sees the machine's cgroups"


def test_teardown_leaves_nothing_even_of_a_frozen_container(fragile: Lab) -> None:
    """A process in a frozen v1 cgroup does not die before it is thawed."""
    fragile.run("node1", "podman run --detach --name stuck --network none localhost/redis:lab")
    fragile.run("node1", "podman pause stuck")
    assert "Paused" in fragile.run("node1", "podman ps --all --format '{{.Status}}'")
    fragile.end()
    assert remains() == []
    assert changed(fragile.playbook("teardown.yml").must_succeed()) == []
