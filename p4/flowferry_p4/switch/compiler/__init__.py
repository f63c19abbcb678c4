# SPDX-License-Identifier: Apache-2.0
"""From a P4 program's model to restricted C for the kernel."""

from __future__ import annotations

from .program import CompiledProgram, CounterLayout, compile_program
from .tables import Kind, TableLayout

__all__ = ["CompiledProgram", "CounterLayout", "Kind", "TableLayout", "compile_program"]
