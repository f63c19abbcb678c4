# SPDX-License-Identifier: Apache-2.0
"""How archives are packed: gzip, zstd or not at all, which are Podman's choices."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import FlowferryError

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
                yield _Gzip(stream)
        elif compression == "zstd":
            with _Zstd(file) as unpacker:
                yield unpacker
        else:
            yield file


class _Gzip:
    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise Unpacking(str(error)) from error


class _Zstd:
    """By the program zstd, as Python has none before 3.14."""

    def __init__(self, file: Any) -> None:
        self._process = subprocess.Popen(
            [_zstd_program(), "--decompress", "--stdout", "--quiet"],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> _Zstd:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self, size: int, /) -> bytes:
        assert self._process.stdout is not None and self._process.stderr is not None
        data = self._process.stdout.read(size)
        if len(data) < size and self._process.wait():
            raise Unpacking(self._process.stderr.read().decode(errors="replace").strip())
        return data


@contextmanager
def packed(path: Path, compression: str) -> Iterator[Writable]:
    """A new file at ``path`` that packs what is written to it."""
    with path.open("xb") as file:
        if compression == "gzip":
            # No name and no time in the header: the same content is the same file.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
                yield stream
        elif compression == "zstd":
            command = [_zstd_program(), "--stdout", "--quiet", "-"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as process:
                assert process.stdin is not None
                yield process.stdin
            if process.returncode:
                raise FlowferryError("command_failed", f"`{' '.join(command)}` failed for {path}")
        else:
            yield file


def _zstd_program() -> str:
    found = shutil.which("zstd")
    if found is None:
        raise FlowferryError(
            "zstd_missing",
            "zstd is not installed, and the archive is packed by it; install the package zstd, or "
            "have Podman pack with gzip",
        )
    return found
