# SPDX-License-Identifier: Apache-2.0
"""What OCI images are made of: blobs by digest, described by small JSON documents."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
CHUNK = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """What images call this machine."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_digest(path: Path) -> str:
    """The digest of a file's content, read once."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return f"sha256:{found.hexdigest()}"


def canonical(value: Any) -> bytes:
    """The same value gives the same bytes, and so the same digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


@dataclass(frozen=True)
class Blob:
    """Content with its digest: bytes, or a part of a file."""

    digest: str
    size: int
    data: bytes = b""
    path: Path | None = None
    offset: int = 0

    @classmethod
    def of(cls, data: bytes) -> Blob:
        return cls(digest_of(data), len(data), data=data)

    def open(self) -> BinaryIO:
        """A file object at its beginning; for a part of a file the reader minds the size."""
        if self.path is None:
            return io.BytesIO(self.data)
        file = self.path.open("rb")
        file.seek(self.offset)
        return file


@dataclass(frozen=True)
class Image:
    """One image: its manifest, and the blobs that the manifest names."""

    manifest: bytes
    blobs: list[Blob]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.manifest).get("annotations") or {}
        return found


def read_archive(path: Path) -> Image:
    """The first image of an OCI archive; its layers stay in the file."""
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive.getmembers()}

        def read(name: str) -> bytes:
            file = archive.extractfile(members[name])
            assert file is not None
            with file:
                return file.read()

        index = json.loads(read("index.json"))
        manifest = read(_member(index["manifests"][0]["digest"]))
    named = json.loads(manifest)
    blobs = []
    for entry in [named["config"], *named["layers"]]:
        member = members[_member(entry["digest"])]
        blobs.append(Blob(entry["digest"], member.size, path=path, offset=member.offset_data))
    return Image(manifest, blobs)


def _member(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
