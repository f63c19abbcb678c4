# SPDX-License-Identifier: Apache-2.0
"""docs/p4runtime.md names a test for each behaviour, and every test of the service."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs/p4runtime.md"
TESTS = sorted((ROOT / "tests/integration").glob("test_*p4runtime*.py"))
BESIDE = {"test_a_write_is_quick"}
"""Tests of something that the specification does not ask for."""


def there() -> set[str]:
    found = set()
    for path in TESTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = (n for n in tree.body if isinstance(n, ast.FunctionDef))
        found |= {f.name for f in functions if f.name.startswith("test_")}
    return found


def named() -> set[str]:
    return set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))


def test_every_behaviour_has_its_test() -> None:
    assert named() - there() == set()


def test_every_test_is_in_the_table() -> None:
    assert there() - BESIDE - named() == set()


def test_every_row_names_a_test() -> None:
    rows = [r for r in PAGE.read_text(encoding="utf-8").splitlines() if r.startswith("| ")]
    table = rows[rows.index("| section | behaviour | tests |") + 1 :]
    table = table[: table.index("| what | answer |")]
    assert len(table) > 40
    assert all("`test_" in row for row in table)
