# SPDX-License-Identifier: Apache-2.0
"""CRIU's image files: read within bounds, and written back with nothing else changed.

The messages are CRIU's own: pycriu brings their classes and the magic numbers of the files. The
frames around them (magic, then length and message, again and again) are read here, because pycriu
trusts every length, a negative one too, and drops the fields that it does not know: those of a
CRIU newer than itself.
"""

from __future__ import annotations

import importlib
import os
import stat
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import FlowferryError

# An image of messages is kilobytes, or megabytes for thousands of files. Memory is in pages-*.img,
# which is never read.
LARGEST_IMAGE = 64 << 20
_WORD = struct.Struct("<i")


@cache
def pycriu(module: str = "images", purpose: str = "reads CRIU's images") -> Any:
    """A module of pycriu. The first call takes a tenth of a second: make it before a hold."""
    try:
        return importlib.import_module(f"pycriu.{module}")
    except ImportError as error:
        raise FlowferryError(
            "pycriu_missing",
            f"Python cannot import pycriu, which {purpose} ({error}); install Debian's "
            "python3-pycriu, as the role criu does, and have Ansible use the system's Python",
        ) from error


def bad_image(where: object, reason: str) -> FlowferryError:
    """The error that names the file and what is wrong with it."""
    return FlowferryError(
        "bad_image",
        f"{where}: {reason}; the checkpoint is damaged or not CRIU's, make it again",
    )


def read(path: Path) -> bytes:
    """Content of an image of messages: a regular file of bearable size, and not by a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise bad_image(path, f"cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise bad_image(path, "is no regular file")
        if about.st_size > LARGEST_IMAGE:
            raise bad_image(path, f"has {about.st_size} bytes, the limit is {LARGEST_IMAGE}")
        return file.read(LARGEST_IMAGE)


def kind_of(data: bytes, where: object) -> tuple[str, int]:
    """Which image it is, by its magic, such as ``FILES``; and how long that header is."""
    magic = pycriu().magic
    words = [word for (word,) in _WORD.iter_unpack(data[: min(len(data), 8) & ~3])]
    prefixes = (magic.by_name["IMG_COMMON"], magic.by_name["IMG_SERVICE"])
    position = 1 if words and words[0] & 0xFFFFFFFF in prefixes else 0
    if len(words) <= position or (words[position] & 0xFFFFFFFF) not in magic.by_val:
        raise bad_image(where, "does not begin with a magic number of CRIU")
    return magic.by_val[words[position] & 0xFFFFFFFF], 4 * (position + 1)


def frames(data: bytes, start: int, where: object) -> Iterator[bytes]:
    """The messages' bytes, one after the other."""
    while start < len(data):
        if len(data) - start < _WORD.size:
            raise bad_image(where, f"ends within a length, at byte {start}")
        (size,) = _WORD.unpack_from(data, start)
        start += _WORD.size
        if not 0 <= size <= len(data) - start:
            raise bad_image(
                where,
                f"has a message of {size} bytes at byte {start}, {len(data) - start} are left",
            )
        yield data[start : start + size]
        start += size


def frame(message: bytes) -> bytes:
    """A message with its length, as it stands in an image."""
    return _WORD.pack(len(message)) + message


def parse(name: str, data: bytes, where: object) -> Any:
    """The message of type ``name`` in CRIU's descriptions, complete."""
    message = getattr(pycriu().pb, name)()
    # google.protobuf is pycriu's, so it is not here before pycriu is.
    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        message.ParseFromString(data)
    except decode_error as error:
        raise bad_image(where, f"has a malformed message ({name}: {error})") from error
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors()[:3])
        raise bad_image(where, f"has an incomplete message ({name} without {missing})")
    return message


def text(value: str | bytes) -> str:
    """A string of a message. protobuf gives bytes where it is not UTF-8: names can be anything."""
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def messages(data: bytes, kind: str, name: str, where: object) -> Iterator[Any]:
    """The messages of an image of this kind, which are all of one type."""
    for part in frames(data, start_of(data, kind, where), where):
        yield parse(name, part, where)


def start_of(data: bytes, kind: str, where: object) -> int:
    """Where the messages begin in an image that must be of this kind."""
    found, start = kind_of(data, where)
    if found != kind:
        raise bad_image(where, f"is an image of {found} where one of {kind} belongs")
    return start


def replace(path: Path, data: bytes) -> None:
    """Put new content in an image's place, in one step, with its owner and mode."""
    about = path.lstat()
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), about.st_uid, about.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(about.st_mode))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
