# SPDX-License-Identifier: Apache-2.0
"""The stream between two nodes: files over TLS, answered by the receiver.

TLS 1.3 authenticates every record, and that nothing is missing in between; so what arrives is what
was sent, and the files are not hashed once more while clients wait.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from .errors import FlowferryError
from .own_time import OWN

_CHUNK = 1 << 18
# While a file grows: how often that is looked at (seconds), and how much is sent before who has
# written the last of it may go on.
_INTERVAL = 0.001
_PIECE = 1 << 20


def tls_context(certificates: dict[str, str], *, server: bool) -> ssl.SSLContext:
    """Mutual TLS among the three parties of one migration.

    ``certificates`` has PEM texts: ``ca``, ``certificate``, ``key``. The authority lives as long as
    the migration, so to be signed by it is all the identity that is needed; host names are not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificates["ca"])
    # The ssl module reads the pair from a file only.
    with tempfile.NamedTemporaryFile("w", dir="/dev/shm", suffix=".pem") as pair:
        pair.write(certificates["key"] + certificates["certificate"])
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


class JsonLines:
    """Messages over a socket, one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = connection.makefile("rb")

    def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, longest: int = -1) -> dict[str, Any] | None:
        """The next message; None at the end of the stream. ``longest`` bounds its bytes."""
        line = self._reader.readline(longest)
        if not line:
            return None
        if not line.endswith(b"\n"):
            raise ValueError(f"a message that does not end: {line[:60]!r}...")
        message: dict[str, Any] = json.loads(line)
        return message

    def read_exactly(self, length: int) -> bytes:
        """``length`` bytes that follow a message; fewer at the end of the stream."""
        return self._reader.read(length)

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer with what follows a message."""
        at = 0
        while at < len(buffer):
            read = self._reader.readinto(buffer[at:])
            if not read:
                raise FlowferryError("transfer_failed", "the stream ended early")
            at += read

    def shut_down(self) -> None:
        """End the connection under whoever reads or writes it in another thread."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the reader and the socket."""
        self._reader.close()
        self.connection.close()


