# SPDX-License-Identifier: Apache-2.0
"""An image with the content of another one, and an id of its own."""

from __future__ import annotations

from typing import Any

from .blobs import Blob, Image, canonical

MARK_LABEL = "flowferry.io/copy"


def with_mark(manifest: dict[str, Any], config: dict[str, Any], mark: str) -> Image:
    """The image of this manifest and config, with a label; its layers are left where they are."""
    about = config.get("config") or {}
    labels = {**(about.get("Labels") or {}), MARK_LABEL: mark}
    described = Blob.of(canonical({**config, "config": {**about, "Labels": labels}}))
    entry = {**manifest["config"], "digest": described.digest, "size": described.size}
    return Image(canonical({**manifest, "config": entry}), [described])
