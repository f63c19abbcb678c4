# SPDX-License-Identifier: Apache-2.0
"""What the plan says of volumes, what is made at a destination, and what is undone there."""

from __future__ import annotations

import copy
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.docker import _wanted
from ansible_collections.flowferry.core.plugins.module_utils.volumes import destination, source
from ansible_collections.flowferry.core.plugins.module_utils.volumes.destination import Destination
from ansible_collections.flowferry.core.plugins.module_utils.volumes.mark import Mark
from ansible_collections.flowferry.core.plugins.module_utils.volumes.model import (
    Store,
    Volume,
    collect,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="marks need root")
TITLE = 'container "it"'


class Shelf(Store):
    """An engine's volumes, in a directory."""

    removal = "shelf rm {name}"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.others: list[tuple[str, list[dict[str, Any]]]] = []
        self.details: dict[str, Any] = {}
        place.mkdir()

    def inspect(self, name: str) -> Volume | None:
        path = self.place / name
        return Volume("volume", name, str(path), **self.details) if path.exists() else None

    def create(self, volume: Volume) -> None:
        (self.place / volume.name).mkdir()

    def remove(self, name: str) -> None:
        shutil.rmtree(self.place / name)

    def home(self) -> Path:
        return self.place

    def mounts(self) -> list[tuple[str, list[dict[str, Any]]]]:
        return self.others


class Nodes:
    """A source with a volume and a bind mount, and a destination that pretends to be elsewhere."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.source, self.destination = Shelf(place / "source"), Shelf(place / "destination")
        (place / "source" / "data").mkdir()
        (place / "source" / "data" / "file").write_text("content")
        self.mounts = [volume_mount("data")]

    def chosen(self, *, copies: bool = True) -> list[Volume]:
        """As in the plan."""
        own = collect(TITLE, self.mounts, self.source, ["it"])
        found = source.look(own)
        return source.measure(self.there.choose(found, copies))

    @property
    def there(self) -> Destination:
        return Destination(TITLE, "podman.it", self.destination)

    def bind(self, *, read_only: bool = False) -> Path:
        """The only mount is a directory of the source; where it is bound on both nodes."""
        path = self.place / "bound" / "inner"
        path.mkdir(parents=True)
        mount = {"Type": "bind", "Source": str(path), "Destination": "/bound"}
        self.mounts = [{**mount, "RW": not read_only}]
        return path

    def move(self) -> list[Volume]:
        """Without a stream: the copy is made by hand."""
        volumes = self.chosen()
        source.name_lineage(volumes)
        self.there.prepare(volumes)
        for volume in volumes:
            root = self.there.root(volume)
            shutil.rmtree(root)
            shutil.copytree(volume.path, root)
            Mark(volume.lineage, receiving=True).write(root)
        return volumes

    def turned(self) -> Nodes:
        """The way back."""
        turned = copy.copy(self)
        turned.source, turned.destination = self.destination, self.source
        return turned


def volume_mount(name: str, **more: Any) -> dict[str, Any]:
    return {"Type": "volume", "Name": name, "Destination": f"/{name}", "RW": True, **more}


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr(destination, "STATE", tmp_path / "state")
    return Nodes(tmp_path)


def refusal(nodes: Nodes, **how: bool) -> FlowferryError:
    with pytest.raises(FlowferryError) as refused:
        nodes.chosen(**how)
    return refused.value


# -- plan


def test_what_the_destination_lacks_is_refused_or_copied(nodes: Nodes) -> None:
    refused = refusal(nodes, copies=False)
    assert refused.code == "has_mounts"
    assert "volume data (at /data)" in str(refused) and "none of that name" in str(refused)
    assert "volumes=copy" in str(refused)
    (volume,) = nodes.chosen()
    assert (volume.way, volume.found, volume.files) == ("copy", "absent", 2)
    assert volume.size >= 0 and volume.lineage
    assert not (nodes.place / "destination" / "data").exists()


def test_an_empty_namesake_does_not_prove_that_it_is_the_same(nodes: Nodes) -> None:
    (nodes.place / "destination" / "data").mkdir()
    assert "another one of that name" in str(refusal(nodes, copies=False))
    refused = refusal(nodes)
    assert refused.code == "volume_taken"
    assert "`shelf rm data`" in str(refused)


def test_the_same_storage_needs_no_copy(nodes: Nodes) -> None:
    """Both names lead to one directory."""
    (nodes.place / "destination" / "data").symlink_to(nodes.place / "source" / "data")
    (volume,) = nodes.chosen(copies=False)
    assert (volume.way, volume.size) == ("shared", 0)


def test_what_is_only_read_may_be_there_already(nodes: Nodes) -> None:
    """The lab's two nodes are one here: what is compared is put in between."""
    path = nodes.bind(read_only=True)
    (path / "setting").write_text("same")
    (found,) = source.look(collect(TITLE, nodes.mounts, nodes.source, ["it"]))
    found.storage = {}
    (chosen,) = nodes.there.choose([found], copies=False)
    assert chosen.way == "identical"
    (path / "setting").write_text("another")
    with pytest.raises(FlowferryError, match="have the same content in both places"):
        nodes.there.choose([found], copies=True)


