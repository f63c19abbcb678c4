# SPDX-License-Identifier: Apache-2.0
"""An image packed from a root is what engines expect, and the same every time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.oci_archive import (
    Image,
    read_archive_id,
    write_archive,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("etc/hello")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    return path


def pack(root: Path, name: str, command: list[str] | None = None) -> Path:
    path = root.with_name(name)
    write_archive(Image([root], "localhost/hello:1", command=command or ["hello"]), path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = ((member, archive.extractfile(member)) for member in archive)
        return {member.name: data.read() for member, data in members if data is not None}


def test_every_blob_is_named_by_its_hash_and_the_chain_leads_to_the_root(root: Path) -> None:
    found = contents(pack(root, "image.tar"))
    for name, data in found.items():
        if name.startswith("blobs/sha256/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"

    def blob(descriptor: dict[str, str]) -> bytes:
        return found["blobs/" + descriptor["digest"].replace(":", "/")]

    (named,) = json.loads(found["index.json"])["manifests"]
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "localhost/hello:1"}
    manifest = json.loads(blob(named))
    (layer,) = manifest["layers"]
    assert layer["size"] == len(blob(layer))
    plain = gzip.decompress(blob(layer))
    assert plain == root.read_bytes()
    config = json.loads(blob(manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(plain).hexdigest()}"]
    assert config["config"]["Cmd"] == ["hello"]


def test_docker_finds_the_same_image_by_its_own_manifest(root: Path) -> None:
    path = pack(root, "image.tar")
    found = contents(path)
    (image,) = json.loads(found["manifest.json"])
    assert image["RepoTags"] == ["localhost/hello:1"]
    assert image["Config"] == f"blobs/sha256/{read_archive_id(path)}"
    assert [gzip.decompress(found[layer]) for layer in image["Layers"]] == [root.read_bytes()]


def test_the_same_input_gives_the_same_bytes(root: Path) -> None:
    assert pack(root, "one.tar").read_bytes() == pack(root, "two.tar").read_bytes()


def test_roots_are_layers_and_one_that_is_compressed_is_taken_as_it_is(root: Path) -> None:
    packed = root.with_name("base.tar.gz")
    packed.write_bytes(gzip.compress(b"base", mtime=1))
    path = root.with_name("image.tar")
    write_archive(Image([packed, root], "localhost/hello:1"), path)
    found = contents(path)
    (image,) = json.loads(found["manifest.json"])
    base, upper = (found[layer] for layer in image["Layers"])
    assert base == packed.read_bytes()
    assert gzip.decompress(upper) == root.read_bytes()
    config = json.loads(found[image["Config"]])
    plain = [hashlib.sha256(each).hexdigest() for each in (b"base", root.read_bytes())]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{each}" for each in plain]
    assert len(config["history"]) == 2


def test_another_command_is_another_image(root: Path) -> None:
    one, two = pack(root, "one.tar"), pack(root, "two.tar", ["other"])
    assert read_archive_id(one) != read_archive_id(two)


def test_a_failure_leaves_no_half_archive(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_archive(Image([root.with_name("missing")], "localhost/x:1"), root.with_name("x.tar"))
    assert sorted(path.name for path in root.parent.iterdir()) == ["root.tar"]
