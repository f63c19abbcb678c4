# SPDX-License-Identifier: Apache-2.0
"""Memory of one process comes into another one, whole, or it is said that it has not."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import transfer
from ansible_collections.flowferry.core.plugins.module_utils.certificates import (
    one_time_certificates,
)
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.memory import stream
from ansible_collections.flowferry.core.plugins.module_utils.memory.buffers import PIECE

CERTIFICATES = one_time_certificates()
PAGE = 4096
SIZE = 60 * PIECE  # more than waits before there is a process
PLACE = 0x200000000000
"""The same address in both processes, as after a restore."""
HOLDER = """
import ctypes, hashlib, os, sys
place, size = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
# Readable and writable, private and anonymous, at that address or not at all.
assert libc.mmap(place, size, 3, 0x100022, -1, 0) == place
memory = (ctypes.c_char * size).from_address(place)
if sys.argv[3] == "full":
    memory.raw = os.urandom(1 << 20) * (size >> 20)
print("ready", flush=True)
for line in sys.stdin:
    print(hashlib.sha256(memory).hexdigest(), flush=True)
"""


class Holder:
    """A process with memory at PLACE."""

    def __init__(self, kind: str, size: int = SIZE, program: str = HOLDER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(PLACE), str(size), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.line() == "ready"

    def digest(self) -> str:
        """Of its memory as it is now."""
        self.tell()
        return self.line()

    def tell(self, *words: object) -> None:
        """A line of its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders() -> Iterator[tuple[Holder, Holder]]:
    """One with content and one without."""
    both = Holder("full"), Holder("empty")
    yield both
    for holder in both:
        holder.end()


class Ends:
    """A sender and a receiver, connected."""

    def __init__(self) -> None:
        self.receiver = stream.Receiver(SIZE)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()
        port = self._listener.getsockname()[1]
        context = transfer.tls_context(CERTIFICATES, server=False)
        self.sender = stream.Sender("127.0.0.1", port, context, 5.0)

    def _accept(self) -> None:
        context = transfer.tls_context(CERTIFICATES, server=True)
        with suppress(OSError):  # it is closed in the end
            while True:
                plain, _ = self._listener.accept()
                thread = threading.Thread(target=self._receive, args=(plain, context), daemon=True)
                thread.start()

    def _receive(self, plain: socket.socket, context: object) -> None:
        lines = transfer.JsonLines(context.wrap_socket(plain, server_side=True))  # type: ignore[attr-defined]
        assert lines.receive() == {"hello": stream.PURPOSE}
        with suppress(FlowferryError, OSError):  # place() tells it
            self.receiver.receive(lines)

    def close(self) -> None:
        """Nobody uses them any more."""
        self.sender.close()
        self._listener.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Of one stream."""
    both = Ends()
    yield both
    both.close()


def send_all(ends: Ends, source: Holder) -> None:
    ends.sender.begin()
    ends.sender.learn({7: source.pid})
    ends.sender.send(7, PLACE, PIECE // 2 + PAGE)
    for at in range(PIECE // 2 + PAGE, 2 * PIECE, 2 * PAGE):  # in many small pieces
        ends.sender.send(7, PLACE + at, min(2 * PAGE, 2 * PIECE - at))
    ends.sender.send(7, PLACE + 2 * PIECE, SIZE - 2 * PIECE)
    ends.sender.finish()


def test_memory_comes_whole(ends: Ends, holders: tuple[Holder, Holder]) -> None:
    source, copy = holders
    send_all(ends, source)
    assert copy.digest() == hashlib.sha256(bytes(SIZE)).hexdigest(), "nothing comes before place()"
    ends.receiver.place({7: copy.pid}, ends.sender.connections, ends.sender.bytes)
    assert ends.sender.bytes == SIZE
    assert copy.digest() == source.digest()


def test_memory_of_two_dumps_comes_whole(ends: Ends, holders: tuple[Holder, Holder]) -> None:
    """Each is placed by itself, as soon as its processes are there, whatever came first."""
    source, copy = holders
    half = SIZE // 2
    ends.sender.begin()
    for key in (7, 8):
        ends.sender.learn({key: source.pid})
    for at in range(0, half, PIECE // 4):  # by turns
        ends.sender.send(7, PLACE + at, PIECE // 4)
        ends.sender.send(8, PLACE + half + at, PIECE // 4)
    ends.sender.finish()
    ends.receiver.place({8: copy.pid}, ends.sender.connections, half)
    assert copy.digest() != source.digest()
    ends.receiver.place({7: copy.pid}, ends.sender.connections, half)
    assert copy.digest() == source.digest()


def test_no_memory_at_all_is_whole_too(ends: Ends) -> None:
    ends.sender.begin()
    ends.sender.finish()
    ends.receiver.place({}, ends.sender.connections, 0)


def test_a_source_that_ends_early_is_told(ends: Ends, holders: tuple[Holder, Holder]) -> None:
    source, copy = holders
    ends.sender.begin()
    ends.sender.learn({7: source.pid})
    ends.sender.send(7, PLACE, 4 * PIECE)
    ends.sender.close()
    with pytest.raises(FlowferryError, match="memory has not come") as caught:
        ends.receiver.place({7: copy.pid}, ends.sender.connections, SIZE)
    assert caught.value.code == "restore_failed"


def test_memory_that_cannot_be_read_is_told(ends: Ends, holders: tuple[Holder, Holder]) -> None:
    source, copy = holders
    ends.sender.begin()
    ends.sender.learn({7: source.pid})
    ends.sender.send(7, 0x1000, PAGE)
    ends.sender.finish()
    with pytest.raises(FlowferryError, match="memory has not come"):
        ends.receiver.place({7: copy.pid}, ends.sender.connections, PAGE)


def test_missing_memory_is_told(ends: Ends, holders: tuple[Holder, Holder]) -> None:
    source, copy = holders
    ends.sender.begin()
    ends.sender.learn({7: source.pid})
    ends.sender.send(7, PLACE, PAGE)
    ends.sender.finish()
    with pytest.raises(FlowferryError, match=f"{PAGE} of {SIZE} bytes of memory"):
        ends.receiver.place({7: copy.pid}, ends.sender.connections, SIZE)
