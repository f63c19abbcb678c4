# SPDX-License-Identifier: Apache-2.0
"""The differential fuzzer, for a while and with a fixed seed; by hand it runs as long as you like:
`python -m flowferry_p4.switch.fuzz --seconds 3600 tests/p4programs/compiled/*.json`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    ROOT / f"tests/p4programs/compiled/{name}.json"
    for name in (
        "action_conditions",
        "checksum_update",
        "clone_egress",
        "control_switch_action",
        "expr_signed",
        "multicast_clone",
        "multicast_headers",
        "parse_select_masks",
        "recirculate_headers",
        "register",
        "stack_push",
        "table_mixed",
    )
]
DEADLINE = 240
"""Seconds that a busy machine may need for what takes an idle one twenty."""


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowferry_p4.switch.fuzz", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "p4")},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="the switch needs root")
def test_compiled_programs_do_what_the_interpreter_does() -> None:
    done = fuzz("--rounds", "8", *(str(program) for program in PROGRAMS))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(PROGRAMS)
    assert all("8 rounds without a difference" in line for line in lines), done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the switch needs root")
def test_the_projects_program_does_what_the_interpreter_does() -> None:
    """Few rounds: each compares what it remembers of flows, 330,000 registers."""
    done = fuzz("--rounds", "3", str(ROOT / "p4/compiled/flowferry.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "flowferry.json: 3 rounds without a difference\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="the switch needs root")
def test_a_difference_is_found() -> None:
    """The interpreter is given a program that adds where the compiled one subtracts."""
    program = ROOT / "tests/p4programs/compiled/expr_arithmetic.json"
    code = (
        "import sys\n"
        "from flowferry_p4.switch.interpreter import expressions\n"
        "expressions._BINARY['+'] = lambda a, b: a - b\n"
        "from flowferry_p4.switch.fuzz.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--rounds", "3", str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "p4")},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "interpreted:" in done.stdout
    assert "compiled:" in done.stdout
