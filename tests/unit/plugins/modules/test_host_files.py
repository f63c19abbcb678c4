# SPDX-License-Identifier: Apache-2.0
"""Several files in one task: written when they differ, and only then."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.modules import host_files


def wanted(directory: Path, content: str = "a: 1\n", mode: str = "0640") -> dict[str, Any]:
    target = directory / "etc" / "it"
    file = {"path": str(target / "a"), "content": content, "mode": mode, "secret": False}
    return {"directories": [{"path": str(target), "mode": "0700"}], "files": [file]}


def test_what_differs_is_written_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    first = host_files.ensure(wanted(tmp_path), check_mode=False)
    directory = tmp_path / "etc" / "it"
    assert first["paths"] == [str(directory), str(directory / "a")]
    assert (directory / "a").read_text() == "a: 1\n"
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["a"]
    again = host_files.ensure(wanted(tmp_path), check_mode=False)
    assert again == {"changed": False, "paths": [], "diff": []}


def test_content_and_mode_count(tmp_path: Path) -> None:
    host_files.ensure(wanted(tmp_path), check_mode=False)
    other = host_files.ensure(wanted(tmp_path, content="a: 2\n"), check_mode=False)
    (difference,) = other["diff"]
    assert (difference["before"], difference["after"]) == ("a: 1\n", "a: 2\n")
    closed = host_files.ensure(wanted(tmp_path, "a: 2\n", mode="0600"), check_mode=False)
    assert closed["changed"]
    assert stat.S_IMODE((tmp_path / "etc/it/a").stat().st_mode) == 0o600


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    told = host_files.ensure(wanted(tmp_path), check_mode=True)
    assert told["changed"] and len(told["paths"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_not_in_the_diff(tmp_path: Path) -> None:
    params = wanted(tmp_path, content="hunter2")
    params["files"][0]["secret"] = True
    told = host_files.ensure(params, check_mode=False)
    assert told["changed"] and "hunter2" not in str(told)


def test_a_mode_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='mode "rw" is not written in octal digits'):
        host_files.ensure(wanted(tmp_path, mode="rw"), check_mode=False)
