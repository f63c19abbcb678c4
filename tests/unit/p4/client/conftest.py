# SPDX-License-Identifier: Apache-2.0
"""A fake switch that runs the sample program, and sessions with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for the fake server

from fake_server import FakeSwitch  # noqa: E402
from flowferry_p4.client import Schema, Session  # noqa: E402


@pytest.fixture(scope="session")
def sample() -> str:
    return (HERE / "sample.p4info.txtpb").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def schema(sample: str) -> Schema:
    return Schema(sample)


@pytest.fixture
def switch(sample: str) -> Iterator[FakeSwitch]:
    with FakeSwitch(p4info=sample) as fake:
        yield fake


@pytest.fixture
def session(switch: FakeSwitch) -> Iterator[Session]:
    # Generous: what is tested is not speed, and the machine may be busy.
    with Session.open(switch.address, timeout=60.0) as opened:
        yield opened