def test_mounts_of_other_kinds(nodes: Nodes) -> None:
    nodes.mounts = [{"Type": "tmpfs", "Source": "", "Destination": "/t", "RW": True}]
    assert nodes.chosen(copies=False) == [], "memory is in the checkpoint"
    overlay = {"Type": "bind", "Source": "/x", "Destination": "/o", "RW": True}
    for mount, told in (
        ({**overlay, "Options": ["lowerdir=/srv", "upperdir=/u"]}, "an overlay"),
        ({**overlay, "Type": "image"}, "of type image"),
        ({**overlay, "Source": "/dev/null"}, "neither a directory nor a file"),
        (volume_mount("gone"), "gone"),
    ):
        nodes.mounts = [mount]
        refused = refusal(nodes)
        assert refused.code == "volume_cannot_move"
        assert told in str(refused)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(nodes.place / "engine.sock"))
        nodes.mounts = [{**overlay, "Source": str(nodes.place / "engine.sock")}]
        assert "neither a directory nor a file" in str(refusal(nodes))


@pytest.mark.parametrize("details", [{"driver": "nfs"}, {"options": {"o": "size=1m"}}])
def test_a_volume_of_another_driver_is_refused(nodes: Nodes, details: dict[str, Any]) -> None:
    nodes.source.details = details
    refused = refusal(nodes)
    assert refused.code == "volume_cannot_move"
    assert str(*details.values()) in str(refused)


def test_a_volume_that_others_use_is_refused(nodes: Nodes) -> None:
    inside = {"Type": "bind", "Source": str(nodes.place / "source/data/sub"), "RW": True}
    beside = {"Type": "bind", "Source": str(nodes.place / "source/data2"), "RW": True}
    nodes.source.others = [("it", [volume_mount("data")]), ("beside", [beside])]
    assert nodes.chosen()[0].users == []
    for mount in (volume_mount("data", RW=False), inside):
        nodes.source.others = [("reader", [mount])]
        refused = refusal(nodes)
        assert refused.code == "shared_with_others"
        assert "reader" in str(refused)


def test_containers_share_one_volume(nodes: Nodes) -> None:
    nodes.mounts = [volume_mount("data"), volume_mount("data", Destination="/other", RW=False)]
    (volume,) = nodes.chosen()
    assert (volume.mounted_at, volume.read_only) == (["/data", "/other"], False)


def test_space_is_looked_at(nodes: Nodes) -> None:
    (volume,) = nodes.chosen()
    nodes.there.check_space([volume])
    volume.size = 1 << 60
    with pytest.raises(FlowferryError, match="the volumes of container") as refused:
        nodes.there.check_space([volume])
    assert refused.value.code == "no_space"


