# SPDX-License-Identifier: Apache-2.0
"""What a stream of volumes must not do: nothing leads out of a volume, whatever the source says."""

from __future__ import annotations

import json
import os
import random
import socket
import string
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.transfer import JsonLines
from ansible_collections.flowferry.core.plugins.module_utils.volumes import receiver
from ansible_collections.flowferry.core.plugins.module_utils.volumes.tree import MARK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
PLAIN = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0}


def entry(path: str, kind: str = "file", **more: Any) -> dict[str, Any]:
    return {"path": path, "kind": kind, **PLAIN, **more}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A volume with a few things in it, beside something that is nobody's business."""
    volume = tmp_path / "volume"
    (volume / "directory").mkdir(parents=True)
    (volume / "file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("outside")
    (volume / "to outside").symlink_to(tmp_path / "outside")
    (volume / "to file").symlink_to(tmp_path / "outside" / "file")
    return tmp_path


def carry_out(place: Path, *steps: Any) -> None:
    """What a source sends, to its end; what went wrong is raised."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    for step in steps:
        theirs.sendall(step if isinstance(step, bytes) else json.dumps(step).encode() + b"\n")
    theirs.shutdown(socket.SHUT_WR)
    made = receiver.VolumeReceiver(JsonLines(ours), [place / "volume"])
    try:
        made.serve()
    finally:
        made.close()
        ours.close()
        theirs.close()


def outside(place: Path) -> dict[str, Any]:
    """All that a stream must not change."""
    return {
        str(path): (path.lstat()[:7], path.lstat().st_mtime_ns, path.read_bytes())
        for path in sorted((place / "outside").rglob("*"))
    } | {"names": sorted(path.name for path in place.iterdir())}


WAYS_OUT = [
    "../outside/file",
    "..",
    "directory/../../outside/file",
    "/etc/flowferry",
    "to outside/file",
    "to outside/new",
    "./file",
    "directory//x",
    "directory/",
    "a\0b",
    "x" * 300,
    "/".join("x" * 4000),
    7,
    None,
    ["file"],
]
STEPS: list[dict[str, Any]] = [
    {"op": "remove"},
    {"op": "file", "fresh": True},
    {"op": "file", "fresh": False},
    {"op": "aside", "number": 1},
    {"op": "another name", "of": "file"},
]


@pytest.mark.parametrize("path", WAYS_OUT, ids=lambda path: str(path)[:20])
def test_no_path_leads_out(place: Path, path: Any) -> None:
    before = outside(place)
    steps = [{**step, "path": path} for step in STEPS]
    steps += [{"op": "make", "entry": entry(path, kind)} for kind in ("directory", "pipe")]
    steps += [{"op": "make", "entry": entry(path, "link", target="/etc")}]
    steps += [{"op": "attributes", "entry": entry(path, uid=1)}]
    steps += [{"op": "another name", "path": "new", "of": path}]
    for step in steps:
        with pytest.raises(FlowferryError) as refused:
            carry_out(place, step)
        assert refused.value.code == "transfer_failed"
        assert outside(place) == before


@pytest.mark.parametrize("name", ["to file", "to outside"])
def test_a_link_is_not_written_through(place: Path, name: str) -> None:
    before = outside(place)
    for fresh in (True, False):
        with pytest.raises(FlowferryError):
            carry_out(
                place,
                {"op": "file", "path": name, "fresh": fresh},
                {"op": "data", "at": 0, "length": 7},
                b"changed",
                {"op": "close", "entry": entry(name, size=7)},
            )
        assert outside(place) == before
    carry_out(place, {"op": "attributes", "entry": entry(name, "link", uid=7, gid=7)})
    assert (place / "volume" / name).lstat().st_uid == 7
    assert outside(place) == before


def test_a_link_that_comes_in_the_way_is_not_followed(place: Path) -> None:
    """A directory that was opened before becomes a link."""
    before = outside(place)
    with pytest.raises(FlowferryError):
        carry_out(
            place,
            {"op": "make", "entry": entry("directory/first", "pipe")},
            {"op": "remove", "path": "directory/first"},
            {"op": "remove", "path": "directory"},
            {"op": "make", "entry": entry("directory", "link", target=str(place / "outside"))},
            {"op": "file", "path": "directory/file", "fresh": False},
        )
    assert outside(place) == before


@pytest.mark.parametrize(
    "step",
    [
        {"op": "die_for_test"},
        {"op": None},
        {},
        [],
        7,
        {"volume": 1},
        {"volume": -1},
        {"volume": "0"},
        {"op": "make", "entry": entry("device", "character device")},
        {"op": "make", "entry": entry("device", "block device")},
        {"op": "make", "entry": entry("new", "elephant")},
        {"op": "make", "entry": {"path": "new"}},
        {"op": "make", "entry": {**entry("new"), "more": 1}},
        {"op": "make", "entry": entry("new", "link")},
        {"op": "attributes", "entry": entry("file", mode=0o100644)},
        {"op": "attributes", "entry": entry("file", mode="0")},
        {"op": "attributes", "entry": entry("file", attributes={MARK: ""})},
        {"op": "attributes", "entry": entry("file", attributes={"user.x": "%%"})},
        {"op": "attributes", "entry": entry("file", "directory")},
        {"op": "attributes", "entry": entry("missing")},
        {"op": "file", "path": "directory", "fresh": False},
        {"op": "data", "at": 0, "length": 3},
        {"op": "close", "entry": entry("file", size=3)},
        {"op": "back", "path": "new", "number": "../../outside/file"},
        {"op": "back", "path": "new", "number": 3},
        {"op": "remove", "path": ""},
    ],
    ids=str,
)
def test_a_step_that_means_nothing_is_refused(place: Path, step: Any) -> None:
    before = outside(place)
    with pytest.raises(FlowferryError) as refused:
        carry_out(place, step, b"xyz")
    assert refused.value.code == "transfer_failed"
    assert outside(place) == before


@pytest.mark.parametrize(
    "part",
    [
        {"op": "data", "at": -1, "length": 3},
        {"op": "data", "at": 0, "length": -3},
        {"op": "data", "at": 0, "length": 1 << 40},
        {"op": "data", "at": 1 << 62, "length": 3},
        {"op": "data", "at": "x", "length": 3},
        {"op": "hole", "at": 0, "length": 0},
        {"op": "hole", "at": -5, "length": 3},
        {"op": "close", "entry": entry("file", size=-1)},
        {"op": "close", "entry": entry("file", size=1 << 62)},
        {"op": "close", "entry": entry("another")},
    ],
    ids=str,
)
def test_sizes_that_lie_are_refused(place: Path, part: dict[str, Any]) -> None:
    with pytest.raises(FlowferryError):
        carry_out(place, {"op": "file", "path": "file", "fresh": False}, part, b"xyz")


def test_a_pipe_in_the_place_of_a_file_does_not_block(place: Path) -> None:
    os.mkfifo(place / "volume" / "pipe")
    with pytest.raises(FlowferryError):
        carry_out(place, {"op": "file", "path": "pipe", "fresh": False})


def test_a_stream_that_ends_early_is_noticed(place: Path) -> None:
    with pytest.raises(FlowferryError, match="ended early"):
        carry_out(
            place,
            {"op": "file", "path": "file", "fresh": False},
            {"op": "data", "at": 0, "length": 100},
            b"short",
        )


def test_a_message_without_an_end_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "LONGEST_LINE", 100)
    with pytest.raises(ValueError, match="does not end"):
        carry_out(place, b"[" * 200)


VALUES = [None, True, -1, 0, 3, 1 << 63, 0.5, "", "file", "directory", "to outside", "..", [], {}]


def noise(chance: random.Random, depth: int = 0) -> Any:
    """Some JSON; what has the right words in it gets furthest."""
    if depth < 2 and chance.random() < 0.5:
        words = ["op", "path", "entry", "at", "length", "fresh", "number", "of", "volume", "last"]
        return {chance.choice(words): noise(chance, depth + 1) for _ in range(4)}
    if chance.random() < 0.3:
        return "".join(chance.choices(string.printable + "\udcff/", k=chance.randrange(12)))
    return chance.choice(VALUES)


@pytest.mark.parametrize("seed", range(8))
def test_noise_harms_nothing(place: Path, seed: int) -> None:
    chance = random.Random(seed)
    operations = ["aside", "back", "remove", "make", "file", "data", "hole", "close", "attributes"]
    operations += ["end", "another name"]
    before = outside(place)
    for _ in range(150):
        paths = ["file", "directory", "to file", "to outside/file", "directory/new", "../x", ""]
        kinds = ["file", "directory", "link", "pipe", "socket", "block device"]
        steps = []
        for _ in range(chance.randrange(1, 6)):
            step = {
                "op": chance.choice(operations),
                "fresh": chance.random() < 0.5,
            }
            step |= {"path": chance.choice(paths), "of": chance.choice(paths), "number": 1}
            step |= {"at": chance.choice([0, 5, -1]), "length": chance.choice([0, 3, 1 << 50])}
            step["entry"] = entry(
                chance.choice(paths), chance.choice(kinds), target=str(place / "outside")
            )
            made = noise(chance)
            if isinstance(made, dict) and chance.random() < 0.5:
                step |= made
            steps.append(step)
        with suppress(FlowferryError, ValueError):
            carry_out(place, *steps, b"xyz")
        assert outside(place) == before, steps
