# SPDX-License-Identifier: Apache-2.0
"""Each package has its reason, and the lock file is what `make lock` would write of them."""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
WANTED = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
LOCKED = [
    line
    for line in (ROOT / "requirements.lock.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_each_package_has_its_reason() -> None:
    bare = [line for line in WANTED if not line.partition("#")[2].strip()]
    assert not bare, f"say behind a # why they are needed: {bare}"


def test_the_lock_file_has_each_at_a_version_that_is_wanted() -> None:
    versions = {
        canonicalize_name(name): v for name, _, v in (one.partition("==") for one in LOCKED)
    }
    for line in WANTED:
        one = Requirement(line.partition("#")[0].strip())
        version = versions.get(canonicalize_name(one.name))
        assert version, f"{one.name} is not locked: run `make lock`"
        assert one.specifier.contains(version), f"{one}, but {version} is locked: run `make lock`"


def test_the_lock_file_is_in_the_order_that_is_written() -> None:
    assert sorted(LOCKED, key=lambda line: line.upper().encode()) == LOCKED