def test_what_was_left_needs_no_space(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    back = moved(nodes)
    (volume,) = back.chosen()
    with (nodes.place / "source" / "data" / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 << 20)
    disk = SimpleNamespace(f_bavail=100, f_frsize=1 << 20, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    volume.size = 90 << 20  # 8 of them are there, and 16 are to stay free
    back.there.check_space([volume])
    volume.size = 100 << 20
    with pytest.raises(FlowferryError, match=r"need 9[12] MB and"):
        back.there.check_space([volume])


def test_a_mount_within_another_is_refused(nodes: Nodes) -> None:
    outer = nodes.bind()
    inner = outer / "inner"
    for path in (inner, outer.with_name("inner-beside")):
        path.mkdir()
        mount = {"Type": "bind", "Source": str(path), "Destination": f"/{path.name}", "RW": True}
        nodes.mounts.append(mount)
    found = source.look(collect(TITLE, nodes.mounts, nodes.source, ["it"]))
    for volume in found:
        volume.storage = {}
    shutil.rmtree(outer.parent)
    with pytest.raises(FlowferryError, match=f"mounts {inner} besides {outer}, which has it"):
        nodes.there.choose(found, copies=True)


# -- made, and undone


def test_a_copy_that_is_given_up_leaves_nothing(nodes: Nodes) -> None:
    volumes = nodes.move()
    assert (nodes.place / "destination" / "data" / "file").exists()
    nodes.there.discard(volumes)  # by another helper, which knows what the record says
    assert list((nodes.place / "destination").iterdir()) == []
    assert list((nodes.place / "state").iterdir()) == []
    nodes.there.discard(volumes)


def test_what_was_not_made_is_not_removed(nodes: Nodes) -> None:
    """The move fails before it makes anything, and somebody else makes a volume."""
    volumes = nodes.chosen()
    (nodes.place / "destination" / "data").mkdir()
    nodes.there.discard(volumes)
    assert (nodes.place / "destination" / "data").exists()


@pytest.mark.parametrize("there", ["nothing", "parents", "empty"])
def test_a_bind_mount_leaves_no_directories_behind(nodes: Nodes, there: str) -> None:
    path = nodes.bind()
    volumes = source.look(collect(TITLE, nodes.mounts, nodes.source, ["it"]))
    volumes[0].storage = {}
    shutil.rmtree(path if there == "parents" else path.parent)
    if there == "empty":
        path.mkdir(parents=True)
        path.chmod(0o711)
    before = path.stat() if there == "empty" else None
    volumes = nodes.there.choose(volumes, copies=True)
    nodes.there.prepare(volumes)
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text("x")
    path.chmod(0o700)
    nodes.there.discard(volumes)
    if before is not None:
        assert list(path.iterdir()) == []
        after = path.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        assert Mark.read(path) == Mark()
    else:
        assert path.parent.exists() == (there == "parents") and not path.exists()


def test_a_bind_mount_over_something_else_is_refused(nodes: Nodes) -> None:
    path = nodes.bind()
    (found,) = source.look(collect(TITLE, nodes.mounts, nodes.source, ["it"]))
    found.storage = {}
    (path / "somebody's").write_text("x")
    with pytest.raises(FlowferryError, match=f"`rm -r {path}`") as refused:
        nodes.there.choose([found], copies=True)
    assert refused.value.code == "volume_taken"


# -- the way back


def moved(nodes: Nodes) -> Nodes:
    """The workload has moved, the source's volume is left behind; the nodes as for the way back."""
    volumes = nodes.move()
    nodes.there.settle(volumes)
    source.leave(volumes)
    assert not any((nodes.place / "state").iterdir())
    return nodes.turned()


def test_what_was_left_is_taken_up_again(nodes: Nodes) -> None:
    back = moved(nodes)
    (volume,) = back.chosen()
    assert (volume.way, volume.found) == ("copy", "left")
    assert volume.lineage == Mark.read(nodes.place / "source" / "data").lineage


def test_what_was_changed_since_is_kept(nodes: Nodes) -> None:
    back = moved(nodes)
    (nodes.place / "source" / "data" / "mine").touch()
    assert "somebody has changed since" in str(refusal(back))


def test_what_another_volume_has_left_is_kept(nodes: Nodes) -> None:
    """The volume at the workload was made anew, so what is left is not an earlier state of it."""
    back = moved(nodes)
    shutil.rmtree(nodes.place / "destination" / "data")
    (nodes.place / "destination" / "data").mkdir()
    assert refusal(back).code == "volume_taken"


def test_what_was_left_and_is_used_by_somebody_is_kept(nodes: Nodes) -> None:
    back = moved(nodes)
    mount = {"Type": "bind", "Source": str(nodes.place / "source" / "data"), "RW": False}
    nodes.source.others = [("reader", [mount])]
    refused = refusal(back)
    assert refused.code == "volume_taken"
    assert "reader uses what an earlier move has left" in str(refused)


def test_a_way_back_that_fails_leaves_what_was_left(nodes: Nodes) -> None:
    back = moved(nodes)
    volumes = back.chosen()
    back.there.prepare(volumes)
    (nodes.place / "source" / "data" / "half").write_text("way")
    assert back.chosen()[0].found == "left", "an interrupted one can be taken up again"
    back.there.discard(volumes)
    assert (nodes.place / "source" / "data" / "file").exists()
    assert back.chosen()[0].found == "left"


# -- while the engine restores


def test_an_empty_volume_is_not_filled_from_the_image(nodes: Nodes) -> None:
    (nodes.place / "source" / "data" / "file").unlink()
    volumes = nodes.move()
    root = nodes.place / "destination" / "data"
    os.chown(root, 5, 5)
    before = root.stat()
    with nodes.there.ready(volumes):
        assert list(root.iterdir()), "engines fill what is empty"
        os.chown(root, 0, 0)
    assert list(root.iterdir()) == []
    after = root.stat()
    assert (after.st_uid, after.st_mtime_ns) == (5, before.st_mtime_ns)


def test_docker_gets_its_own_volumes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no name would be made anew, and empty."""
    monkeypatch.setattr(
        "ansible_collections.flowferry.core.plugins.module_utils.docker_engine.call",
        lambda *_: None,
    )
    asked = [{"Type": "tmpfs", "Target": "/t"}, {"Type": "volume", "Target": "/m"}]
    host = {"Binds": ["data:/data", "/srv:/srv:ro"], "Mounts": asked, "VolumesFrom": ["other"]}
    mounts = [
        volume_mount("data"),
        {"Type": "bind", "Source": "/srv", "Destination": "/srv", "RW": False},
        {"Type": "tmpfs", "Source": "", "Destination": "/t", "RW": True},
        volume_mount("abc", Destination="/image"),
        volume_mount("def", Destination="/m", RW=False),
    ]
    record = {"config": {"Image": "x"}, "host_config": host, "mounts": mounts}
    made = _wanted(record, {"image": "x", "image_id": "y"}, "pause")["HostConfig"]
    assert made["Binds"] == ["data:/data", "/srv:/srv:ro", "abc:/image", "def:/m:ro"]
    assert made["Mounts"] == asked[:1]
    assert made["VolumesFrom"] is None
