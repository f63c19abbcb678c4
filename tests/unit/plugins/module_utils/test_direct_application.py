# SPDX-License-Identifier: Apache-2.0
"""What a direct move has to know of an application's processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import cgroup
from ansible_collections.flowferry.core.plugins.module_utils.direct import application
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


def test_processes_are_known_by_the_ids_that_they_have_themselves() -> None:
    """Of those in the application's namespace of process ids, and of no other."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "sleep", "60"]
    outside = subprocess.Popen(unshare)
    try:
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        while not (found := children.read_text().split()):
            assert outside.poll() is None, "there are no namespaces here"
        inside = int(found[0])
        pids = [outside.pid, inside, os.getpid()]
        assert application.own_pids(Path(f"/proc/{inside}"), pids) == {1: inside}
    finally:
        outside.kill()
        outside.wait()


@pytest.mark.parametrize(
    ("limit", "known"), [("104857600", 100 << 20), ("9223372036854771712", 0), ("", 0)]
)
def test_the_limit_of_memory(
    limit: str, known: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit:
        (tmp_path / "memory.limit_in_bytes").write_text(limit)
    monkeypatch.setattr(cgroup, "path_of", lambda *_: tmp_path)
    assert cgroup.memory_limit(1) == known


def test_criu_needs_room_within_the_limit() -> None:
    for limit, used in ((0, 1 << 40), (100 << 20, 84 << 20)):
        application._check_limit(limit, used)
    with pytest.raises(FlowferryError, match="may use 100 MB, of which it has 85") as raised:
        application._check_limit(100 << 20, 85 << 20)
    assert raised.value.code == "direct_impossible"
