# SPDX-License-Identifier: Apache-2.0
"""Clients of real programs, for test_programs.py: on the client's host, standard library only.

    python3 program_client.py KIND HOST

KIND is a key of ``KINDS``. It opens its connections and then prints a line of JSON for every line
on standard input, which is the name of a method (``check`` if it is empty): what it found since the
last one, over the connections that it has had all along. Whatever goes wrong ends it with a
traceback.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

CONNECTIONS = 1000
PIECE = 6 << 20
# Longer than any hold on a busy machine.
LIMIT = 100.0


def connect(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=LIMIT)


def read_line(connection: socket.socket) -> bytes:
    """One line, byte by byte: nothing is read beyond it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError(f"the server closed the connection after {line!r}")
        line += byte
    return line


class Echo:
    """Each connection counts its own requests, and so does the server."""

    def __init__(self, host: str) -> None:
        self.connections = [connect(host, 7000) for _ in range(CONNECTIONS)]
        self.rounds = 0

    def check(self) -> dict[str, Any]:
        self.rounds += 1
        for number, connection in enumerate(self.connections):
            connection.sendall(f"{number}\n".encode())
        for number, connection in enumerate(self.connections):
            answer = read_line(connection).decode().split()
            if answer != [str(number), str(self.rounds)]:
                raise ValueError(f"connection {number}, request {self.rounds}: {answer}")
        return {"connections": len(self.connections), "rounds": self.rounds}


class Memcached:
    """One connection increments a number that it has set."""

    def __init__(self, host: str) -> None:
        self.connection = connect(host, 11211)
        self._ask("set number 0 0 1\r\n0")
        self.value = 0

    def _ask(self, command: str) -> str:
        self.connection.sendall(f"{command}\r\n".encode())
        return read_line(self.connection).decode().strip()

    def check(self) -> dict[str, Any]:
        for _ in range(100):
            self.value += 1
            answer = self._ask("incr number 1")
            if answer != str(self.value):
                raise ValueError(f"{answer} instead of {self.value}")
        return {"value": self.value}


class Visitors:
    """200 times a second somebody connects, asks once and leaves; the server counts its answers."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.answered = 0
        self.last = 0
        self.errors: list[str] = []
        self.ended = threading.Event()
        self.loop = threading.Thread(target=lambda: asyncio.run(self._visits()), daemon=True)
        self.loop.start()

    async def _visits(self) -> None:
        visits = set()
        while not self.ended.is_set():
            visit = asyncio.create_task(self._visit())
            visits.add(visit)
            visit.add_done_callback(visits.discard)
            await asyncio.sleep(0.005)
        await asyncio.gather(*visits)

    async def _visit(self) -> None:
        try:
            reader, writer = await asyncio.open_connection(self.host, 7000)
            writer.write(b"ask\n")
            self.last = max(self.last, int(await reader.readline()))
            self.answered += 1
            writer.close()
            await writer.wait_closed()
        except (OSError, ValueError) as error:
            self.errors.append(repr(error))

    def check(self) -> dict[str, Any]:
        return {"answered": self.answered, "errors": self.errors}

    def finish(self) -> dict[str, Any]:
        """When the last one has left."""
        self.ended.set()
        self.loop.join(LIMIT)
        return {**self.check(), "last": self.last}


class Command:
    """One connection, over which the server is told to go deaf, or to listen again."""

    def __init__(self, host: str) -> None:
        self.connection = connect(host, 7000)

    def _ask(self, word: bytes) -> dict[str, Any]:
        self.connection.sendall(word + b"\n")
        return {"answer": int(read_line(self.connection))}

    def check(self) -> dict[str, Any]:
        return self._ask(b"ask")

    def deaf(self) -> dict[str, Any]:
        return self._ask(b"deaf")

    def hear(self) -> dict[str, Any]:
        return self._ask(b"hear")


class Nginx:
    """A connection that is kept alive, and a download that is read piece by piece.

    What is not read fills the buffers on the way, and then the server waits.
    """

    def __init__(self, host: str) -> None:
        self.connection = connect(host, 8080)
        self.large = connect(host, 8080)
        self.large.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        self.left = self._head(self.large)
        self.hash = hashlib.sha256()

    def _head(self, connection: socket.socket) -> int:
        """The length of the body that follows."""
        length = 0
        if b" 200 " not in (status := read_line(connection)):
            raise ValueError(status)
        while (line := read_line(connection)) != b"\r\n":
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        return length

    def _download(self, amount: int) -> None:
        while amount:
            data = self.large.recv(min(amount, 1 << 16))
            if not data:
                raise ConnectionError(f"the download ended {self.left} bytes early")
            self.hash.update(data)
            self.left -= len(data)
            amount -= len(data)

    def check(self) -> dict[str, Any]:
        self._download(PIECE)
        self.connection.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
        body = b""
        length = self._head(self.connection)
        while len(body) < length:
            body += self.connection.recv(length - len(body))
        return {"small": body.decode().strip(), "left": self.left}

    def finish(self) -> dict[str, Any]:
        """Read the rest."""
        self._download(self.left)
        return {"left": self.left, "sha256": self.hash.hexdigest()}


KINDS: dict[str, Callable[[str], Any]] = {
    "command": Command,
    "echo": Echo,
    "memcached": Memcached,
    "nginx": Nginx,
    "visitors": Visitors,
}


def main() -> None:
    kind, host = sys.argv[1:]
    client = KINDS[kind](host)
    for line in sys.stdin:
        question = line.strip() or "check"
        print(json.dumps(getattr(client, question)()), flush=True)


if __name__ == "__main__":
    main()
