# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told to keep new connections out; its rule itself is an integration test."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import door
from ansible_collections.flowferry.core.plugins.module_utils.door import Door

NETWORK = Path("/proc/1/ns/net")


class Kernel:
    """A netlink socket that acknowledges each message of a batch, or refuses with an error."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.answers: list[int] = []
        self.error = 0
        self.is_closed = False

    def send(self, data: bytes) -> None:
        kinds, at = [], 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            assert length % 4 == 0
            kinds.append(kind)
            at += length
        self.batches.append([kind & 0xFF for kind in kinds if kind >> 8])
        self.answers += [-self.error] * len(self.batches[-1])

    def recv(self, _: int) -> bytes:
        return struct.pack("=IHHIIi", 20, 2, 0, 0, 0, self.answers.pop(0))

    def close(self) -> None:
        self.is_closed = True


NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = 0, 2, 3, 6
OPENED, CLOSED = [NEW_TABLE, DELETE_TABLE], [NEW_TABLE, NEW_CHAIN, NEW_RULE]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    """Those that were connected to, in order."""
    made: list[Kernel] = []

    def open_in(network: Path, _: int) -> Kernel:
        assert network == NETWORK
        made.append(Kernel())
        return made[-1]

    monkeypatch.setattr(door, "open_in", open_in)
    return made


def test_what_was_prepared_is_told_the_rule_at_once(kernels: list[Kernel]) -> None:
    made = Door(NETWORK)
    made.prepare()
    made.close()
    (kernel,) = kernels
    assert kernel.batches == [OPENED, OPENED + CLOSED]
    assert not kernel.answers, "an answer was left for the next question"


@pytest.mark.parametrize("begin", [Door.prepare, Door.close, lambda _: None])
def test_it_is_opened_whether_it_was_closed_or_not(
    kernels: list[Kernel], begin: Callable[[Door], None]
) -> None:
    made = Door(NETWORK)
    begin(made)
    made.open()
    (kernel,) = kernels
    assert kernel.batches[-1] == OPENED
    assert kernel.is_closed, "a socket keeps the namespace of a pod that has ended"


def test_a_refusal_leaves_it_open_and_is_not_taken_for_the_next_answer(
    kernels: list[Kernel],
) -> None:
    made = Door(NETWORK)
    made.prepare()
    kernels[0].error = errno.EOPNOTSUPP
    made.close()
    assert kernels[0].is_closed
    made.close()
    assert kernels[1].batches[-1] == OPENED + CLOSED


def test_a_namespace_that_is_gone_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Door(Path("/proc/0/ns/net"))
    made.close()
    made.open()
