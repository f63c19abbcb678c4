# SPDX-License-Identifier: Apache-2.0
"""New connections are kept out of a network namespace by one firewall rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import door

NETWORK = Path("/proc/1/ns/net")


class Nft:
    """What would run in the namespace, and what it is told."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.told: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> Nft:
        self.commands.append(command)
        return self

    def communicate(self, rules: str, timeout: float) -> None:
        self.told.append(rules)

    def kill(self) -> None:
        """It has ended."""

    def wait(self) -> None:
        """It has ended."""


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch) -> Nft:
    made = Nft()
    monkeypatch.setattr(door.subprocess, "Popen", made)
    monkeypatch.setattr(door.shutil, "which", lambda name: f"/usr/sbin/{name}")
    return made


def test_what_was_prepared_is_told_the_rule(nft: Nft) -> None:
    made = door.Door(NETWORK)
    made.prepare()
    assert nft.commands == [["nsenter", "--net=/proc/1/ns/net", "nft", "-f", "-"]]
    assert nft.told == []
    made.close()
    assert len(nft.commands) == 1
    assert "syn drop" in nft.told[0] and 'iifname != "lo"' in nft.told[0]


def test_it_is_opened_whether_it_was_closed_or_not(nft: Nft) -> None:
    made = door.Door(NETWORK)
    made.prepare()
    made.open()
    assert nft.told == ["", f"table inet {door.TABLE}\ndelete table inet {door.TABLE}\n"]


def test_without_nft_nothing_happens(nft: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.shutil, "which", lambda name: None)
    made = door.Door(NETWORK)
    made.close()
    made.open()
    assert nft.commands == []
