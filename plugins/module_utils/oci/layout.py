# SPDX-License-Identifier: Apache-2.0
"""OCI image layouts: a directory of blobs with an index that names the images."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from .blobs import INDEX, MANIFEST, Blob, Image, canonical

NAME = "org.opencontainers.image.ref.name"
# containerd takes the whole name from this one.
CONTAINERD_NAME = "io.containerd.image.name"


def index_of(image: Image, name: str) -> bytes:
    """The index of a layout with this one image. It has the annotations, too."""
    manifest = Blob.of(image.manifest)
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": manifest.digest,
                    "size": manifest.size,
                    "annotations": {**image.annotations, NAME: name, CONTAINERD_NAME: name},
                }
            ],
            "annotations": image.annotations,
        }
    )


def digest_in(directory: Path) -> str:
    """The digest of the image in a layout; empty when there is none."""
    try:
        index: dict[str, Any] = json.loads((directory / "index.json").read_bytes())
        digest = str(index["manifests"][0]["digest"])
    except (OSError, ValueError, LookupError):
        return ""
    return digest if (directory / "blobs" / digest.replace(":", "/")).is_file() else ""


def write_layout(image: Image, name: str, directory: Path) -> None:
    """Write the image; the index comes last, so that what it names is there."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for blob in [Blob.of(image.manifest), *image.blobs]:
        target = blobs / blob.digest.partition(":")[2]
        if not target.exists():
            partial = target.with_name(target.name + ".partial")
            with blob.open() as source, partial.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            partial.replace(target)
    (directory / "oci-layout").write_bytes(canonical({"imageLayoutVersion": "1.0.0"}))
    (directory / "index.json").write_bytes(index_of(image, name))


def write_archive(image: Image, name: str, path: Path) -> None:
    """The same as one tar file, which image stores import."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", Blob.of(canonical({"imageLayoutVersion": "1.0.0"})))
        _add(tar, "index.json", Blob.of(index_of(image, name)))
        for blob in [Blob.of(image.manifest), *image.blobs]:
            _add(tar, "blobs/" + blob.digest.replace(":", "/"), blob)


def _add(tar: tarfile.TarFile, name: str, blob: Blob) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = blob.size
    entry.mode = 0o644
    with blob.open() if blob.path else io.BytesIO(blob.data) as source:
        tar.addfile(entry, source)
