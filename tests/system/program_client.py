# SPDX-License-Identifier: Apache-2.0
"""Clients of programs, for test_programs.py and test_process.py: on the client's host.

    python3 program_client.py KIND HOST

KIND is a key of ``KINDS``. It opens its connections and then prints a line of JSON for every line
on standard input, which is the name of a method (``check`` if it is empty): what it found since the
last one, over the connections that it has had all along. Whatever goes wrong ends it with a
traceback.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

CONNECTIONS = 1000
PIECE = 6 << 20
# Longer than any hold on a busy machine.
LIMIT = 100.0
# PostgreSQL's error code (Appendix A of its documentation).
CANNOT_CONNECT_NOW = "57P03"


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


class Session:
    """A connection to PostgreSQL, by its protocol of version 3."""

    def __init__(self, host: str) -> None:
        self.notices: list[str] = []
        deadline = time.monotonic() + LIMIT
        while True:
            self.connection = connect(host, 5432)
            try:
                self._begin()
            except ValueError as error:
                # It takes connections before it has recovered, and refuses each by that.
                if CANNOT_CONNECT_NOW not in str(error) or time.monotonic() > deadline:
                    raise
                self.connection.close()
                time.sleep(0.1)
            else:
                break

    def _begin(self) -> None:
        names = b"user\0it\0database\0postgres\0\0"
        self.connection.sendall(struct.pack("!II", 8 + len(names), 3 << 16) + names)
        self._answer()

    def ask(self, query: str) -> list[str]:
        """The first column of the result."""
        text = query.encode() + b"\0"
        self.connection.sendall(b"Q" + struct.pack("!I", 4 + len(text)) + text)
        return self._answer()

    def _answer(self) -> list[str]:
        rows = []
        while (message := self._message())[0] != "Z":
            kind, content = message
            if kind == "E":
                raise ValueError(content)
            if kind == "D":
                (length,) = struct.unpack_from("!i", content, 2)
                rows.append(content[6 : 6 + length].decode())
        return rows

    def _message(self) -> tuple[str, bytes]:
        kind, length = struct.unpack("!cI", self._read(5))
        content = self._read(length - 4)
        if kind == b"A":
            self.notices.append(content[4:].split(b"\0")[1].decode())
        return kind.decode(), content

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.connection.recv(length - len(data))
            if not piece:
                raise ConnectionError("PostgreSQL closed the connection")
            data += piece
        return data

    def notice(self) -> str:
        while not self.notices:
            self._message()
        return self.notices.pop(0)


class Postgres:
    """A transaction that stays open, a reader, a cursor, and somebody who listens for news."""

    def __init__(self, host: str) -> None:
        self.writer, self.reader, self.cursor, self.listener = (Session(host) for _ in range(4))
        self.reader.ask("CREATE TABLE numbers (number int)")
        self.writer.ask("BEGIN")
        self.cursor.ask("BEGIN")
        self.cursor.ask("DECLARE series CURSOR FOR SELECT generate_series(1, 1000)")
        self.listener.ask("LISTEN news")
        self.started = self._started()
        self.rounds = 0

    def _started(self) -> list[str]:
        return self.reader.ask("SELECT pg_postmaster_start_time()")

    def _count(self, session: Session) -> int:
        return int(session.ask("SELECT count(*) FROM numbers")[0])

    def check(self) -> dict[str, Any]:
        self.rounds += 1
        self.writer.ask(f"INSERT INTO numbers VALUES ({self.rounds})")
        self.reader.ask(f"NOTIFY news, '{self.rounds}'")
        return {
            "own": self._count(self.writer),
            "others": self._count(self.reader),
            "fetched": int(self.cursor.ask("FETCH 1 FROM series")[0]),
            "heard": int(self.listener.notice()),
        }

    def finish(self) -> dict[str, Any]:
        self.writer.ask("COMMIT")
        restarted = self._started() != self.started
        return {
            "own": self._count(self.writer),
            "others": self._count(self.reader),
            "restarted": restarted,
        }


class Ledger:
    """Several connections, each of which commits one row after another, as fast as it is let."""

    WRITERS = 8

    def __init__(self, host: str) -> None:
        self.session = Session(host)
        self.session.ask("CREATE TABLE ledger (writer int, number int, UNIQUE (writer, number))")
        self.ended = threading.Event()
        self.committed = [0] * self.WRITERS
        self.errors: list[str] = []
        sessions = [Session(host) for _ in range(self.WRITERS)]
        self.threads = [
            threading.Thread(target=self._write, args=one, daemon=True)
            for one in enumerate(sessions)
        ]
        for thread in self.threads:
            thread.start()

    def _write(self, writer: int, session: Session) -> None:
        try:
            while not self.ended.is_set():
                session.ask(f"INSERT INTO ledger VALUES ({writer}, {self.committed[writer] + 1})")
                self.committed[writer] += 1
        except (OSError, ValueError) as error:
            self.errors.append(repr(error))

    def check(self) -> dict[str, Any]:
        return {"committed": sum(self.committed), "errors": self.errors}

    def finish(self) -> dict[str, Any]:
        """How many of the rows that were acknowledged are there, and how many there are at all."""
        self.ended.set()
        for thread in self.threads:
            thread.join(LIMIT)
        counted = "SELECT count(*) FROM ledger WHERE writer = {0} AND number <= {1}"
        rows = [
            int(self.session.ask(counted.format(writer, number))[0])
            for writer, number in enumerate(self.committed)
        ]
        all_rows = int(self.session.ask("SELECT count(*) FROM ledger")[0])
        return {**self.check(), "found": sum(rows), "rows": all_rows}


class Auditor:
    """Looks at what a ledger has."""

    def __init__(self, host: str) -> None:
        self.session = Session(host)

    def check(self) -> dict[str, Any]:
        return {"rows": int(self.session.ask("SELECT count(*) FROM ledger")[0])}


class Ssh:
    """A program that was started by ssh, which keeps answering."""

    options = ("-T",)

    def __init__(self, host: str) -> None:
        settings = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        self.ssh = subprocess.Popen(
            ["ssh", *self.options, *(part for one in settings for part in ("-o", one))]
            + [f"root@{host}", "python3 /srv/session.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Else it would keep the output of this client open when this client has failed.
            stderr=subprocess.DEVNULL,
            text=True,
        )
        atexit.register(self.ssh.kill)

    def _ask(self, keys: str, answer: str) -> str:
        """What follows ``answer``; a terminal also shows the keys."""
        assert self.ssh.stdin is not None and self.ssh.stdout is not None
        self.ssh.stdin.write(keys)
        self.ssh.stdin.flush()
        while answer not in (line := self.ssh.stdout.readline()):
            if not line:
                raise ConnectionError("the session ended")
        return line.partition(answer)[2].strip()

    def check(self) -> dict[str, Any]:
        count, _, terminal = self._ask("word\n", "it is").split()
        return {"count": int(count), "terminal": terminal == "True"}


class Terminal(Ssh):
    """The same at a terminal."""

    options = ("-tt",)

    def interrupt(self) -> dict[str, Any]:
        return {"answer": "interrupted" + self._ask("\x03", "interrupted")}


class Tree:
    """Asks tree.py by TCP, and then by UDP."""

    def __init__(self, host: str) -> None:
        self.connection = connect(host, 7000)
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.settimeout(LIMIT)
        self.datagrams.connect((host, 7000))

    def check(self) -> dict[str, Any]:
        self.connection.sendall(b"?")
        first = json.loads(read_line(self.connection))
        self.datagrams.send(b"?")
        return {"answers": [first, json.loads(self.datagrams.recv(2000))]}


KINDS: dict[str, Callable[[str], Any]] = {
    "auditor": Auditor,
    "command": Command,
    "echo": Echo,
    "memcached": Memcached,
    "ledger": Ledger,
    "nginx": Nginx,
    "postgres": Postgres,
    "ssh": Ssh,
    "terminal": Terminal,
    "tree": Tree,
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
