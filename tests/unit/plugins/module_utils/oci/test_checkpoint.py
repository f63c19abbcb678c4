# SPDX-License-Identifier: Apache-2.0
"""A checkpoint archive becomes an image that a runtime knows, always the same one."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.oci import checkpoint, layout
from ansible_collections.flowferry.core.plugins.module_utils.oci.blobs import (
    digest_of,
    read_archive,
)

BASE = "registry.example.com/redis@sha256:" + "a" * 64


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What containerd writes, with one file of the dump."""
    path = tmp_path / "checkpoint.tar"
    config = {
        "name": "redis_web_default_00000000-1111-2222-3333-444444444444_0",
        "rootfsImageName": "registry.example.com/redis:7",
        "rootfsImageRef": "registry.example.com/redis@sha256:" + "b" * 64,
    }
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("checkpoint/pages-1.img", b"\0" * 4096),
            ("config.dump", json.dumps(config).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_runtimes_find_the_container_by_annotation(archive: Path) -> None:
    image = checkpoint.build_image(archive)
    assert image.annotations[checkpoint.CONTAINERD_ANNOTATION] == "redis"
    assert image.annotations[checkpoint.CRIO_ANNOTATION] == "redis"
    assert image.annotations[checkpoint.BASE_ANNOTATION] == "registry.example.com/redis:7"


def test_the_archive_is_the_layer_as_it_is(archive: Path) -> None:
    image = checkpoint.build_image(archive)
    manifest = json.loads(image.manifest)
    assert [entry["digest"] for entry in manifest["layers"]] == [digest_of(archive.read_bytes())]
    config = json.loads(image.blobs[0].data)
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]


def test_the_same_archive_gives_the_same_digest(archive: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other name.tar"
    elsewhere.write_bytes(archive.read_bytes())
    first, second = (checkpoint.build_image(path, "", BASE) for path in (archive, elsewhere))
    assert first.digest == second.digest


def test_another_base_is_a_layer_above(archive: Path) -> None:
    image = checkpoint.build_image(archive, "", BASE)
    with tarfile.open(fileobj=io.BytesIO(image.blobs[-1].data)) as tar:
        file = tar.extractfile("config.dump")
        assert file is not None
        changed = json.load(file)
    assert changed["rootfsImageRef"] == BASE
    assert changed["rootfsImageName"] == "registry.example.com/redis:7"


def test_a_base_that_the_archive_names_already_needs_no_layer(archive: Path) -> None:
    same = "registry.example.com/redis@sha256:" + "b" * 64
    image = checkpoint.build_image(archive, "", same)
    assert len(json.loads(image.manifest)["layers"]) == 1


@pytest.mark.parametrize("content", [b"", b"no tar file", None])
def test_what_is_no_checkpoint_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FlowferryError) as refused:
        checkpoint.build_image(path)
    assert refused.value.code == "bad_checkpoint"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("redis_web_default_0_0", "redis"),
        ("k8s_redis_web_default_0_0", "redis"),
        ("redis", "redis"),
    ],
)
def test_the_container_is_known_by_its_name_in_the_pod(text: str, name: str) -> None:
    assert checkpoint.container_name(text) == name


def test_a_layout_is_whole_and_found_again(archive: Path, tmp_path: Path) -> None:
    image = checkpoint.build_image(archive)
    directory = tmp_path / "layout"
    assert layout.digest_in(directory) == ""
    layout.write_layout(image, "example.com/redis:checkpoint", directory)
    assert layout.digest_in(directory) == image.digest
    for blob in image.blobs:
        assert digest_of((directory / "blobs" / blob.digest.replace(":", "/")).read_bytes()) == (
            blob.digest
        )


def test_an_archive_of_an_image_is_read_as_it_was_written(archive: Path, tmp_path: Path) -> None:
    image = checkpoint.build_image(archive, "", BASE)
    path = tmp_path / "image.tar"
    layout.write_archive(image, "example.com/redis:checkpoint", path)
    found = read_archive(path)
    assert found.digest == image.digest
    for blob in found.blobs:
        with blob.open() as file:
            assert digest_of(file.read(blob.size)) == blob.digest
