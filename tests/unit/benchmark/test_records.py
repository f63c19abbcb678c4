# SPDX-License-Identifier: Apache-2.0
"""Records are read as they were written, and nothing else is taken for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.records import append, read


def test_records_are_found_by_what_they_say(file: Path) -> None:
    results = read(file)
    assert results.run["commit"] == "0123456789ab"
    assert len(results.of("moves")) == 7
    assert len(results.of("moves", mover="by hand")) == 3
    assert [move["megabytes"] for move in results.of("memory", mover="flowferry")] == [10, 256]
    assert results.of("moves", mover="by hand", runtime="process") == []


def test_what_is_appended_is_read(file: Path) -> None:
    append(file, "failure", what="memory", why="it is full")
    assert read(file).failures == [{"record": "failure", "what": "memory", "why": "it is full"}]


@pytest.mark.parametrize("line", ["{", "[]", '{"what": 1}', '"text"'])
def test_a_line_that_is_no_record_is_named(file: Path, line: str) -> None:
    count = len(file.read_text().splitlines())
    with file.open("a") as end:
        end.write(line + "\n")
    with pytest.raises(ValueError, match=rf"line {count + 1}: not a record"):
        read(file)


@pytest.mark.parametrize("runs", [0, 2])
def test_a_file_is_one_run(tmp_path: Path, runs: int) -> None:
    path = tmp_path / "benchmark.jsonl"
    path.write_text(json.dumps({"record": "run"}) + "\n" if runs else "")
    if runs == 2:
        append(path, "run")
    with pytest.raises(ValueError, match=f"it should hold one run, it holds {runs}"):
        read(path)
