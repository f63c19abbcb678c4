# SPDX-License-Identifier: Apache-2.0
"""How flows share the cells in which the P4 program remembers them, by its own hash."""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CONSTANTS = (ROOT / "p4/program/constants.p4").read_text(encoding="utf-8")
WAYS = 4


def constant(name: str) -> int:
    found = re.search(rf"const bit<32> {name}\s*= (\d+);", CONSTANTS)
    assert found, f"no constant {name}"
    return int(found[1])


def flow_set(address: str, port: int) -> int:
    end = ip_address(address).packed + bytes([6]) + port.to_bytes(2, "big")
    return zlib.crc32(end) % (constant("FLOW_CELLS") // WAYS)


def displaced(clients: int, flows_each: int) -> int:
    """Flows that find no cell of their own, of clients with random ports."""
    chance = random.Random(1)
    counts: Counter[int] = Counter()
    for client in range(clients):
        address = f"198.19.{1 + client // 250}.{client % 250 + 1}"
        ports = chance.sample(range(32768, 61000), flows_each)
        counts.update(flow_set(address, port) for port in ports)
    return sum(max(0, count - WAYS) for count in counts.values())


def test_sets_are_what_the_program_chooses_by_16_bits() -> None:
    assert constant("FLOW_CELLS") // WAYS == 1 << 16
    assert constant("CLIENT_CELLS") // 2 == 1 << 15


@pytest.mark.parametrize(
    ("clients", "flows_each", "most"), [(1000, 10, 0), (1, 28000, 0), (1000, 50, 110)]
)
def test_how_many_flows_are_displaced(clients: int, flows_each: int, most: int) -> None:
    assert displaced(clients, flows_each) <= most
