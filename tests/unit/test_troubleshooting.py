# SPDX-License-Identifier: Apache-2.0
"""Every failure code has its row in docs/troubleshooting.md, and every row its code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from flowferry_p4.client import errors

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
# Codes that are not arguments of an error: the default of commands.run(), and the two
# that keeper and action make up when there is no error to take one from.
OTHER_CODES = {"command_failed", "internal", "keeper_lost"}
# Errors of modules that take no part in a migration go by their message alone.
ELSEWHERE = {"lab.py", "oci_archive.py"}


def codes_of(tree: ast.AST) -> Iterator[str]:
    """First arguments of FlowferryError(...) and of its subclasses' super().__init__(...)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("FlowferryError", "super().__init__") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and re.fullmatch("[a-z_]+", str(first.value)):
                yield str(first.value)
        yield from (
            str(keyword.value.value)
            for keyword in node.keywords
            if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
        )


def codes_in_the_source() -> set[str]:
    found = set(OTHER_CODES)
    for folder in ("module_utils", "plugin_utils", "modules"):
        for path in (ROOT / "plugins" / folder).rglob("*.py"):
            if path.name not in ELSEWHERE:
                found.update(codes_of(ast.parse(path.read_text())))
    return found


def codes_of_the_switch() -> set[str]:
    """As the keeper names them: the class in small letters."""
    classes = [errors.P4Error, *errors.P4Error.__subclasses__()]
    return {re.sub("(?<!^)([A-Z][a-z])", r"_\1", kind.__name__).lower() for kind in classes}


def codes_of_the_agent() -> set[str]:
    """First arguments of Problem(...)."""
    found = set()
    for path in (ROOT / "p4" / "flowferry_p4" / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem":
                found.add(ast.literal_eval(node.args[0]))
    return found


def codes_on_the_page() -> set[str]:
    rows = re.findall(r"^\| (`[^|]*`) \|", PAGE.read_text(), re.MULTILINE)
    return {code for row in rows for code in re.findall("`([a-z0-9_]+)`", row)}


def test_codes_are_found() -> None:
    """The search itself works: codes of a plain error, of a subclass, and of an argument."""
    assert {"no_endpoint", "helper_lost", "restore_failed"} <= codes_in_the_source()


def test_every_code_is_explained() -> None:
    wanted = codes_in_the_source() | codes_of_the_switch() | codes_of_the_agent()
    missing = wanted - codes_on_the_page()
    assert not missing, f"add to {PAGE.name}: {sorted(missing)}"


def test_every_explained_code_exists() -> None:
    known = codes_in_the_source() | codes_of_the_switch() | codes_of_the_agent()
    stale = codes_on_the_page() - known
    assert not stale, f"remove from {PAGE.name}: {sorted(stale)}"
