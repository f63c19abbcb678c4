# SPDX-License-Identifier: Apache-2.0
"""Which files go with processes, which have to be there, and which are nobody's business."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import open_files
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.open_files import OpenFile, Record


def found(path: Path) -> OpenFile | None:
    """The file, if this very process has it open."""
    return next((file for file in open_files.find([os.getpid()]) if file.path == str(path)), None)


def test_a_file_that_is_written_moves(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("a") as file:
        file.write("x" * 10)
        file.flush()
        log = found(path)
    assert log is not None and log.written and log.moves and log.size == 10


def test_a_file_that_is_read_stays(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_text("x")
    with path.open():
        content = found(path)
    assert content is not None and not content.moves
    assert found(path) is None, "it is closed"


def test_what_a_process_reads_of_itself_is_nobody_s_business() -> None:
    """Redis does so ten times a second; no other node has a file of that name."""
    with Path("/proc/self/stat").open():
        assert not [file for file in open_files.find([os.getpid()]) if "/proc/" in file.path]


def test_a_file_that_is_mapped_for_writing_moves(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        data = found(path)
    assert data is not None and data.moves


def test_a_deleted_file_is_criu_s_business(tmp_path: Path) -> None:
    path = tmp_path / "temporary"
    with path.open("w"):
        path.unlink()
        assert found(path) is None


def file(path: Path, *, written: bool = True, shared: bool = False, size: int = 3) -> OpenFile:
    return OpenFile(str(path), size, 0o640, os.getuid(), os.getgid(), 10**18, written, shared)


def test_what_moves_arrives_as_it_was(tmp_path: Path) -> None:
    original, package = tmp_path / "var" / "log", tmp_path / "package"
    original.parent.mkdir()
    original.write_text("log")
    package.mkdir()
    packed = open_files.pack([file(original), file(tmp_path / "read", written=False)], package)
    assert [one.path for one in packed] == [str(original)]
    original.unlink()
    original.parent.rmdir()
    open_files.unpack(package)
    assert original.read_text() == "log"
    about = original.stat()
    assert (about.st_mode & 0o777, about.st_mtime_ns) == (0o640, 10**18)


def test_a_destination_with_a_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("else")
    with pytest.raises(FlowferryError, match="would be lost") as refused:
        open_files.check_destination("it", [file(tmp_path / "log")])
    assert refused.value.code == "file_taken"
    open_files.check_destination("it", [file(tmp_path / "log", shared=True)])


@pytest.mark.parametrize("content", [None, "other version"])
def test_a_destination_without_what_is_read_is_refused(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "library").write_text(content)
    with pytest.raises(FlowferryError, match="does not have the same file") as refused:
        open_files.check_destination("it", [file(tmp_path / "library", written=False)])
    assert refused.value.code == "no_file"


def test_files_go_with_their_owner_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("log")
    record = Record(tmp_path / "state" / "record")
    record.write("owner", [file(log)])
    record.remove_files("somebody else")
    assert log.exists() and not record.path.exists()
    record.write("owner", [file(log)])
    record.remove_files("owner")
    assert not log.exists() and not record.path.exists()
    record.remove_files("owner")
