# SPDX-License-Identifier: Apache-2.0
"""An archive gets another address; all else in it stays byte for byte."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.archive import (
    rewrite_archive,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.compression import (
    compression_of,
    packed,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.sockets import inet_sockets
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.tar import open_tar
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

pytestmark = pytest.mark.usefixtures("pycriu")

DATA = Path(__file__).with_name("data")
NEW = {"192.0.2.1": "198.51.100.7", "2001:db8::1": "2001:db8:ffff::7"}


def plain(path: Path, *more: Path) -> Path:
    """An archive of the container's checkpoint with the images of the sockets' program."""
    replaced = {
        f"checkpoint/{image.name}": image for image in (DATA / "sockets" / "files.img", *more)
    }
    with (
        tarfile.open(DATA / "podman.tar.gz") as source,
        tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as target,
    ):
        for member in source:
            if member.name in replaced:
                continue
            target.addfile(member, source.extractfile(member))
        for name, image in replaced.items():
            member = tarfile.TarInfo(name)
            member.size = image.stat().st_size
            target.addfile(member, io.BytesIO(image.read_bytes()))
    return path


@pytest.fixture(params=["none", "gzip", "zstd"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = plain(tmp_path / "plain.tar")
    with packed(tmp_path / "checkpoint.tar", request.param) as target:
        target.write(path.read_bytes())
    path.unlink()
    return tmp_path / "checkpoint.tar"


def content(path: Path) -> dict[str, bytes]:
    with open_tar(path, 1 << 30) as members:
        return {member.name: b"".join(data) for member, data in members}


def locals_of(path: Path) -> set[str]:
    found = inet_sockets(read_checkpoint(path).image("files.img"), path)
    return {str(socket.local) for socket in found}


def test_addresses_change_and_nothing_else(archive: Path) -> None:
    archive.chmod(0o640)
    before, compression = content(archive), compression_of(archive)
    changes = rewrite_archive(archive, NEW)
    assert len(changes) == 13
    after = content(archive)
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"checkpoint/files.img"}
    assert {"198.51.100.7", "2001:db8:ffff::7"} <= locals_of(archive)
    assert not {"192.0.2.1", "2001:db8::1"} & locals_of(archive)
    assert compression_of(archive) == compression
    assert archive.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_again_changes_nothing(archive: Path) -> None:
    rewrite_archive(archive, NEW)
    before = archive.stat()
    assert rewrite_archive(archive, NEW) == []
    after = archive.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


LONGER = {"192.0.2.1": "198.51.100.77", "2001:db8::1": "2001:db8:ffff:eeee:dddd:cccc:bbbb:7777"}


@pytest.mark.parametrize("new", [{"192.0.2.1": "198.51.100.77"}, LONGER], ids=["fits", "longer"])
def test_in_place(tmp_path: Path, new: dict[str, str]) -> None:
    path, other = plain(tmp_path / "one.tar"), plain(tmp_path / "other.tar")
    inode = path.stat().st_ino
    assert rewrite_archive(path, new, in_place=True) == rewrite_archive(other, new)
    found = content(path)
    found.pop("checkpoint/files.img.replaced", None)
    assert found == content(other)
    assert path.stat().st_ino == inode
    # What others make of it, too.
    with tarfile.open(path) as archive:
        member = archive.extractfile("checkpoint/files.img")
        assert member is not None and member.read() == found["checkpoint/files.img"]
    assert rewrite_archive(path, new, in_place=True) == []


def test_in_place_more_than_once(tmp_path: Path) -> None:
    path = plain(tmp_path / "one.tar")
    original = content(path)["checkpoint/files.img"]
    for _ in range(2):
        assert rewrite_archive(path, LONGER, in_place=True)
        assert rewrite_archive(path, {new: old for old, new in LONGER.items()}, in_place=True)
    assert content(path)["checkpoint/files.img"] == original


def test_an_address_in_a_dumped_network_namespace_is_refused(tmp_path: Path) -> None:
    path = plain(tmp_path / "one.tar", *(DATA / "network").glob("ifaddr-*.img"))
    before = path.read_bytes()
    with pytest.raises(FlowferryError, match=r"ifaddr-9\.img has 192\.0\.2\.1") as caught:
        rewrite_archive(path, NEW)
    assert caught.value.code == "network_in_checkpoint"
    assert path.read_bytes() == before


def test_a_failure_leaves_the_archive_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when half of the new archive is written."""
    path = plain(tmp_path / "one.tar")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        rewrite_archive(path, NEW)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["one.tar"]
