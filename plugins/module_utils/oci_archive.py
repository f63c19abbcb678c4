# SPDX-License-Identifier: Apache-2.0
"""A container image made of root filesystems, without a registry or a container engine.

The archive is an OCI layout with the manifest that ``docker load`` looks for beside it, as ``docker
save`` writes it: Docker does not read a plain OCI layout. The same input gives the same bytes, and
so the same image id on every node that loads it, which a restore needs: engines look for the image
of a checkpoint by id.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
NAME_ANNOTATION = "org.opencontainers.image.ref.name"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CHUNK = 1 << 20


GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Image:
    """What is packed: tar files, each a layer above the one before, a name, and what runs in it."""

    roots: list[Path]
    name: str
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


class _Hashing:
    """A file object that hashes and counts what is written through it."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()


@dataclass(frozen=True)
class Layer:
    """A packed root: the hash of the tar file, and hash and size of what stands in the archive."""

    plain: str
    packed: str
    size: int

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": LAYER_TYPE, "digest": f"sha256:{self.packed}", "size": self.size}


def compress_layer(root: Path, target: BinaryIO) -> Layer:
    """Write a root as a gzip layer. One that is compressed already is taken as it is."""
    packed = _Hashing(target)
    plain = hashlib.sha256()
    with root.open("rb") as source:
        is_packed = source.read(2) == GZIP
        source.seek(0)
        if is_packed:
            while chunk := source.read(CHUNK):
                packed.write(chunk)
            source.seek(0)
            with gzip.GzipFile(fileobj=source) as content:
                while chunk := content.read(CHUNK):
                    plain.update(chunk)
        else:
            # No name and no time in the gzip header: they would make every build another image.
            with gzip.GzipFile("", "wb", 6, packed, mtime=0) as layer:
                while chunk := source.read(CHUNK):
                    plain.update(chunk)
                    layer.write(chunk)
    return Layer(plain.hexdigest(), packed.sha256.hexdigest(), packed.size)


def image_config(image: Image, plain_hashes: list[str]) -> dict[str, Any]:
    machine = platform.machine()
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, **image.environment}
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one}" for one in plain_hashes]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "flowferry"}]
        * len(plain_hashes),
    }


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(archive: tarfile.TarFile, name: str, data: BinaryIO, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    archive.addfile(entry, data)


def _blob_name(descriptor: dict[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


def _documents(image: Image, layers: list[Layer]) -> dict[str, bytes]:
    """Everything but the layers, by its name in the archive."""
    config = _json(image_config(image, [layer.plain for layer in layers]))
    config_at = _descriptor(CONFIG_TYPE, config)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config_at,
            "layers": [layer.descriptor for layer in layers],
        }
    )
    manifest_at = _descriptor(MANIFEST_TYPE, manifest)
    named = {**manifest_at, "annotations": {NAME_ANNOTATION: image.name}}
    for_docker = {
        "Config": _blob_name(config_at),
        "RepoTags": [image.name],
        "Layers": [_blob_name(layer.descriptor) for layer in layers],
    }
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [named]}),
        "manifest.json": _json([for_docker]),
        _blob_name(config_at): config,
        _blob_name(manifest_at): manifest,
    }


def write_archive(image: Image, path: Path) -> str:
    """Write the image as an OCI archive, in one step, and return its id."""
    partial = path.with_name(path.name + ".partial")
    with tempfile.TemporaryFile(dir=path.parent) as packed:
        layers = [compress_layer(root, packed) for root in image.roots]
        packed.seek(0)
        try:
            with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
                for name, data in _documents(image, layers).items():
                    _add(archive, name, io.BytesIO(data), len(data))
                for layer in layers:
                    _add(archive, _blob_name(layer.descriptor), packed, layer.size)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return read_archive_id(path)


def read_archive_id(path: Path) -> str:
    """The id of the image in an archive, which is the hash of its config."""
    with tarfile.open(path) as archive:
        index = _read_json(archive, "index.json")
        manifest = _read_json(archive, _blob_name(index["manifests"][0]))
    return str(manifest["config"]["digest"]).partition(":")[2]


def _read_json(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file in the archive")
    with member:
        return json.load(member)
