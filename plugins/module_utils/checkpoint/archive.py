# SPDX-License-Identifier: Apache-2.0
"""Another address for a checkpoint that is kept in an archive."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from .addresses import refuse_network_images, rewritten
from .compression import compression_of, packed
from .contents import LIMIT, Checkpoint, read_checkpoint
from .tar import BLOCK, Member, open_tar


def rewrite_archive(
    path: Path, addresses: Mapping[str, str], *, limit: int = LIMIT, in_place: bool = False
) -> list[dict[str, Any]]:
    """As ``rewrite_addresses``, for an archive; the rest of it stays as it is, packed as it was.

    The new archive takes the old one's place in one step. ``in_place`` writes into the old one if
    it is not packed: its memory is not copied, which matters during a hold. Then it must be a
    private copy, as a crash of the machine could leave it half written.
    """
    checkpoint = read_checkpoint(path, limit)
    data, changes = rewritten_in(checkpoint, addresses)
    if changes and not (in_place and _write_over(checkpoint, data)):
        _copy(checkpoint, data, limit)
    return changes


def rewritten_in(
    checkpoint: Checkpoint, addresses: Mapping[str, str]
) -> tuple[bytes, list[dict[str, Any]]]:
    """The new content of ``files.img``, and what is changed in it; writes nothing."""
    name = checkpoint.prefix + "files.img"
    data, changes = rewritten(checkpoint.image("files.img"), addresses, checkpoint.where(name))
    refuse_network_images(checkpoint.held, addresses, checkpoint.path)
    return data, changes


def _header(member: Member, size: int, name: str = "") -> bytes:
    """The member's own header with another size, or name."""
    info = tarfile.TarInfo.frombuf(member.headers[-BLOCK:], "utf-8", "strict")
    info.size = size
    info.name = name or info.name
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _write_over(checkpoint: Checkpoint, data: bytes) -> bool:
    """Write into the archive itself: where the image stands if it fits, else at the end."""
    name = checkpoint.prefix + "files.img"
    other_name = name + ".replaced"
    if compression_of(checkpoint.path) != "none" or other_name in checkpoint.sizes:
        return False
    with open_tar(checkpoint.path, LIMIT) as members:
        all_members = [member for member, _ in members]
    found = next(member for member in all_members if member.name == name)
    if len(found.headers) != BLOCK:
        return False
    new = _header(found, len(data)) + data + bytes(-len(data) % BLOCK)
    start = found.offset - BLOCK
    with checkpoint.path.open("r+b") as file:
        if len(new) != BLOCK + found.size + found.padding:
            file.seek(start)
            # Two members of one name would be for everybody to choose from.
            file.write(_header(found, found.size, other_name))
            start = max(member.end for member in all_members)
            new += bytes(2 * BLOCK)
        file.seek(start)
        file.write(new)
    return True


def _copy(checkpoint: Checkpoint, data: bytes, limit: int) -> None:
    path = checkpoint.path
    about = path.stat()
    free = shutil.disk_usage(path.parent).free
    if free < about.st_size + len(data):
        raise FlowferryError(
            "no_space",
            f"{path.parent} has {free >> 20} MB free, a second {path.name} needs "
            f"{about.st_size >> 20} MB; free some space there",
        )
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with open_tar(path, limit) as members, packed(partial, compression_of(path)) as target:
            for member, content in members:
                if member.name == checkpoint.prefix + "files.img":
                    target.write(_header(member, len(data)) + data + bytes(-len(data) % BLOCK))
                    continue
                target.write(member.headers)
                for part in content:
                    target.write(part)
                target.write(bytes(member.padding))
            target.write(bytes(2 * BLOCK))
        os.chown(partial, about.st_uid, about.st_gid)
        partial.chmod(about.st_mode & 0o7777)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
