# SPDX-License-Identifier: Apache-2.0
"""Every program of tests/p4programs, run by its STF test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "p4programs"
NAMES = sorted(p.stem for p in PROGRAMS.glob("*.stf"))
LIMIT = 300.0


@pytest.mark.parametrize("name", NAMES)
def test_program(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowferry_p4.switch.stf"]
        + [str(PROGRAMS / "compiled" / f"{name}.json"), str(PROGRAMS / f"{name}.stf")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "p4")},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
