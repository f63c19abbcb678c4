# SPDX-License-Identifier: Apache-2.0
"""Tar archives that come from anywhere, read once from front to back and never unpacked.

``tarfile`` parses the blocks, but the loop over them is here: its own loop believes the sizes of
extended headers and of sparse files, and reads as much as they say, before anybody can object.
Refused, with the member and the reason: names that lead out of the archive, links, devices, sparse
files, members that are there twice, sizes beyond the end, and more data than the caller allows,
packed or not.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import FlowferryError
from .compression import Readable, Unpacking, unpacked

BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 20
_MOST_MEMBERS = 100_000
_LONGEST_NAME = 4096
_LONGEST_PART = 255
_TYPES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def bad_archive(where: object, reason: str) -> FlowferryError:
    """The error that names the archive, and in ``reason`` the member."""
    return FlowferryError(
        "bad_archive",
        f"{where}: {reason}; a checkpoint has no such thing, so the archive is damaged or forged",
    )


@dataclass(frozen=True)
class Member:
    """A file or directory: its name without ``./``, its headers as they stand in the archive."""

    name: str
    size: int
    is_directory: bool
    headers: bytes
    offset: int
    """Where the data begins."""

    @property
    def padding(self) -> int:
        return -self.size % BLOCK

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + self.size + self.padding


class TarReader:
    """The members of one archive, in order; of each the data is read, or passed over."""

    def __init__(self, stream: Readable, where: Path, limit: int) -> None:
        self._stream = stream
        self._where = where
        self._limit = limit
        self._position = 0
        self._unread = 0
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def __iter__(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for count, member in enumerate(self._members(), 1):
            if count > _MOST_MEMBERS:
                raise bad_archive(self._where, f"has more than {_MOST_MEMBERS} members")
            self._unread = member.size
            yield member, self._data(member)
            self._skip(self._unread + member.padding, f"member {member.name!r}")
        self._refuse_more()

    # -- the stream

    def _advance(self, size: int, what: str) -> None:
        self._position += size
        if self._position > self._limit:
            raise bad_archive(
                self._where,
                f"{what}: the archive unpacks to more than {self._limit} bytes, which is the limit "
                "(max_size)",
            )

    def _read(self, size: int, what: str) -> bytes:
        """``size`` bytes, no more and no less."""
        self._advance(size, what)
        data = self._some(size)
        if len(data) != size:
            raise self._ends(what, len(data), size)
        return data

    def _ends(self, what: str, found: int, size: int) -> FlowferryError:
        return bad_archive(self._where, f"{what}: ends after {found} bytes where {size} should be")

    def _some(self, size: int) -> bytes:
        parts = []
        try:
            while size and (part := self._stream.read(size)):
                parts.append(part)
                size -= len(part)
        except Unpacking as error:
            raise bad_archive(self._where, f"cannot be unpacked ({error})") from error
        return b"".join(parts)

    def _skip(self, size: int, what: str) -> None:
        """Pass over data; memory that is not packed need not be read for it."""
        if isinstance(self._stream, io.BufferedReader):
            self._advance(size, what)
            there = os.fstat(self._stream.fileno()).st_size - self._stream.tell()
            if there < size:
                raise self._ends(what, there, size)
            self._stream.seek(size, os.SEEK_CUR)
            return
        for part in [_CHUNK] * (size // _CHUNK) + [size % _CHUNK]:
            self._read(part, what)

    def _data(self, member: Member) -> Iterator[bytes]:
        while self._unread:
            size = min(self._unread, _CHUNK)
            self._unread -= size
            yield self._read(size, f"member {member.name!r}")

    def _refuse_more(self) -> None:
        """Behind the end there are zeros; reading them also checks what packed the archive."""
        while data := self._some(_CHUNK):
            self._advance(len(data), "the end")
            if data.strip(b"\0"):
                raise bad_archive(self._where, "has data behind its end")

    # -- headers

    def _members(self) -> Iterator[Member]:
        headers = b""
        long_name: str | None = None
        attributes: dict[str, str] = {}
        while True:
            block = self._read(BLOCK, "the next header")
            if block == bytes(BLOCK):
                if headers:
                    raise bad_archive(self._where, "ends behind an extended header")
                return
            headers += block
            if len(headers) > 2 * _LARGEST_HEADER:
                raise bad_archive(self._where, "has a member with too many extended headers")
            info = self._info(block)
            if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                data = self._extended(info)
                headers += data
                if info.type == tarfile.XHDTYPE:
                    attributes = self._attributes(data[: info.size])
                else:
                    long_name = self._text(data[: info.size].rstrip(b"\0"))
                continue
            info.name = attributes.get("path") or long_name or info.name
            yield self._member(info, headers, attributes)
            headers, long_name, attributes = b"", None, {}

    def _info(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise bad_archive(self._where, f"has a damaged header ({error})") from error

    def _extended(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _LARGEST_HEADER:
            raise bad_archive(
                self._where,
                f"member {info.name!r}: an extended header of {info.size} bytes, the limit is "
                f"{_LARGEST_HEADER}",
            )
        return self._read(info.size + -info.size % BLOCK, f"member {info.name!r}")

    def _attributes(self, data: bytes) -> dict[str, str]:
        """Records "LENGTH KEY=VALUE\\n" of a pax header."""
        found: dict[str, str] = {}
        while data:
            digits, _, _ = data[:20].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = data[len(digits) + 1 : length]
            if not len(digits) + 1 < length <= len(data) or not record.endswith(b"\n"):
                raise bad_archive(self._where, "has a damaged extended header")
            key, _, value = record[:-1].partition(b"=")
            if key.startswith(b"GNU.sparse"):
                raise bad_archive(self._where, "has a sparse file")
            if key in (b"path", b"size"):  # others, such as times, say nothing about the content
                found[key.decode()] = self._text(value)
            data = data[length:]
        return found

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            reason = f"has a name that is not UTF-8 ({data[:60]!r})"
            raise bad_archive(self._where, reason) from error

    def _member(self, info: tarfile.TarInfo, headers: bytes, attributes: dict[str, str]) -> Member:
        what = f"member {info.name[:_LONGEST_PART]!r}"
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            kind = _TYPES.get(info.type, f"of type {info.type!r}")
            target = f" to {info.linkname!r}" if info.linkname else ""
            raise bad_archive(self._where, f"{what} is {kind}{target}")
        size = attributes.get("size", str(info.size))
        if not size.isascii() or not size.isdigit() or len(size) > 19:
            raise bad_archive(self._where, f"{what} has the size {size!r}")
        name = self._safe_name(info.name, what)
        if not name and not info.isdir():
            raise bad_archive(self._where, f"{what} is a file without a name")
        self._claim(name, info.isdir(), what)
        length = 0 if info.isdir() else int(size)
        if info.isdir() and int(size):
            raise bad_archive(self._where, f"{what} is a directory with data")
        return Member(name, length, info.isdir(), headers, self._position)

    def _safe_name(self, name: str, what: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/"):
            raise bad_archive(self._where, f"{what} has an absolute path")
        if ".." in parts:
            raise bad_archive(self._where, f"{what} leads out of the archive")
        too_long = any(len(part.encode()) > _LONGEST_PART for part in parts)
        if too_long or len(name) > _LONGEST_NAME:
            raise bad_archive(self._where, f"member {name[:60]!r}... has too long a name")
        if not name.isprintable():
            raise bad_archive(self._where, f"{what} has a name that cannot be shown")
        return "/".join(parts)

    def _claim(self, name: str, is_directory: bool, what: str) -> None:
        """Each name once: the reader and the next one must not see different files."""
        parts = name.split("/")
        parents = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if name in self._files or (not is_directory and name in self._directories):
            raise bad_archive(self._where, f"{what} is there twice")
        inside = parents & self._files
        if inside:
            raise bad_archive(self._where, f"{what} is in {sorted(inside)[0]!r}, which is a file")
        self._directories |= parents
        (self._directories if is_directory else self._files).add(name)


@contextmanager
def open_tar(path: Path, limit: int) -> Iterator[TarReader]:
    """An archive, packed or not, that unpacks to ``limit`` bytes at most."""
    if not path.is_file():
        raise bad_archive(path, "is no regular file")
    with unpacked(path) as stream:
        yield TarReader(stream, path, limit)
