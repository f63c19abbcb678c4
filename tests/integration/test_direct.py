# SPDX-License-Identifier: Apache-2.0
"""A program moves directly from a container into one that runs, and on; without a cluster."""

from __future__ import annotations

import base64
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.certificates import (
    one_time_certificates,
)
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import placeholder

REPOSITORY = Path(__file__).resolve().parents[2]
BED = Path(__file__).with_name("direct_bed.py")


def lab_root() -> Path:
    """What the lab's hosts are made of."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flowferry")
    found = sorted(cache.glob("root-*/usr/sbin/criu"))
    if os.geteuid() != 0 or not found:
        pytest.skip("run as root, after make lab-root")
    return found[-1].parents[2]


@pytest.mark.parametrize("kind", ["writable", "read-only", "prepared"])
def test_there_and_on(kind: str, tmp_path: Path) -> None:
    """Out of an ordinary container or a prepared one, and out of one that it was moved to."""
    root = lab_root()
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, str(BED)]
    told = ["node", str(REPOSITORY), str(root), str(tmp_path), kind]
    program = base64.b64decode(placeholder.program(platform.machine()))
    done = subprocess.run(
        [*command, *told],
        env={
            **os.environ,
            "FF_DIRECT_GROUP": f"ff-direct-{os.getpid()}",
            "FF_DIRECT_CERTIFICATES": json.dumps(one_time_certificates()),
        },
        input=program,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    moves = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    assert len(moves) == 2
    for number, move in enumerate(moves):
        before, after = move["before"], move["after"]
        assert after["count"] > before["count"] > 0, f"after move {number} it does not go on"
        if kind != "read-only":
            assert after["notes"] >= before["notes"] >= before["count"] - 1 > 0
        first = "placeholder" if kind == "prepared" else "python3"
        assert (after["lent"], after["first"]) == (False, first)
        assert after["is child"] and (after["id"] == 1) == (kind != "prepared")
        assert after["id"] == moves[0]["before"]["id"]
    assert moves[1]["before"]["count"] > moves[0]["after"]["count"], "it has begun again"
