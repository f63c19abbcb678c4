# SPDX-License-Identifier: Apache-2.0
"""Shared memory of a pod's sandbox keeps its pod where it is; that in a volume does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import shared_memory
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

MAPS = """7f0000000000-7f0000001000 rw-s 00000000 00:1b 7   {place}/mapped
7f0000001000-7f0000002000 rw-s 00000000 00:1b 8   {place}/gone (deleted)
7f0000002000-7f0000003000 r-xp 00000000 00:1b 9   /usr/lib/it.so
7f0000003000-7f0000004000 rw-p 00000000 00:00 0
"""


def process(directory: Path, source: str, place: str = "/dev/shm") -> Path:
    """The directory in /proc of a process with files there, which is mounted from a source."""
    made = directory / "1234"
    (made / "fd").mkdir(parents=True)
    (made / "fd" / "3").symlink_to(f"{place}/opened")
    (made / "fd" / "4").symlink_to("socket:[1]")
    (made / "maps").write_text(MAPS.format(place=place))
    options = "rw,nosuid - tmpfs"
    (made / "mountinfo").write_text(
        f"1 0 0:1 / / rw - overlay it rw\n2 1 0:2 / /dev/shm {options} {source} rw\n"
    )
    return made


@pytest.mark.parametrize(
    ("source", "place", "refuses"),
    [("shm", "/dev/shm", True), ("tmpfs", "/dev/shm", False), ("shm", "/data", False)],
)
def test_files_in_the_sandboxs_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, place: str, refuses: bool
) -> None:
    made = process(tmp_path, source, place)
    monkeypatch.setattr(shared_memory, "Path", lambda path: made)
    if not refuses:
        shared_memory.check_shared_memory('pod "default/it"', "it", [1234])
        return
    with pytest.raises(FlowferryError, match="/dev/shm/mapped, /dev/shm/opened") as refused:
        shared_memory.check_shared_memory('pod "default/it"', "it", [1234])
    assert refused.value.code == "volume_cannot_move"


def test_a_process_that_has_ended_has_none() -> None:
    shared_memory.check_shared_memory('pod "default/it"', "it", [1 << 30])
