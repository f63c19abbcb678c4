# SPDX-License-Identifier: Apache-2.0
"""Memory that is taken before it is needed, and let go of when it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import reserve
from ansible_collections.flowferry.core.plugins.module_utils.reserve import Reserve


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_it_is_taken_at_once_and_given_back() -> None:
    before = resident_pages()
    taken = Reserve(32 << 20)
    pages = (32 << 20) // 4096
    assert resident_pages() - before > pages // 2, "it was only promised"
    taken.let_go()
    assert resident_pages() - before < pages // 2
    taken.let_go()


def test_it_is_never_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "_MOST", 1 << 20)
    before = resident_pages()
    Reserve(1 << 40).let_go()
    Reserve(0).let_go()
    assert resident_pages() - before < 1024
