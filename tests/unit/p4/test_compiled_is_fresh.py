# SPDX-License-Identifier: Apache-2.0
"""The compiled program in the repository is the one the source says."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

P4 = Path(__file__).resolve().parents[3] / "p4"


def load_compile() -> ModuleType:
    """compile.py is a script beside the program, not part of the package."""
    spec = importlib.util.spec_from_file_location("flowferry_compile", P4 / "compile.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiling = load_compile()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for part in ("program", "compiled"):
        shutil.copytree(P4 / part, tmp_path / part)
    return tmp_path


def test_compiled_is_fresh() -> None:
    assert compiling.stale(P4) == [], "run python p4/compile.py and commit p4/compiled"


def test_a_changed_program_is_stale(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copy / "program" / "parser.p4").open("a", encoding="utf-8") as file:
        file.write("// changed\n")

    assert compiling.main(["--check"], root=copy) == 1
    assert capsys.readouterr().err == (
        "p4/compiled is stale: program/parser.p4 changed since it was compiled. "
        "Run python p4/compile.py and commit the result.\n"
    )


def test_a_new_program_file_is_stale(copy: Path) -> None:
    (copy / "program" / "ipv6.p4").write_text("", encoding="utf-8")
    assert compiling.stale(copy) == ["program/ipv6.p4"]


def test_an_edited_result_is_stale(copy: Path) -> None:
    with (copy / "compiled" / "flowferry.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert compiling.stale(copy) == ["compiled/flowferry.json"]


def test_a_missing_compiler_is_explained(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiling.main(["--compiler", "no-such-p4c"], root=copy) == 1
    message = capsys.readouterr().err
    assert message.startswith("no-such-p4c is not on PATH.")
    assert "needed only to change the P4 program" in message


def test_a_refused_program_names_the_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs the compiler's part with one that refuses, as p4c does."""
    fake = copy / "p4c-bm2-ss"
    fake.write_text("#!/bin/sh\necho 'parser.p4(3): error: no' >&2\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    before = (copy / "compiled" / "SOURCE.sha256").read_text(encoding="utf-8")

    assert compiling.main(["--compiler", str(fake)], root=copy) == 1
    assert "parser.p4(3): error: no" in capsys.readouterr().err
    assert (copy / "compiled" / "SOURCE.sha256").read_text(encoding="utf-8") == before


def test_paths_of_the_machine_are_removed() -> None:
    config = {"program": "/home/a/x.p4", "tables": [{"source_info": {"filename": "/opt/y.p4"}}]}
    assert compiling.plain(config) == {
        "program": "x.p4",
        "tables": [{"source_info": {"filename": "y.p4"}}],
    }


@pytest.mark.skipif(shutil.which("p4c-bm2-ss") is None, reason="p4c-bm2-ss is not installed")
def test_compiling_again_gives_the_same(copy: Path) -> None:
    assert compiling.main([], root=copy) == 0
    for name in ("flowferry.json", "flowferry.p4info.txtpb", "SOURCE.sha256"):
        assert (copy / "compiled" / name).read_bytes() == (P4 / "compiled" / name).read_bytes()
