# SPDX-License-Identifier: Apache-2.0
"""From a P4 program's model to restricted C for the kernel."""

from __future__ import annotations

from .layouts import (
    GROUP,
    GROUP_SLOTS,
    MEMBER,
    REPLICAS,
    CounterLayout,
    DigestLayout,
    Message,
    MeterLayout,
    ProfileLayout,
    RegisterLayout,
)
from .program import DROP_REASONS, CompiledProgram, compile_program
from .tables import Kind, TableLayout

__all__ = [
    "DROP_REASONS",
    "GROUP",
    "GROUP_SLOTS",
    "MEMBER",
    "REPLICAS",
    "CompiledProgram",
    "CounterLayout",
    "DigestLayout",
    "Kind",
    "Message",
    "MeterLayout",
    "ProfileLayout",
    "RegisterLayout",
    "TableLayout",
    "compile_program",
]
