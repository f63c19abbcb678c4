# SPDX-License-Identifier: Apache-2.0
"""When two nodes mean the same storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.storage import is_same, storage_of

HERE = {"boot": "1", "device": 1, "inode": 7, "type": "ext4", "source": "/dev/sda", "inside": "/x"}
NFS = {**HERE, "type": "nfs4", "source": "server:/export", "boot": "2", "device": 5}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (HERE, HERE, True),
        (HERE, {**HERE, "inode": 8}, False),
        (HERE, {**HERE, "boot": "2"}, False),
        (HERE, {**HERE, "device": 2}, False),
        (NFS, {**NFS, "boot": "3", "device": 9}, True),
        (NFS, {**NFS, "boot": "3", "source": "other:/export"}, False),
        (NFS, {**NFS, "boot": "3", "inside": "/y"}, False),
        (NFS, {**NFS, "boot": "3", "inode": 8}, False),
        (NFS, {**NFS, "boot": "3", "type": "ext4"}, False),
        ({}, HERE, False),
    ],
)
def test_when_storage_is_the_same(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert is_same(one, other) is same
    assert is_same(other, one) is same


def test_storage_is_told_by_what_is_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    here = storage_of(tmp_path)
    assert is_same(here, storage_of(str(tmp_path / "link")))
    assert not is_same(here, storage_of(tmp_path / "other"))
    assert storage_of(tmp_path / "missing") == {}
