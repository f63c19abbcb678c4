# SPDX-License-Identifier: Apache-2.0
"""What the lab's code decides without a kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import lab
from ansible_collections.flowferry.core.plugins.module_utils.lab import (
    Host,
    HostSpec,
    Interface,
    LabError,
    Management,
)
from ansible_collections.flowferry.core.plugins.module_utils.processes import start_time

V1 = """\
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 30 0:30 / /mnt/elsewhere rw - cgroup cgroup rw,freezer
"""
V2 = "33 30 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def spec(tmp_path: Path, **other: object) -> HostSpec:
    values: dict[str, object] = {
        "name": "node1",
        "lab": "labtest",
        "state_directory": str(tmp_path),
        **other,
    }
    return HostSpec(**values)  # type: ignore[arg-type]


def test_v1_hierarchies_are_mounted_again_with_their_controllers() -> None:
    found = {str(h.path): h.options for h in lab.hierarchies(V1)}
    assert found == {
        "/sys/fs/cgroup/cpu,cpuacct": "cpu,cpuacct",
        "/sys/fs/cgroup/systemd": "none,name=systemd",
    }


def test_without_v1_the_unified_hierarchy_is_used() -> None:
    (found,) = lab.hierarchies(V2)
    assert found.unified
    assert found.path == Path("/sys/fs/cgroup")


def test_a_machine_without_cgroups_is_told_so() -> None:
    with pytest.raises(LabError, match="No cgroup hierarchy is mounted under /sys/fs/cgroup"):
        lab.hierarchies("25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n")


def test_the_management_address_gives_the_mac_so_that_neighbours_need_not_ask_again() -> None:
    assert Management("ffm0", "198.18.0.1/24", "198.18.0.11/24").mac == "02:fe:c6:12:00:0b"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({}, "no interface data0"),
        ({"flags": []}, "interface data0 is down"),
        ({"address": "02:ff:00:00:00:0c"}, "interface data0 has not the address 02:ff:00:00:00:0B"),
        ({"addr_info": []}, "interface data0 has not the address 198.19.0.11/24"),
        ({"mtu": 9000}, "interface data0 has not the MTU 1500"),
        (
            {"addr_info": [{"local": "198.19.0.11", "prefixlen": 24}]},
            "interface data0 has not the address 2001:2:0:0::11/64",
        ),
        ({"flags": ["UP"]}, ""),
    ],
)
def test_what_is_wrong_with_an_interface_is_said(entry: dict[str, object], problem: str) -> None:
    right = {
        "flags": ["UP"],
        "address": "02:ff:00:00:00:0b",
        "mtu": 1500,
        "addr_info": [
            {"local": "198.19.0.11", "prefixlen": 24},
            {"local": "2001:2::11", "prefixlen": 64},
        ],
    }
    addresses = ["198.19.0.11/24", "2001:2:0:0::11/64"]
    present = {"data0": {**right, **entry}} if entry else {}
    said = lab._link_problem(present, "data0", "02:ff:00:00:00:0B", addresses, 1500)
    assert said == problem


def test_a_host_that_never_ran_does_not_run(tmp_path: Path) -> None:
    assert Host(spec(tmp_path)).differences() == ["not running"]
    assert Host(spec(tmp_path)).remains() == []


def test_another_process_with_the_recorded_pid_is_not_the_host(tmp_path: Path) -> None:
    host = Host(spec(tmp_path))
    started = start_time(os.getpid())
    for recorded, running in ((started, True), (started - 1, False)):
        text = f'{{"pid": {os.getpid()}, "started": {recorded}, "spec": {{}}}}'
        lab._write(host.spec.directory / "host.json", text)
        assert (host.pid == os.getpid()) is running


def test_cables_may_change_without_a_restart_but_layers_may_not(tmp_path: Path) -> None:
    plain = spec(tmp_path).identity()
    cable = Interface("data0", "switch", "port1")
    assert spec(tmp_path, interfaces=[cable]).identity() == plain
    assert spec(tmp_path, layers=["/other"]).identity() != plain


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({}, "Host node1 has no layers; name the lab's root."),
        ({"layers": ["/nowhere"]}, "The root /nowhere of host node1 is missing; run the role"),
        ({"layers": ["/"]}, "The key file '' of host node1 is missing."),
        (
            {
                "layers": ["/"],
                "host_key": "/etc/passwd",
                "authorized_keys": "/etc/passwd",
                "name": "a-long-host-name",
                "management": Management("ffm0", "198.18.0.1/24", "198.18.0.2/24"),
            },
            "'ffm0-a-long-host-name' is too long for an interface; choose a shorter host name.",
        ),
    ],
)
def test_a_host_that_cannot_start_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(lab.os, "geteuid", lambda: 0)
    with pytest.raises(LabError, match="^" + message.replace(".", r"\.")):
        Host(spec(tmp_path, **other)).start()


def test_only_root_starts_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        Host(spec(tmp_path)).start()


def test_waiting_ends_with_the_message_of_that_moment() -> None:
    with pytest.raises(LabError, match="three are left"):
        lab.wait_until(lambda: False, 0.0, lambda: "three are left")


def test_a_failed_command_is_shown_with_what_it_said() -> None:
    with pytest.raises(LabError, match=r"'ls /nowhere' failed: .*No such file"):
        lab.run("ls", "/nowhere")
