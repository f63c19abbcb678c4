# SPDX-License-Identifier: Apache-2.0
"""The directory of --pin: what a process takes over, and what it refuses to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flowferry_p4.switch import bpffs, pins
from flowferry_p4.switch.errors import PinError
from flowferry_p4.switch.pins import Identity, Pins, unpin

HERE = Identity(1, 510, 4026531840)


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain directory does for what is not of the kernel."""
    monkeypatch.setattr(bpffs, "mount", lambda directory: None)
    monkeypatch.setattr(bpffs, "unmount", lambda directory: directory.rmdir())
    monkeypatch.setattr(bpffs, "is_mounted", lambda directory: directory.is_dir())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "pinned"


def left(directory: Path, ports: list[str], asked: list[str], program: str = "") -> None:
    """What a process left behind."""
    one = Pins(directory, HERE)
    number = one.new_pipeline()
    one.name_pipelines(number, 0)
    one.name_ports(ports, ())
    one.name_asked(asked, program)
    one.close()


def change(directory: Path, **changes: Any) -> None:
    state = directory / "state"
    state.write_text(json.dumps({**json.loads(state.read_text()), **changes}))


@pytest.mark.parametrize(
    ("had", "asked", "now", "ports"),
    [
        (["1@a"], ["1@a"], ["1@a"], ["1@a"]),
        (["1@a", "2@b"], ["1@a"], ["1@a"], ["1@a", "2@b"]),  # added at run time
        ([], ["1@a"], ["1@a"], []),  # removed at run time
        (["1@a", "3@c"], ["1@a"], ["1@a", "2@b"], ["1@a", "3@c", "2@b"]),
        (["1@a", "3@c"], ["1@a"], [], ["3@c"]),
        (["1@a", "3@c"], ["1@a"], ["1@x"], ["3@c", "1@x"]),
        (["1@a", "3@c"], ["1@a"], ["1@a", "3@y"], ["1@a", "3@y"]),
        (["1@a", "3@c"], ["1@a"], ["1@a", "4@c"], ["1@a", "4@c"]),
    ],
)
def test_ports_change_as_the_command_line_does(
    directory: Path, had: list[str], asked: list[str], now: list[str], ports: list[str]
) -> None:
    left(directory, had, asked)
    assert Pins(directory, HERE).ports(now) == ports


def test_a_new_directory_has_the_ports_that_are_asked_for(directory: Path) -> None:
    assert Pins(directory, HERE).ports(["1@a"]) == ["1@a"]


def test_another_switch_waits_for_no_lock(directory: Path) -> None:
    one = Pins(directory, HERE)
    with pytest.raises(PinError, match="another switch runs on"):
        Pins(directory, HERE)
    with pytest.raises(PinError, match="another switch runs on"):
        unpin(directory)
    one.close()
    Pins(directory, HERE).close()


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (Identity(2, 510, HERE.namespace), "of a switch with device 1, and this one has 2"),
        (Identity(1, 9, HERE.namespace), "with CPU port 510, and this one has 9"),
        (Identity(1, 510, 7), "with network namespace 4026531840, and this one has 7"),
    ],
)
def test_another_switch_is_refused(directory: Path, identity: Identity, message: str) -> None:
    left(directory, ["1@a"], ["1@a"])
    with pytest.raises(PinError, match=message):
        Pins(directory, identity)
    Pins(directory, HERE).close()


def test_another_format_is_refused_and_can_be_removed(directory: Path) -> None:
    left(directory, ["1@a"], ["1@a"])
    change(directory, format=pins.FORMAT + 1)
    with pytest.raises(PinError, match=f"another version of the switch.*--unpin {directory}"):
        Pins(directory, HERE)
    assert unpin(directory) is None
    assert not directory.exists()


def test_maps_that_are_not_there_are_named(directory: Path) -> None:
    left(directory, ["1@a"], ["1@a"])
    (directory / "maps/1").rmdir()
    with pytest.raises(PinError, match="its maps are not in"):
        Pins(directory, HERE)


def test_after_a_reboot_there_is_nothing(directory: Path) -> None:
    left(directory, ["1@a"], ["1@a"])
    change(directory, boot="another")
    fresh = Pins(directory, HERE)
    assert not fresh.resumes
    assert not (directory / "1").exists()


def test_a_state_that_is_not_ours_is_named(directory: Path) -> None:
    left(directory, ["1@a"], ["1@a"])
    (directory / "state").write_text("{")
    with pytest.raises(PinError, match="is not what a switch wrote"):
        Pins(directory, HERE)


def test_a_place_for_no_files_is_refused() -> None:
    with pytest.raises(PinError, match="a directory of an ordinary file system"):
        Pins(Path("/proc/flowferry"), HERE)


def test_pipelines_that_no_state_names_are_removed(directory: Path) -> None:
    """A process was killed between the pins and the state, or between the state and the end."""
    left(directory, ["1@a"], ["1@a"])
    one = Pins(directory, HERE)
    abandoned = one.new_pipeline()
    assert abandoned == 2
    one.tidy()
    assert not one.files(abandoned).exists()
    assert not one.maps_of(abandoned).exists()
    assert one.maps_of(1).is_dir()
    one.name_pipelines(one.new_pipeline(), 0)
    assert not one.files(1).exists()


def test_nothing_is_left_of_what_is_unpinned(directory: Path) -> None:
    left(directory, ["1@a"], ["1@a"])
    state = unpin(directory)
    assert state is not None
    assert state.ports == ["1@a"]
    assert not directory.exists()
    with pytest.raises(PinError, match="there is no directory"):
        unpin(directory)
