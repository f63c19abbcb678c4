# SPDX-License-Identifier: Apache-2.0
"""The notes beside the maps, as a process finds them that takes over from a killed one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flowferry_p4.switch.notebook import Notebook, NotebookFull


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def kept(path: Path, *notes: tuple[tuple[str | int, ...], object]) -> Notebook:
    book = Notebook()
    book.keep(path)
    for place, note in notes:
        book.write(place, note)
    return book


def test_notes_are_found_the_newest_first(path: Path) -> None:
    kept(path, (("a", 1), "old"), (("b", 1), "other"), (("a", 1), "new"))
    found = Notebook.found(path)
    assert list(found.candidates(("a", 1))) == ["new", "old"]
    assert list(found.candidates(("c", 1))) == []
    assert list(found.found_at("b")) == [("b", 1)]


def test_a_note_that_was_cut_off_is_none(path: Path) -> None:
    """The change that it was about did not happen: the process was killed while it wrote."""
    kept(path, (("a",), "whole"), (("a",), "cut off"))
    content = path.read_bytes()
    for end in range(1, len(content)):
        path.write_bytes(content[:end])
        found = list(Notebook.found(path).candidates(("a",)))
        assert found == ([] if end < content.index(b"\n") + 1 else ["whole"])


def test_what_is_not_recalled_is_dropped(path: Path) -> None:
    kept(path, (("a",), 1), (("a",), 2), (("b",), 3))
    found = Notebook.found(path)
    found.recall(("a",), 1)
    found.keep(path)
    assert list(Notebook.found(path).candidates(("a",))) == [1]
    assert list(Notebook.found(path).candidates(("b",))) == []


def test_a_place_that_was_forgotten_has_to_be_noted_again(path: Path) -> None:
    book = kept(path, (("a",), "note"))
    assert book.knows(("a",))
    book.forget(("a",))
    assert book.knows(("a",)), "the old note is still in the file"
    book.keep(path)
    assert not book.knows(("a",))
    assert path.read_bytes() == b""


def test_the_file_is_written_anew_when_most_of_it_is_out_of_date(path: Path) -> None:
    book = kept(path)
    for number in range(30):
        book.write(("a",), f"{number} {'x' * 100_000}")
        book.settle()
    assert path.stat().st_size < 2_000_000
    assert next(Notebook.found(path).candidates(("a",))).startswith("29 ")


def test_a_full_disk_refuses_the_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = kept(path, (("a",), "before"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(NotebookFull, match=r"5 of \d+ bytes written"):
        book.write(("a",), "after, so")
    monkeypatch.undo()
    book.write(("a",), "later")
    assert list(Notebook.found(path).candidates(("a",))) == ["later", "before"]


def test_notes_in_memory_are_kept_later(path: Path) -> None:
    book = Notebook()
    book.write(("a",), 1)
    book.keep(path)
    assert list(Notebook.found(path).candidates(("a",))) == [1]
