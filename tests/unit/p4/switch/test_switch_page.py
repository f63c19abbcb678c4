# SPDX-License-Identifier: Apache-2.0
"""docs/switch.md says what the compiler runs and refuses, no more and no less."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from flowferry_p4.switch.bmv2_json import REFUSED_SECTIONS, load
from flowferry_p4.switch.compiler.checksums import HASH_ALGORITHMS
from flowferry_p4.switch.compiler.names import Names
from flowferry_p4.switch.compiler.primitives import NOT_HERE, Primitives

from tests.unit.p4.switch.small_program import small

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs" / "switch.md").read_text(encoding="utf-8")
RUNS, REFUSES = PAGE.split("## Where it differs")[0], PAGE.split("## What it refuses")[1]


def first_cells(text: str) -> set[str]:
    """What stands in backticks in the first cells of the tables."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return {code for cell in rows for code in re.findall(r"`([^`]+)`", cell)}


def refusals() -> set[str]:
    """The construct that each `Refused(...)` of the code names, with … for what varies."""
    found = {*REFUSED_SECTIONS.values(), *NOT_HERE.values()}
    for path in (ROOT / "p4" / "flowferry_p4" / "switch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                found.add(_text(node.args[0]))
    return found - {""}


def _text(node: ast.expr) -> str:
    """A literal's text; a refusal by a name out of a table, which is found there, has none."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return ""


def short(text: str) -> str:
    """The page leaves names out where they only say which: `parameter … of action …`."""
    return re.sub(r"\W+", " ", text.replace("…", "")).strip()


def test_every_refusal_is_on_the_page() -> None:
    listed = {short(code) for code in first_cells(REFUSES)}
    assert {short(text) for text in refusals()} - listed == set()


def test_the_page_refuses_nothing_else() -> None:
    listed = {short(code) for code in first_cells(REFUSES)}
    assert listed - {short(text) for text in refusals()} == set()


def test_every_primitive_is_on_the_page() -> None:
    program = load(json.dumps(small()))
    handlers = set(Primitives(program, Names(program)).handlers)
    table = RUNS.split("Primitives, by the name")[1]
    assert first_cells(table) == handlers


def test_every_hash_algorithm_is_on_the_page() -> None:
    line = RUNS.split("Hash algorithms:")[1].split(".")[0]
    assert set(re.findall(r"`(\w+)`", line)) == set(HASH_ALGORITHMS)