def connect(
    host: str, port: int, context: ssl.SSLContext, purpose: str, timeout: float = 5.0
) -> JsonLines:
    """A stream to the other node's helper, for what ``purpose`` says."""
    try:
        plain = socket.create_connection((host, port), timeout=timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = JsonLines(context.wrap_socket(plain))
    except OSError as error:
        raise FlowferryError(
            "destination_unreachable",
            f"the source cannot reach the destination at {host}:{port} ({error}); open the "
            "port between the nodes, or set migration_helper_port",
        ) from error
    lines.send({"hello": purpose})
    return lines


class Sender:
    """Holds a connection to the receiver open, so that the transfer itself starts at once."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        self._lines = connect(host, port, context, "transfer", timeout)
        self._sent: dict[str, int] = {}
        """Bytes of files that were sent while they grew."""
        self._failure: Exception | None = None
        # Small files go together: a record and a system call for many.
        self._pending = bytearray()

    @contextmanager
    def following(self, directory: Path, growing: tuple[str, ...]) -> Iterator[None]:
        """Send what is there already of files that the body appends to, and does nothing else.

        ``growing`` are their patterns below ``directory``. What is left of them send() sends. If it
        cannot be sent, that is told by send() too: the body is not to be disturbed.
        """
        is_over = threading.Event()
        thread = threading.Thread(target=self._follow, args=(directory, growing, is_over))
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _follow(self, directory: Path, growing: tuple[str, ...], is_over: threading.Event) -> None:
        try:
            while not is_over.wait(_INTERVAL):
                for pattern in growing:
                    for path in directory.glob(pattern):
                        self._send_grown(path, str(path.relative_to(directory)))
        except Exception as error:  # a thread has nobody to tell it to
            self._failure = error

    def _send_grown(self, path: Path, name: str) -> None:
        at = self._sent.get(name, 0)
        grown = path.stat().st_size - at
        if grown >= _CHUNK:
            with path.open("rb") as file:
                self._send_part(file, name, at, min(grown, _PIECE), beside=True)
            self._flush()

    def send(self, directory: Path) -> dict[str, Any]:
        """Send every file below ``directory``; returns the bytes sent once the receiver has them.

        Each comes as one part or more, {"name", "at", "size"} and the content; {"files"}, their
        number, is the end.
        """
        if self._failure is not None:
            raise self._failure
        names = sorted(_names_below(str(directory)))
        total = 0
        for name in names:
            with open(f"{directory}/{name}", "rb") as file:  # noqa: PTH123 - a Path costs more than that
                size, at = _size_of(file), self._sent.get(name, 0)
                if size > at or not size:
                    self._send_part(file, name, at, size - at)
            total += size
        self._pending += json.dumps({"files": len(names)}).encode() + b"\n"
        self._flush()
        answer = self._lines.receive()
        if answer is None or answer.get("error"):
            raise FlowferryError("transfer_failed", f"the destination says: {answer}")
        return {"size": total}

    def _send_part(
        self, file: BinaryIO, name: str, at: int, size: int, *, beside: bool = False
    ) -> None:
        """Append a part of a file to what is pending, and send that when it is much.

        Nobody waits for one that is sent ``beside`` something else.
        """
        header = {"name": name, "at": at, "size": size, "beside": beside}
        self._pending += json.dumps(header).encode() + b"\n"
        self._sent[name] = at + size
        if at:
            file.seek(at)
        while size:
            chunk = file.read(min(_CHUNK, size))
            if not chunk:
                raise FlowferryError(
                    "transfer_failed", f"{file.name} became shorter while it was sent"
                )
            size -= len(chunk)
            self._pending += chunk
            if len(self._pending) >= _CHUNK:
                self._flush()

    def _flush(self) -> None:
        self._lines.connection.sendall(self._pending)
        self._pending.clear()

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()


def _names_below(directory: str, below: str = "") -> Iterator[str]:
    """Files, relative to the directory. Of thousands, one for each socket, so without Paths."""
    with os.scandir(f"{directory}/{below}") as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _names_below(directory, f"{below}{entry.name}/")
            elif entry.is_file():
                yield below + entry.name


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def receive(lines: JsonLines, directory: Path, on_begin: Callable[[], None] = lambda: None) -> bool:
    """Take the files of a stream into ``directory``; False when some are missing.

    ``on_begin`` is called when the first one comes; the stream is open long before.
    """
    arrived: dict[str, int] = {}
    made: set[str] = set()
    while (header := lines.receive()) is not None:
        if "files" in header:
            complete = bool(header["files"] == len(arrived))
            lines.send({} if complete else {"error": f"{len(arrived)} files have arrived"})
            return complete
        name, at, size = str(header["name"]), int(header["at"]), int(header["size"])
        parent = _parent_of(name, size)
        if not arrived:
            on_begin()
        if at != arrived.get(name, 0):
            raise FlowferryError("transfer_failed", f"the source sent {name!r} from {at} on")
        with nullcontext() if header.get("beside") else OWN.counted():
            if parent not in made:
                Path(directory, parent).mkdir(parents=True, exist_ok=True)
                made.add(parent)
            mode: Literal["ab", "xb"] = "ab" if name in arrived else "xb"
            with open(f"{directory}/{name}", mode) as file:  # noqa: PTH123 - as in send()
                _take(lines, file, size)
        arrived[name] = at + size
    return False


def _parent_of(name: str, size: int) -> str:
    """The directory that a file of this name belongs to; none is outside of where files come."""
    parts = name.split("/")
    if size < 0 or {"", ".", ".."} & set(parts):
        raise FlowferryError("transfer_failed", f"the source sent {name!r} of {size} bytes")
    return "/".join(parts[:-1])


def _take(lines: JsonLines, file: BinaryIO, size: int) -> None:
    while size:
        chunk = lines.read_exactly(min(_CHUNK, size))
        if not chunk:
            raise FlowferryError("transfer_failed", f"the stream ended {size} bytes early")
        file.write(chunk)
        size -= len(chunk)
