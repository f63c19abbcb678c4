# SPDX-License-Identifier: Apache-2.0
"""The kernel takes the project's program, and would take one that is somewhat larger."""

from __future__ import annotations

import json

from tests.integration.switch_bench import PROGRAM
from tests.integration.switch_testrun import TestRun

# BPF_COMPLEXITY_LIMIT_INSNS of the kernel: what is beyond is refused.
LIMIT = 1_000_000


def test_the_verifier_has_room_left() -> None:
    """How clang lays out the code decides half of it: a small change can be one too many."""
    followed = TestRun(json.loads(PROGRAM.read_text())).verified()
    assert 10_000 < followed < 0.8 * LIMIT, f"{followed} instructions of {LIMIT}"
