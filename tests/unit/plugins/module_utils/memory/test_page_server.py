# SPDX-License-Identifier: Apache-2.0
"""What CRIU hands to its page server: images of it, but for what goes apart. CRIU is played."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint import images
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.memory.page_server import PageServer

PAGE = os.sysconf("SC_PAGE_SIZE")
PARENT, LAZY, PRESENT = 1, 2, 4
TASK, SHARED = 7 << 8 | 1, 5 << 8 | 2
LARGE = 0x10000000


class Criu:
    """The other end of the socket."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=os.dup(descriptor))
        self.socket.settimeout(10.0)

    def say(
        self, command: int, owner: int = 0, pages: int = 0, at: int = 0, flags: int = 0
    ) -> None:
        self.socket.sendall(struct.pack("@IQQQ", command | flags << 16, pages, at, owner))

    def open(self, owner: int) -> None:
        self.say(4, owner)
        assert self.socket.recv(1) == b"\0", "there is no parent"

    def add(self, owner: int, at: int, content: bytes, flags: int) -> None:
        self.say(6, owner, len(content) // PAGE, at, flags)
        self.socket.sendall(content)

    def close(self) -> None:
        self.say(0x1024)
        assert self.socket.recv(4) == bytes(4)


@pytest.fixture
def apart() -> list[tuple[int, int, int]]:
    """What was said to go apart."""
    return []


@pytest.fixture
def server(pycriu: None, apart: list[tuple[int, int, int]]) -> Iterator[PageServer]:
    """One by which everything from LARGE on goes apart."""

    def takes(pid: int, start: int, size: int) -> bool:
        if start >= LARGE:
            apart.append((pid, start, size))
        return start >= LARGE

    serving = PageServer(takes)
    yield serving
    serving.close()


def entries(path: Path) -> tuple[int, list[tuple[int, int, int]]]:
    """The number of the file with pages, and what of it belongs where."""
    data = images.read(path)
    start = images.start_of(data, "PAGEMAP", path)
    head, *parts = images.frames(data, start, path)
    found = [images.parse("pagemap_entry", part, path) for part in parts]
    number: int = images.parse("pagemap_head", head, path).pages_id
    return number, [(entry.vaddr, entry.nr_pages, entry.flags) for entry in found]


def test_images_are_those_of_criu(
    server: PageServer, apart: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    criu = Criu(server.theirs)
    server.begin(tmp_path)
    small, shared = os.urandom(2 * PAGE), os.urandom(600 * PAGE)
    criu.open(TASK)
    criu.add(TASK, 0x4000, small, LAZY | PRESENT)
    criu.add(TASK, LARGE, bytes(700 * PAGE), LAZY | PRESENT)
    criu.add(TASK, LARGE + 700 * PAGE, small[:PAGE], PRESENT)  # what CRIU does not call lazy stays
    criu.open(SHARED)
    criu.add(SHARED, 0, shared, PRESENT)
    criu.close()
    server.finish()
    assert apart == [(7, LARGE, 700 * PAGE)]
    number, found = entries(tmp_path / "pagemap-7.img")
    # CRIU would leave lazy ones out of a restore that memory follows.
    assert found == [(0x4000, 2, PRESENT), (LARGE + 700 * PAGE, 1, PRESENT)]
    assert (tmp_path / f"pages-{number}.img").read_bytes() == small + small[:PAGE]
    number, found = entries(tmp_path / "pagemap-shmem-5.img")
    assert found == [(0, 600, PRESENT)]
    assert (tmp_path / f"pages-{number}.img").read_bytes() == shared


def test_there_is_no_earlier_dump(server: PageServer, tmp_path: Path) -> None:
    criu = Criu(server.theirs)
    server.begin(tmp_path)
    criu.say(5, TASK)
    assert criu.socket.recv(4) == bytes(4)
    criu.close()
    server.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["within pages", "by an unknown command"])
def test_what_is_cut_short_is_told(server: PageServer, tmp_path: Path, end: str) -> None:
    criu = Criu(server.theirs)
    server.begin(tmp_path)
    criu.open(TASK)
    if end == "within pages":
        criu.say(6, TASK, 3, 0x4000, PRESENT)
        criu.socket.sendall(bytes(PAGE))
        criu.socket.close()
    else:
        criu.say(99, TASK)
    with pytest.raises(FlowferryError, match="pages were lost") as caught:
        server.finish()
    assert caught.value.code == "checkpoint_failed"
