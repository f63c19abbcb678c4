# SPDX-License-Identifier: Apache-2.0
"""What a direct move has to know of an application's processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

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


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_probe_has_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    """It ends by itself; what somebody executes there does not, and is a reason."""
    monkeypatch.setattr(application, "PATIENCE", 60.0 if ends else 0.2)
    with subprocess.Popen(["sleep", "60"]) as probe, subprocess.Popen(["sleep", "60"]) as own:
        looks = 0

        def pids() -> list[int]:
            nonlocal looks
            looks += 1
            return [own.pid] if ends and looks == 3 else [own.pid, probe.pid]

        monkeypatch.setattr(application, "application_of", lambda _: own.pid)
        monkeypatch.setattr(application, "Layer", Mock())
        try:
            if ends:
                found = application.look("it", own.pid, ["sleep", "60"], pids)
                assert (found["pid"], looks) == (own.pid, 3)
            else:
                with pytest.raises(FlowferryError, match="not part of its application's") as raised:
                    application.look("it", own.pid, ["sleep", "60"], pids)
                assert raised.value.code == "direct_impossible"
        finally:
            probe.kill()
            own.kill()
