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
BMV2 = os.environ.get("FLOWFERRY_BMV2", "")
# docs/switch.md says why. The others give the same packets, counters and registers.
UNLIKE_BMV2 = {
    "action_selector": "port 2: the packet differs",
    "p4runtime": "ValueSet writes are not supported yet",
    "parse_no_match": "+ 0355",
    "parse_value_set": "ValueSet writes are not supported yet",
    "register": "Register reads are not supported yet",
    "resubmit_forever": "no packet left",
}
# BMv2 counts beyond the end of an array, in whatever memory is there, and sometimes ends by that.
TAKEN_BY_BMV2 = sorted(set(NAMES) - {"counter"})


def stf(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowferry_p4.switch.stf"]
        + [str(PROGRAMS / "compiled" / f"{name}.json"), str(PROGRAMS / f"{name}.stf"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "p4")},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.mark.parametrize("name", NAMES)
def test_program(name: str) -> None:
    done = stf(name)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.skipif(not BMV2, reason="run: make integration FLOWFERRY_BMV2=/path/to/bmv2")
@pytest.mark.parametrize("name", TAKEN_BY_BMV2 if BMV2 else ["every program"])
def test_bmv2_does_the_same(name: str) -> None:
    done = stf(name, "--bmv2", BMV2)
    output = f"{done.stdout}\n{done.stderr}"
    if name in UNLIKE_BMV2:
        assert done.returncode == 1 and UNLIKE_BMV2[name] in output, output
    else:
        assert done.returncode == 0, output
