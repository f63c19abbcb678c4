# SPDX-License-Identifier: Apache-2.0
"""The compiled test programs in the repository are the ones their sources say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.compiler import compile_program

PROGRAMS = Path(__file__).resolve().parents[2] / "p4programs"


def load_compile() -> ModuleType:
    """compile.py is a script beside the programs, not part of a package."""
    spec = importlib.util.spec_from_file_location("p4programs_compile", PROGRAMS / "compile.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiling = load_compile()


def test_compiled_is_fresh() -> None:
    assert compiling.stale() == [], "run python tests/p4programs/compile.py NAME and commit"


def test_every_program_has_a_test() -> None:
    tested = {p.stem for p in PROGRAMS.glob("*.stf")}
    assert set(compiling.names()) == tested
    assert len(tested) >= 60


@pytest.mark.parametrize("name", compiling.names())
def test_the_switch_takes_it(name: str) -> None:
    """Generated without the kernel: what is refused shows here, with its line."""
    program = load((PROGRAMS / "compiled" / f"{name}.json").read_bytes())
    assert compile_program(program, 510).source


def test_no_path_of_a_machine_is_left() -> None:
    for path in (PROGRAMS / "compiled").glob("*.json"):
        names = json.loads(path.read_text())["program"]
        assert "/" not in names, path
