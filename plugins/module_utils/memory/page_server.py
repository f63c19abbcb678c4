# SPDX-License-Identifier: Apache-2.0
"""What CRIU hands its pages to while it dumps, instead of writing them to files itself.

It speaks the protocol of CRIU's page server (criu/page-xfer.c): CRIU announces pages and lets their
content follow. What somebody else brings to the destination is only noted; everything else becomes
the images that CRIU would have written.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..checkpoint.images import frame, pycriu
from ..errors import FlowferryError

_PAGE = os.sysconf("SC_PAGE_SIZE")
# struct page_server_iov: command and flags, pages, address, whose they are.
_MESSAGE = struct.Struct("@IQQQ")
_COMMAND_BITS, _OWNER_BITS = 16, 8
_OPEN, _PARENT, _ADD = 4, 5, 6
_CLOSE = (0x1023, 0x1024)
_OF_TASK, _OF_SHARED_MEMORY = 1, 2
_LAZY, _PRESENT = 2, 4
_NAMES = {_OF_TASK: "pagemap-{}.img", _OF_SHARED_MEMORY: "pagemap-shmem-{}.img"}
_CHUNK = 1 << 20

Elsewhere = Callable[[int, int, int], bool]
"""Whether pages are brought by somebody else: told CRIU's pid, the address and the size."""


class PageServer:
    """For one dump. CRIU gets the descriptor ``theirs``, and with close() it is over."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            with suppress(OSError):  # a larger buffer only saves switches between the two
                end.setsockopt(socket.SOL_SOCKET, 32, 8 * _CHUNK)  # SO_SNDBUFFORCE
        self._scratch = bytearray(_CHUNK)
        self._sink = _Sink()
        self._images: dict[int, _Image] = {}
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        pycriu()

    @property
    def theirs(self) -> int:
        """The descriptor for CRIU."""
        return self._theirs.fileno()

    def begin(self, directory: Path) -> None:
        """Serve, and write images into ``directory``."""
        self._theirs.close()  # or CRIU's end would go unnoticed
        self._thread = threading.Thread(target=self._run, args=(directory,), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """CRIU has ended the dump: every image is there, or a FlowferryError says why not."""
        if self._thread is not None:
            self._thread.join(10.0)
        if self._failure is not None:
            raise FlowferryError("checkpoint_failed", f"pages were lost: {self._failure}")

    def close(self) -> None:
        """Nobody is served any more."""
        for end in (self._theirs, self._ours):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sink.close()

    def _run(self, directory: Path) -> None:
        try:
            with ExitStack() as files:
                self._serve(directory, files)
        except Exception as error:  # a thread has nobody to tell it to
            self._failure = error
            self._ours.close()  # so CRIU does not wait for it either

    def _serve(self, directory: Path, files: ExitStack) -> None:
        header = memoryview(bytearray(_MESSAGE.size))
        while True:
            self._read(header)
            word, pages, address, owner = _MESSAGE.unpack(header)
            command, flags = word & ((1 << _COMMAND_BITS) - 1), word >> _COMMAND_BITS
            if command in _CLOSE:
                break
            if command == _PARENT:
                self._ours.sendall(struct.pack("@i", 0))  # there is no earlier dump
            elif command == _OPEN:
                self._images[owner] = _Image(directory, owner, len(self._images) + 1, files)
                self._ours.sendall(b"\0")
            elif command == _ADD:
                self._add(owner, address, pages, flags)
            else:
                raise ValueError(f"CRIU's page server is asked for {command}")
        files.close()
        self._ours.sendall(struct.pack("@i", 0))

    def _add(self, owner: int, address: int, pages: int, flags: int) -> None:
        size = pages * _PAGE
        pid = owner >> _OWNER_BITS if owner & 0xFF == _OF_TASK else 0
        if flags & _LAZY and self._elsewhere(pid, address, size):
            self._discard(size)
            return
        image = self._images[owner]
        # Pages of images are there; a restore of what follows later would leave lazy ones out.
        image.note(address, pages, flags & ~_LAZY)
        while size and flags & _PRESENT:
            part = memoryview(self._scratch)[: min(size, _CHUNK)]
            self._read(part)
            image.pages.write(part)
            size -= len(part)

    def _discard(self, size: int) -> None:
        while size:
            gone = self._sink.take(self._ours, size)
            if gone == 0:
                gone = self._ours.recv_into(self._scratch, min(size, _CHUNK))
            if gone == 0:
                raise EOFError("CRIU's stream of pages has ended early")
            size -= gone

    def _read(self, wanted: memoryview) -> None:
        at = 0
        while at < len(wanted):
            read = self._ours.recv_into(wanted[at:])
            if read == 0:
                raise EOFError("CRIU's stream of pages has ended early")
            at += read


class _Image:
    """The pages of a process, or of shared memory, and where they belong."""

    def __init__(self, directory: Path, owner: int, number: int, files: ExitStack) -> None:
        of, name = owner & 0xFF, str(owner >> _OWNER_BITS)
        self._map: BinaryIO = files.enter_context((directory / _NAMES[of].format(name)).open("xb"))
        self.pages: BinaryIO = files.enter_context((directory / f"pages-{number}.img").open("xb"))
        magic, messages = pycriu().magic.by_name, pycriu().pb
        self._map.write(struct.pack("<II", magic["IMG_COMMON"], magic["PAGEMAP"]))
        self._map.write(frame(messages.pagemap_head(pages_id=number).SerializeToString()))
        self._entry: Any = messages.pagemap_entry

    def note(self, address: int, pages: int, flags: int) -> None:
        """That these pages follow."""
        entry = self._entry(vaddr=address, compat_nr_pages=0, nr_pages=pages, flags=flags)
        self._map.write(frame(entry.SerializeToString()))


class _Sink:
    """Where what a socket has goes unread, if this Python can splice (3.10)."""

    def __init__(self) -> None:
        self._splice: Callable[[int, int, int], int] | None = getattr(os, "splice", None)
        if self._splice is not None:
            self._out, self._in = os.pipe()
            self._nowhere = os.open("/dev/null", os.O_WRONLY)

    def take(self, connection: socket.socket, size: int) -> int:
        """Take up to that many bytes; 0 if that is impossible."""
        if self._splice is None:
            return 0
        taken = self._splice(connection.fileno(), self._in, min(size, _CHUNK))
        left = taken
        while left:
            left -= self._splice(self._out, self._nowhere, left)
        return taken

    def close(self) -> None:
        """No more is taken."""
        if self._splice is not None:
            for descriptor in (self._out, self._in, self._nowhere):
                os.close(descriptor)
            self._splice = None
