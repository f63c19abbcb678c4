# SPDX-License-Identifier: Apache-2.0
"""What a container has written outside of volumes: found, refused, packed and taken out again."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.direct import layer
from ansible_collections.flowferry.core.plugins.module_utils.direct.layer import Layer
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    made = tmp_path / "image"
    (made / "etc").mkdir(parents=True)
    (made / "etc" / "config").write_text("of the image")
    (made / "tmp").mkdir(mode=0o1777)
    return made


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    made = tmp_path / "upper"
    (made / "proc" / "deep").mkdir(parents=True)
    (made / "etc").mkdir()
    (made / "etc" / "hostname").touch()
    (made / "etc" / "mtab").symlink_to("/proc/mounts")
    (made / "run").mkdir()
    (made / "run" / "criu.kdat").write_text("lent")
    return made


def of(upper: Path, image: Path) -> Layer:
    return Layer(upper, [str(image)], {"/", "/proc/deep", "/etc/hostname"})


def test_what_runtimes_make_is_nothing(upper: Path, image: Path, tmp_path: Path) -> None:
    of(upper, image).check()
    of(upper, image).pack(tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_all_that_was_written_comes_along(
    upper: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (upper / "etc" / "config").write_text("changed")
    (upper / "srv" / "own").mkdir(parents=True)
    (upper / "srv" / "own").chmod(0o750)
    (upper / "srv" / "own" / "empty").touch()
    (upper / "srv" / "link").symlink_to("/nowhere")
    os.link(upper / "etc" / "config", upper / "srv" / "other")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(upper)
        server.bind("socket")
    of(upper, image).check()
    of(upper, image).pack(tmp_path / "archive")

    there = tmp_path / "there"
    (there / "etc").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (there / "etc" / "config").symlink_to(outside)
    monkeypatch.chdir(there)
    with (tmp_path / "archive").open("rb") as file:
        layer._take_out(file)
    assert (there / "etc" / "config").read_text() == "changed"
    assert outside.read_text() == "untouched"
    assert (there / "srv" / "other").samefile(there / "etc" / "config")
    assert (there / "srv" / "own").stat().st_mode & 0o777 == 0o750
    assert (there / "srv" / "own" / "empty").stat().st_size == 0
    assert (there / "srv" / "link").readlink() == Path("/nowhere")
    assert sorted(one.name for one in there.iterdir()) == ["etc", "srv"]


def test_a_directory_with_other_attributes_comes_along(
    upper: Path, image: Path, tmp_path: Path
) -> None:
    (upper / "tmp").mkdir()
    (upper / "tmp").chmod(0o700)
    of(upper, image).pack(tmp_path / "archive")
    assert (tmp_path / "archive").exists()


def test_too_much_is_refused(upper: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "MOST", 1 << 20)
    (upper / "large").write_bytes(bytes(2 << 20))
    with pytest.raises(FlowferryError, match="2 MB of files outside of volumes") as raised:
        of(upper, image).check()
    assert raised.value.code == "direct_impossible"


def test_where_it_is_not_known_what_was_written(image: Path) -> None:
    with pytest.raises(FlowferryError, match="no overlay"):
        Layer(None, [str(image)], set()).check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a whiteout")
def test_a_removed_file_of_the_image_is_refused(upper: Path, image: Path) -> None:
    os.mknod(upper / "gone", 0o020000, os.makedev(0, 0))
    with pytest.raises(FlowferryError, match=r"has removed a file of its image.*: /gone"):
        of(upper, image).check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets such an attribute")
def test_a_replaced_directory_of_the_image_is_refused(upper: Path, image: Path) -> None:
    """A new one has the same mark, and is not."""
    (upper / "new").mkdir()
    for name in ("new", "etc"):
        try:
            os.setxattr(upper / name, "trusted.overlay.opaque", b"y")
        except OSError as error:
            pytest.skip(f"this file system has no such attributes: {error}")
    with pytest.raises(FlowferryError, match="replaced a directory of its image: /etc"):
        of(upper, image).check()
