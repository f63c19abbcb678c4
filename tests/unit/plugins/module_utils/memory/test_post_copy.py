# SPDX-License-Identifier: Apache-2.0
"""Memory follows a process that runs already: whole, in its place, or the process ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import transfer
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.memory import requests, stream
from ansible_collections.flowferry.core.plugins.module_utils.memory.missing import Missing
from ansible_collections.flowferry.core.plugins.module_utils.memory.post_copy_destination import (
    PostCopyReceiver,
)
from ansible_collections.flowferry.core.plugins.module_utils.memory.post_copy_source import (
    PostCopySender,
)

from .test_memory_stream import CERTIFICATES, PAGE, PLACE, Holder

SIZE = 24 << 20
ELSEWHERE = 0x210000000000
# The program of both: memory at PLACE in which each page begins with its number. The copy's is
# registered with a userfaultfd, that goes to a socket as CRIU's restore sends it.
PROGRAM = """
import ctypes, os, socket, struct, sys
place, size, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 2, ctypes.c_int, ctypes.c_void_p]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert libc.mmap(place, size, 3, 0x100022, -1, 0) == place

def number(at):
    return ctypes.c_uint64.from_address(at).value

def fill():
    for page in range(size // 4096):
        ctypes.c_uint64.from_address(place + page * 4096).value = page + 1

def register():
    # Two mappings: what comes together may belong to both.
    assert libc.madvise(place + (5 << 20) + 3 * 4096, 10 << 20, 15) == 0
    descriptor = libc.syscall({"x86_64": 323, "aarch64": 282}[os.uname().machine], 0o2004000)
    assert descriptor >= 0, ctypes.get_errno()
    api = (ctypes.c_uint64 * 3)(0xAA, 0b1001110, 0)
    assert libc.ioctl(descriptor, ctypes.c_ulong(0xC018AA3F), api) == 0
    words = (ctypes.c_uint64 * 4)(place, size, 1, 0)
    assert libc.ioctl(descriptor, ctypes.c_ulong(0xC020AA00), words) == 0
    lines = socket.socket(socket.AF_UNIX)
    lines.connect(f"{directory}/lazy-pages.socket")
    lines.send(struct.pack("@i", 7))
    socket.send_fds(lines, [b"x"], [descriptor])
    lines.send(struct.pack("@i", 0x52535446))
    os.close(descriptor)

def wrong(start, first, pages):
    return sum(number(start + n * 4096) != (first + n if first else 0) for n in range(pages))

def obey(words):
    name, *numbers = words
    numbers = [int(one) for one in numbers]
    if name == "wrong":
        return wrong(*numbers)
    if name == "write":
        ctypes.c_uint64.from_address(numbers[0]).value = numbers[1]
        return 0
    if name == "move":
        return int(libc.mremap(numbers[0], numbers[2], numbers[2], 3, numbers[1]) != numbers[1])
    if name == "drop":
        return libc.madvise(numbers[0], numbers[1], 4)
    if name == "child":
        child = os.fork()
        if child == 0:
            os._exit(min(wrong(*numbers), 1))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

fill() if directory == "source" else register()
print("ready", flush=True)
for line in sys.stdin:
    print(obey(line.split()), flush=True)
"""


class Held(Holder):
    """One that does what it is told."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory, SIZE, PROGRAM)

    def ask(self, *words: object) -> int:
        self.tell(*words)
        return int(self.line())


class Move:
    """A source that stands still, a copy that has nothing yet, and what connects their helpers."""

    def __init__(self, directory: Path) -> None:
        self.mark, group = directory / "lost", directory / "group"
        group.mkdir()
        self.receiver = PostCopyReceiver(self.mark)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        port = self._listener.getsockname()[1]
        context = transfer.tls_context(CERTIFICATES, server=False)
        self.sender = PostCopySender("127.0.0.1", port, context, 5.0)
        self.source = Held("source")
        self.sender.begin()
        self.sender.learn({7: self.source.process.pid})
        self.sender.send(7, PLACE, SIZE)
        self.sender.finish()
        self.receiver.expect(directory, {7: 7}, {7: [(PLACE, SIZE)]})
        self.copy = Held(str(directory))
        (group / "cgroup.procs").write_text(f"{self.copy.process.pid}\n")
        self.receiver.place({7: self.copy.process.pid}, group)

    def _accept(self) -> None:
        context = transfer.tls_context(CERTIFICATES, server=True)
        with suppress(OSError):  # it is closed in the end
            while True:
                plain, _ = self._listener.accept()
                lines = transfer.JsonLines(context.wrap_socket(plain, server_side=True))
                self.taken.append(lines.connection)
                serve: Callable[[transfer.JsonLines], None] = {
                    stream.PURPOSE: self.receiver.receive,
                    requests.REQUESTS: self.receiver.take_requests,
                }[(lines.receive() or {})["hello"]]
                threading.Thread(target=serve, args=(lines,), daemon=True).start()

    def settle(self) -> None:
        self.receiver.settle(30)
        assert self.receiver.state()["done"]

    def end(self) -> None:
        self.receiver.close()
        self.sender.close()
        self._listener.close()
        self.source.end()
        self.copy.end()


@pytest.fixture
def move(tmp_path: Path) -> Iterator[Move]:
    if os.geteuid() != 0:
        pytest.skip("run: sudo make unit")
    made = Move(tmp_path)
    yield made
    made.end()


def test_what_is_touched_comes_before_the_rest_does(move: Move) -> None:
    """Nothing has begun, and the process reads what it wants, in any order."""
    for page in (5000, 3, 700, 5001):
        assert move.copy.ask("wrong", PLACE + page * PAGE, page + 1, 1) == 0
    state = move.receiver.state()
    assert not state["done"] and state["faults"] >= 3 and state["bytes"] < SIZE // 10
    assert state["longest_ms"] > 0
    move.receiver.begin()
    move.settle()
    assert move.copy.ask("wrong", PLACE, 1, SIZE // PAGE) == 0
    assert move.receiver.state()["bytes"] >= SIZE


def test_the_process_reads_everything_while_it_comes(move: Move) -> None:
    move.copy.tell("wrong", PLACE, 1, SIZE // PAGE)
    move.receiver.begin()
    assert move.copy.line() == "0"
    move.settle()


def test_what_the_process_writes_stays(move: Move) -> None:
    move.copy.ask("write", PLACE + 9 * PAGE, 4711)
    move.receiver.begin()
    move.settle()
    assert move.copy.ask("wrong", PLACE + 9 * PAGE, 4711, 1) == 0
    assert move.copy.ask("wrong", PLACE + 10 * PAGE, 11, SIZE // PAGE - 10) == 0


def test_memory_that_is_moved_comes_to_its_new_place(move: Move) -> None:
    assert move.copy.ask("move", PLACE + (6 << 20), ELSEWHERE, 8 << 20) == 0
    assert move.copy.ask("wrong", ELSEWHERE + 5 * PAGE, (6 << 20) // PAGE + 6, 1) == 0
    move.receiver.begin()
    move.settle()
    assert move.copy.ask("wrong", ELSEWHERE, (6 << 20) // PAGE + 1, (8 << 20) // PAGE) == 0
    assert move.copy.ask("wrong", PLACE, 1, (6 << 20) // PAGE) == 0


def test_memory_that_is_given_back_is_empty(move: Move) -> None:
    """What comes for it later does not come back to it."""
    assert move.copy.ask("drop", PLACE + (2 << 20), 4 << 20) == 0
    assert move.copy.ask("wrong", PLACE + (3 << 20), 0, 1) == 0
    move.receiver.begin()
    move.settle()
    assert move.copy.ask("wrong", PLACE + (2 << 20), 0, (4 << 20) // PAGE) == 0
    assert move.copy.ask("wrong", PLACE + (6 << 20), (6 << 20) // PAGE + 1, 100) == 0


def test_a_child_has_what_its_parent_has(move: Move) -> None:
    """It was born before its memory had come."""
    assert move.copy.ask("child", PLACE + (1 << 20), (1 << 20) // PAGE + 1, 300) == 0
    move.copy.tell("child", PLACE, 1, SIZE // PAGE)
    move.receiver.begin()
    assert move.copy.line() == "0"
    assert move.copy.ask("wrong", PLACE, 1, SIZE // PAGE) == 0
    move.settle()


def test_a_child_that_is_told_of_after_the_end_is_left_to_the_kernel(tmp_path: Path) -> None:
    """Its faults would be answered by nobody."""
    receiver = PostCopyReceiver(tmp_path / "lost")
    receiver.close()
    descriptor, other = os.pipe()
    receiver._add(7, descriptor, Missing())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    os.close(other)


def test_a_process_that_ends_misses_nothing(move: Move) -> None:
    move.copy.end()
    move.receiver.begin()
    move.settle()
    assert not move.mark.exists()


def test_a_source_that_is_lost_ends_the_copy(move: Move) -> None:
    """It would go on with empty pages."""
    assert move.copy.ask("wrong", PLACE, 1, 1) == 0
    for connection in move.taken:
        with suppress(OSError):  # the first that is lost ends others
            connection.shutdown(socket.SHUT_RDWR)
    assert move.copy.process.wait(20) == -9
    with pytest.raises(FlowferryError, match="memory was lost") as caught:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            move.receiver.state()
    assert caught.value.code == "post_copy_failed"
    assert move.mark.exists()


def test_a_source_without_the_memory_ends_the_copy(move: Move) -> None:
    move.source.end()
    move.receiver.begin()
    assert move.copy.process.wait(20) == -9


def test_a_copy_that_is_given_up_ends(move: Move) -> None:
    closing = threading.Thread(target=move.receiver.close)
    closing.start()
    assert move.copy.process.wait(20) == -9
    closing.join(20)
    assert not closing.is_alive()
