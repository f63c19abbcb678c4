# SPDX-License-Identifier: Apache-2.0
"""A Redis client that knows whether anything was lost. Standard library only.

    python3 traffic_client.py KIND HOST PORT KEY [reconnect]

KIND is ``pingpong`` (one INCR a millisecond, the next after the answer), ``writer`` (pipelined
INCRs, 16 in flight at a time) or ``reader`` (GET of the key). Over one connection, opened once;
with ``reconnect`` a broken one is counted as an error, and followed by another. On a line on
standard input it prints what it saw since the last one, as JSON; if the line is ``trace``, with the
latest round trips (when they ended, how long they took). At the end of standard input it prints the
last one and ends. Times in milliseconds, from the monotonic clock.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections import deque

PIPELINE = 16
PAUSE = 0.001
# The peer is gone for good: longer than any hold that TCP survives here.
LIMIT = 60.0
# With reconnect: a connection that is not made within this time is tried again, after a pause.
CONNECT, AGAIN = 0.2, 0.01
# Round trips that are remembered: half a minute at least.
TRACE = 30000


class Client:
    """One connection, and what it has seen."""

    def __init__(self, kind: str, address: tuple[str, int], key: str, reconnect: bool) -> None:
        self.kind = kind
        self.address = address
        self.key = key
        self.reconnect = reconnect
        self.lock = threading.Lock()
        self.answered = threading.Condition(self.lock)
        self.answers = 0
        self.last_value: int | None = None
        # Increments that a broken connection may have brought, or not.
        self.unanswered = 0
        self.errors: list[str] = []
        self.longest = 0.0
        self.trace: deque[tuple[float, float]] = deque(maxlen=TRACE)
        self.connect(timeout=5.0)
        self.last_answer = time.monotonic()

    def connect(self, timeout: float) -> None:
        """Open the connection."""
        self.socket = socket.create_connection(self.address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(LIMIT)
        self.reader = self.socket.makefile("rb")

    def run(self) -> None:
        """Until the connection fails: that is an error, whatever the reason."""
        while True:
            try:
                self.rounds()
            except (OSError, ValueError) as error:
                with self.lock:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    self.answered.notify_all()
            if not self.reconnect:
                return
            self.unanswered = PIPELINE if self.kind == "writer" else 1
            self.connect_again()

    def rounds(self) -> None:
        """Requests and answers, one after the other."""
        while True:
            self.round()
            if self.kind != "writer":
                time.sleep(PAUSE)

    def connect_again(self) -> None:
        """However long it takes."""
        while True:
            try:
                return self.connect(timeout=CONNECT)
            except OSError:
                time.sleep(AGAIN)

    def round(self) -> None:
        """Requests, and their answers."""
        count = PIPELINE if self.kind == "writer" else 1
        verb = "GET" if self.kind == "reader" else "INCR"
        sent = time.monotonic()
        self.socket.sendall(f"{verb} {self.key}\r\n".encode() * count)
        for _ in range(count):
            self.answer(self.read_value(), sent)

    def read_value(self) -> int:
        """One answer of Redis: an integer, or a bulk string that holds one."""
        line = self.reader.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        if line.startswith(b"$"):
            line = b":" + (self.reader.readline() if line != b"$-1\r\n" else b"0")
        if not line.startswith(b":"):
            raise ValueError(f"unexpected answer {line!r}")
        return int(line[1:])

    def is_right(self, step: int) -> bool:
        """Whether the value may follow the last one."""
        return step >= 0 if self.kind == "reader" else 1 <= step <= 1 + self.unanswered

    def answer(self, value: int, sent: float) -> None:
        """Note the answer; increments must follow one another without gap or repetition."""
        now = time.monotonic()
        with self.lock:
            self.longest = max(self.longest, now - self.last_answer)
            self.last_answer = now
            self.answers += 1
            self.trace.append((now, now - sent))
            step = None if self.last_value is None else value - self.last_value
            if step is not None and not self.is_right(step):
                self.errors.append(f"{value} came after {self.last_value}")
            self.unanswered = 0
            self.last_value = value
            self.answered.notify_all()

    def snapshot(self, traced: bool) -> dict[str, object]:
        """What was seen since the last snapshot, once a silence that lasts now is over."""
        with self.lock:
            before = self.answers
            self.answered.wait_for(
                lambda: self.answers > before or (self.errors and not self.reconnect), LIMIT
            )
            seen: dict[str, object] = {
                "kind": self.kind,
                "answers": self.answers,
                "value": self.last_value,
                "longest_ms": round(self.longest * 1000, 2),
                "errors": list(self.errors),
                "local_port": self.socket.getsockname()[1],
            }
            if traced:
                seen["trace"] = [
                    (round(ended * 1000, 3), round(took * 1000, 3)) for ended, took in self.trace
                ]
            self.answers, self.longest = 0, 0.0
            return seen


def main() -> None:
    kind, host, port, key, *options = sys.argv[1:]
    client = Client(kind, (host, int(port)), key, reconnect="reconnect" in options)
    threading.Thread(target=client.run, daemon=True).start()
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 600)
        line = sys.stdin.readline() if readable else ""
        print(json.dumps(client.snapshot(traced=line.strip() == "trace")), flush=True)
        if not line:
            return


if __name__ == "__main__":
    main()
