# SPDX-License-Identifier: Apache-2.0
"""How archives are packed: gzip, zstd or not at all, which are Podman's choices."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from .zstd import Reader, Writer, ZstdError

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Readable(Protocol):
    """What is needed of a stream."""

    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """What is needed of the other end."""

    def write(self, data: bytes, /) -> int: ...


class Unpacking(Exception):
    """Data that the unpacker does not understand."""


def compression_of(path: Path) -> str:
    """``gzip``, ``zstd`` or ``none``, by how the file begins."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


@contextmanager
def unpacked(path: Path) -> Iterator[Readable]:
    """The content of a file that may be packed; reading it raises Unpacking when it is damaged."""
    compression = compression_of(path)
    with path.open("rb") as file:
        if compression == "gzip":
            with gzip.GzipFile(fileobj=file) as stream:
                yield _Unpacker(stream)
        elif compression == "zstd":
            with closing(Reader(file)) as reader:
                yield _Unpacker(reader)
        else:
            yield file


class _Unpacker:
    """A stream whose errors are all Unpacking."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, EOFError, zlib.error, ZstdError) as error:
            raise Unpacking(str(error)) from error


@contextmanager
def packed(path: Path, compression: str) -> Iterator[Writable]:
    """A new file at ``path`` that packs what is written to it."""
    with path.open("xb") as file:
        if compression == "gzip":
            # No name and no time in the header: the same content is the same file.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
                yield stream
        elif compression == "zstd":
            with closing(Writer(file)) as writer:
                yield writer
                writer.finish()
        else:
            yield file
