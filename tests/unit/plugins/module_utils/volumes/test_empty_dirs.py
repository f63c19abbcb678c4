# SPDX-License-Identifier: Apache-2.0
"""emptyDir volumes: what waits on a node, where it is moved, and that nothing is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.volumes import empty_dirs
from ansible_collections.flowferry.core.plugins.module_utils.volumes.empty_dirs import (
    EmptyDirs,
    directory_of,
    found_of,
)
from ansible_collections.flowferry.core.plugins.module_utils.volumes.model import Volume

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
KINDS = [("disk", ""), ("memory", "Memory")]


class Kubelet:
    """The directories of a node's kubelet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pods").mkdir(parents=True)

    def start(self, uid: str, medium: str) -> Path:
        """A pod with one emptyDir, as it is before its containers are."""
        path = directory_of(self.root, uid, "data")
        path.mkdir(parents=True)
        if medium:
            subprocess.run(["mount", "-t", "tmpfs", "kubelet", path], check=True)
        path.chmod(0o777)
        return path

    def end(self, uid: str) -> None:
        """As the kubelet removes a pod's volumes; one that is not there is fine."""
        path = directory_of(self.root, uid, "data")
        if path.is_mount():
            subprocess.run(["umount", path], check=True)
        shutil.rmtree(path, ignore_errors=True)

    def left(self) -> list[str]:
        """What is not the kubelet's own."""
        return [one.name for one in self.root.iterdir() if one.name != "pods"]


@pytest.fixture
def kubelet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubelet]:
    made = Kubelet(tmp_path / "kubelet")
    monkeypatch.setattr(empty_dirs, "kubelet_root", lambda: str(made.root))
    monkeypatch.setattr(empty_dirs, "STATE", tmp_path / "state")
    yield made
    for mount in sorted(made.root.rglob("*")):
        if os.path.ismount(mount):
            subprocess.run(["umount", mount], check=True)


def dirs() -> EmptyDirs:
    """As another helper would have them."""
    return EmptyDirs('pod "default/redis"', "pod.default_redis")


def chosen(medium: str) -> list[Volume]:
    told = {"name": "data", "medium": medium, "mounted_at": ["/data"]}
    return dirs().choose(found_of("source", [told]), copies=False)


def fill(root: Path) -> None:
    (root / "file").write_text("content")
    (root / "link").symlink_to("file")
    os.chown(root, 0, 1234)
    root.chmod(0o2770)


def is_filled(root: Path) -> bool:
    info = root.stat()
    assert (info.st_mode & 0o7777, info.st_gid) == (0o2770, 1234)
    return (root / "file").read_text() == "content" and (root / "link").is_symlink()


@pytest.mark.parametrize(("driver", "medium"), KINDS)
def test_they_are_found_by_the_pods_uid_and_always_copied(
    kubelet: Kubelet, driver: str, medium: str
) -> None:
    (volume,) = chosen(medium)
    assert volume.path == f"{kubelet.root}/pods/source/volumes/kubernetes.io~empty-dir/data"
    assert (volume.way, volume.driver) == ("copy", driver)
    assert str(volume) == "emptyDir data (at /data)"


def test_content_that_could_not_be_moved_into_place_is_refused(kubelet: Kubelet) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "it", kubelet.root / "pods"], check=True)
    with pytest.raises(FlowferryError, match="the same file system") as refused:
        chosen("")
    assert refused.value.code == "volume_cannot_move"


@pytest.mark.parametrize(("driver", "medium"), KINDS)
def test_a_node_without_room_is_refused(kubelet: Kubelet, driver: str, medium: str) -> None:
    volumes = chosen(medium)
    dirs().check_space(volumes)
    volumes[0].size = 1 << 60
    with pytest.raises(FlowferryError, match="need") as refused:
        dirs().check_space(volumes)
    assert refused.value.code == "no_space"


@pytest.mark.parametrize(("driver", "medium"), KINDS)
def test_content_waits_and_is_moved_in(kubelet: Kubelet, driver: str, medium: str) -> None:
    volumes = chosen(medium)
    dirs().prepare(volumes)
    (root,) = dirs().roots(volumes)
    assert root.is_mount() == bool(medium), "memory was put on a disk"
    assert root.parent.stat().st_mode & 0o777 == 0o700
    fill(root)
    there = kubelet.start("copy", medium)
    dirs().move_in(volumes, "copy")
    assert is_filled(there) and there.is_mount() == bool(medium)
    dirs().settle(volumes)
    assert is_filled(there) and kubelet.left() == []


@pytest.mark.parametrize(("driver", "medium"), KINDS)
def test_what_is_given_up_leaves_nothing_though_the_kubelet_has_ended(
    kubelet: Kubelet, driver: str, medium: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = chosen(medium)
    dirs().prepare(volumes)
    fill(dirs().roots(volumes)[0])
    monkeypatch.setattr(empty_dirs, "kubelet_root", lambda: "/nowhere")
    dirs().discard(volumes)
    assert kubelet.left() == [] and not list(empty_dirs.STATE.iterdir())
    dirs().discard(volumes)  # as after a crash


@pytest.mark.parametrize(("driver", "medium"), KINDS)
def test_a_source_that_is_not_deleted_after_all_has_its_own_back(
    kubelet: Kubelet, driver: str, medium: str
) -> None:
    volumes, path = chosen(medium), kubelet.start("source", medium)
    fill(path)
    inode = path.stat().st_ino
    dirs().set_aside(volumes, "source")
    dirs().put_back(volumes)
    assert is_filled(path) and path.stat().st_ino == inode
    assert kubelet.left() == []
    dirs().put_back(volumes)
    assert is_filled(path)


@pytest.mark.parametrize(("driver", "medium"), KINDS)
def test_a_deleted_source_is_brought_back_with_its_content(
    kubelet: Kubelet, driver: str, medium: str
) -> None:
    volumes = chosen(medium)
    fill(kubelet.start("source", medium))
    dirs().set_aside(volumes, "source")
    kubelet.end("source")
    dirs().prepare(volumes)
    there = kubelet.start("again", medium)
    dirs().move_in(volumes, "again")
    # That fails, too: before its pod is deleted in turn, the content has to wait again.
    dirs().set_aside(volumes, "again")
    kubelet.end("again")
    dirs().prepare(volumes)
    there = kubelet.start("once more", medium)
    dirs().set_aside(volumes, "once more")  # empty still: what waits is not given up for it
    there = there if there.exists() else kubelet.start("once more", medium)
    dirs().move_in(volumes, "once more")
    assert is_filled(there)
    dirs().settle(volumes)
    assert kubelet.left() == []


def test_what_another_pod_has_left_waiting_is_not_taken_for_this_one(kubelet: Kubelet) -> None:
    volumes = chosen("")
    fill(kubelet.start("source", ""))
    dirs().set_aside(volumes, "source")
    told = {"name": "data", "medium": "", "mounted_at": ["/data"]}
    later = dirs().choose(found_of("later", [told]), copies=False)
    assert not dirs().are_set_aside(later)
    dirs().prepare(later)
    assert list(dirs().roots(later)[0].iterdir()) == []


def test_a_directory_that_is_not_empty_is_not_replaced(kubelet: Kubelet) -> None:
    volumes = chosen("")
    dirs().prepare(volumes)
    fill(dirs().roots(volumes)[0])
    there = kubelet.start("copy", "")
    (there / "somebody's").touch()
    with pytest.raises(FlowferryError, match="not empty") as refused:
        dirs().move_in(volumes, "copy")
    assert refused.value.code == "restore_failed"
    assert [one.name for one in there.iterdir()] == ["somebody's"]
