# SPDX-License-Identifier: Apache-2.0
"""Many connections to Redis from one program. Standard library only.

    python3 crowd_client.py COUNT HOST PORT [IDLE]

Each connection increments a counter of its own, and checks that it grows by one. They take turns, a
request a millisecond altogether; IDLE more say nothing between lines. On a line on standard input
all of them are asked once, and what was seen since the last line is printed as JSON; at the end of
standard input it ends.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import time

PAUSE = 0.001
# A connection that has not answered by then is counted as lost.
LIMIT = 60.0


class Connection:
    """One of them."""

    def __init__(self, number: int, address: tuple[str, int]) -> None:
        self.request = f"INCR crowd:{number}\r\n".encode()
        self.socket = socket.create_connection(address, timeout=LIMIT)
        self.socket.setblocking(False)
        self.value: int | None = None
        self.asked: float | None = None
        self.received = b""

    def ask(self) -> None:
        """One increment, unless the last one is not answered yet."""
        if self.asked is None:
            self.asked = time.monotonic()
            self.socket.send(self.request)

    def answer(self) -> float | None:
        """How long the answer took, once it is complete; raises when it is wrong."""
        chunk = self.socket.recv(64)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        self.received += chunk
        if not self.received.endswith(b"\r\n") or self.asked is None:
            return None
        value, self.received = int(self.received[1:]), b""
        took, self.asked = time.monotonic() - self.asked, None
        expected, self.value = self.value, value
        if expected is not None and value != expected + 1:
            raise ValueError(f"{value} came after {expected}")
        return took


class Crowd:
    """All of them."""

    def __init__(self, count: int, address: tuple[str, int], idle: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        for number in range(count + idle):
            connection = Connection(number, address)
            self.connections.append(connection)
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        self.busy = self.connections[:count]
        self.errors: list[str] = []
        self.answers = 0
        self.longest = 0.0
        self.turn = 0

    def run(self) -> None:
        """Until standard input ends."""
        while True:
            if self.busy:
                self.ask(self.busy[self.turn % len(self.busy)])
                self.turn += 1
            if self.look(PAUSE):
                line = sys.stdin.readline()
                self.sweep()
                self.report()
                if not line:
                    return

    def ask(self, connection: Connection) -> None:
        try:
            connection.ask()
        except OSError as error:
            self.lose(connection, error)

    def look(self, timeout: float) -> bool:
        """Take the answers that have come; true when standard input has something."""
        told = False
        for key, _ in self.selector.select(timeout):
            if key.data is None:
                told = True
                continue
            try:
                took = key.data.answer()
            except (OSError, ValueError) as error:
                self.lose(key.data, error)
                continue
            if took is not None:
                self.answers += 1
                self.longest = max(self.longest, took)
        return told

    def lose(self, connection: Connection, error: Exception) -> None:
        """It is not asked again."""
        self.errors.append(f"{type(error).__name__}: {error}")
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.connections.remove(connection)
        if connection in self.busy:
            self.busy.remove(connection)

    def sweep(self) -> None:
        """Every connection answers once."""
        deadline = time.monotonic() + LIMIT
        before = {id(one): one.value for one in self.connections}
        waiting = list(self.connections)
        while waiting and time.monotonic() < deadline:
            for connection in waiting:
                self.ask(connection)
            self.look(0.01)
            alive = set(map(id, self.connections))
            waiting = [one for one in waiting if id(one) in alive and one.value == before[id(one)]]
        for connection in waiting:
            self.lose(connection, TimeoutError("no answer"))

    def report(self) -> None:
        seen = {
            "kind": "crowd",
            "connections": len(self.connections),
            "answers": self.answers,
            "longest_ms": round(self.longest * 1000, 2),
            "errors": self.errors[:1000],
        }
        print(json.dumps(seen), flush=True)
        self.answers, self.longest = 0, 0.0


def main() -> None:
    count, host, port, *more = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Crowd(int(count), (host, int(port)), int(more[0]) if more else 0).run()


if __name__ == "__main__":
    main()
