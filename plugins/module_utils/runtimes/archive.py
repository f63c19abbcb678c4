# SPDX-License-Identifier: Apache-2.0
"""Checkpoint archives of a container engine: tar files with CRIU's images in ``checkpoint/``."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from ..checkpoint.addresses import rewritten
from ..checkpoint.images import bad_image

_FILES = "checkpoint/files.img"


def rewrite_addresses(archive: Path, addresses: dict[str, str]) -> None:
    """Give the sockets other addresses, {old: new}.

    The new ``files.img`` is appended: the later of two members of a name is the one that is
    unpacked, and the rest, which is the memory of processes, need not be copied.
    """
    with tarfile.open(archive, "a:") as tar:
        try:
            before = tar.getmember(_FILES)
        except KeyError:
            raise bad_image(archive, f"has no {_FILES}") from None
        content = tar.extractfile(before)
        data = content.read() if content else b""
        new_data, changes = rewritten(data, addresses, archive)
        if changes:
            before.size = len(new_data)
            tar.addfile(before, io.BytesIO(new_data))
