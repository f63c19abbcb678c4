# SPDX-License-Identifier: Apache-2.0
"""What the maps do not hold: notes of entries, weights of groups, messages as they were written.

A note is written to a file before the map that it belongs to is changed, and is of use only
together with what the map then holds. Whoever reads the file after a crash therefore takes for each
place the newest note that fits the map. Notes are lines of JSON, added at the end; one that was cut
off was not followed by a change. When many are out of date the file is written anew, which may
happen only while notes and maps agree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""What a note is about: a kind, and names and numbers that tell one of them from another."""

_SLACK = 1 << 20
"""Bytes that the file may grow by before it is written anew."""


class NotebookFull(Exception):
    """The file takes no more, so the change that it would be about must not happen."""


class Notebook:
    """The notes of one pipeline. Without a file they are kept in memory only."""

    def __init__(self) -> None:
        self._current: dict[Place, Any] = {}
        """The newest note of each place."""
        self._history: dict[Place, list[Any]] = {}
        """Of a notebook that was found: all notes, the newest last."""
        self._path: Path | None = None
        self._fd = -1
        self._size = 0
        self._limit = 0

    @classmethod
    def found(cls, path: Path) -> Notebook:
        """The notes of a process before this one."""
        book = cls()
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        for line in whole.splitlines():
            place, note = json.loads(line)
            book._history.setdefault(tuple(place), []).append(note)
        return book

    def candidates(self, place: Place) -> Iterator[Any]:
        """Notes found about a place, the newest first."""
        yield from reversed(self._history.get(place, []))

    def found_at(self, kind: str) -> Iterator[Place]:
        """Places of a kind that notes were found about."""
        return (place for place in self._history if place[0] == kind)

    def recall(self, place: Place, note: Any) -> None:
        """A note that was found holds; in the end keep() drops the others."""
        self._current[place] = note

    def write(self, place: Place, note: Any) -> None:
        """Note something about what is about to change."""
        if self._fd >= 0:
            self._append(_line(place, note))
        self._current[place] = note

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever noted that is still in the file."""
        return not self._current

    def knows(self, place: Place) -> bool:
        """Whether there is a note that another one would have to put out of date."""
        return place in self._current

    def forget(self, place: Place) -> None:
        """The map does not hold the place any more. A note of it stays harmlessly in the file, and
        has to be put out of date when the place is there again.
        """
        if place in self._current:
            self._current[place] = None

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            if written < len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise NotebookFull(f"{self._path}: {error.strerror or error}") from error
        self._size += written

    def settle(self) -> None:
        """Notes and maps agree at this moment."""
        if self._path and self._size > self._limit:
            self.keep(self._path)

    def keep(self, path: Path) -> None:
        """Have the current notes in a file from now on."""
        self._history.clear()
        self._current = {place: note for place, note in self._current.items() if note is not None}
        new = path.with_name(f"{path.name}.new")
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = 0
            for place, note in self._current.items():
                size += _write_all(fd, _line(place, note))
            new.replace(path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._path, self._fd, self._size = path, fd, size
        self._limit = 2 * size + _SLACK

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _line(place: Place, note: Any) -> bytes:
    return json.dumps((place, note), separators=(",", ":")).encode() + b"\n"


def _write_all(fd: int, data: bytes) -> int:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    return len(data)
