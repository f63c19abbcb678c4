# SPDX-License-Identifier: Apache-2.0
"""An image made of a kubelet's checkpoint archive, which container runtimes restore from.

The archive is the first layer as it is, uncompressed: nothing is read twice, and the same archive
gives the same digest. What has to be changed in it goes into a second, tiny layer.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from .blobs import CONFIG, MANIFEST, PLAIN_LAYER, Blob, Image, architecture, canonical, file_digest

# By these a runtime knows a checkpoint from an ordinary image; the value is the container's name.
CRIO_ANNOTATION = "io.kubernetes.cri-o.annotations.checkpoint.name"
CONTAINERD_ANNOTATION = "org.criu.checkpoint.container.name"
BASE_ANNOTATION = "org.opencontainers.image.base.name"

CONFIG_DUMP = "config.dump"


def read_config(archive: Path) -> dict[str, Any]:
    """What the runtime wrote about the container: its base image, its name, times."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.lstrip("./") == CONFIG_DUMP:
                    file = tar.extractfile(member)
                    assert file is not None
                    found: dict[str, Any] = json.load(file)
                    return found
    except (OSError, tarfile.TarError, ValueError) as error:
        raise FlowferryError(
            "bad_checkpoint", f"{archive} cannot be read as a checkpoint: {error}"
        ) from error
    raise FlowferryError(
        "bad_checkpoint",
        f"{archive} has no {CONFIG_DUMP}, so it is no checkpoint of a kubelet; give the archive "
        "that the kubelet wrote",
    )


def container_name(text: str) -> str:
    """The name in the pod, of what the kubelet calls it: [k8s_]NAME_POD_NAMESPACE_UID_ATTEMPT."""
    return text.removeprefix("k8s_").partition("_")[0]


def build_image(archive: Path, container: str = "", base_reference: str = "") -> Image:
    """The checkpoint of ``container`` (else: its name in the archive) as an image.

    ``base_reference`` (NAME@DIGEST) replaces the place that the runtime takes the container's own
    image from when it restores.
    """
    config = read_config(archive)
    name = container or container_name(str(config.get("name", "")))
    layers = [Blob(file_digest(archive), archive.stat().st_size, path=archive)]
    if base_reference not in ("", config.get("rootfsImageRef")):
        changed = {**config, "rootfsImageRef": base_reference}
        layers.append(Blob.of(_small_layer(CONFIG_DUMP, canonical(changed))))
    about = {
        "architecture": architecture(),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    described = Blob.of(canonical(about))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _entry(CONFIG, described),
        "layers": [_entry(PLAIN_LAYER, layer) for layer in layers],
        "annotations": {
            CRIO_ANNOTATION: name,
            CONTAINERD_ANNOTATION: name,
            BASE_ANNOTATION: str(config.get("rootfsImageName", "")),
        },
    }
    return Image(canonical(manifest), [described, *layers])


def _entry(kind: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": kind, "digest": blob.digest, "size": blob.size}


def _small_layer(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        entry.mode = 0o600
        tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()
