# SPDX-License-Identifier: Apache-2.0
"""A ping-pong over UDP with counter.c that knows whether anything was lost. Standard library only.

    python3 datagram_client.py HOST PORT KEY

One request a millisecond, the next after the answer; one that is not answered is sent again, which
the counter does not count twice. On a line on standard input it prints what it saw since the last
one, as traffic_client.py does; it ends with its standard input.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

PAUSE = 0.001
# A request is repeated after this time, which is longer than most holds, and given up after that.
REPEAT, LIMIT = 1.0, 60.0


class Client:
    """One socket, and what it has seen."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self.key = key
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.connect((host, port))
        self.socket.settimeout(REPEAT)
        self.answered = threading.Condition()
        self.answers = 0
        self.repeated = 0
        self.last_value: int | None = None
        self.longest = 0.0
        self.last_answer = time.monotonic()
        self.errors: list[str] = []

    def run(self) -> None:
        """Until the counter is gone, or a port of it is refused: that is an error."""
        number = 0
        try:
            while True:
                number += 1
                self.note(self.ask(f"{self.key} {number}".encode()))
                time.sleep(PAUSE)
        except OSError as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def ask(self, request: bytes) -> int:
        """The value that the counter gives to a request."""
        deadline = time.monotonic() + LIMIT
        self.socket.send(request)
        while True:
            try:
                about, _, value = self.socket.recv(100).rpartition(b" ")
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                self.repeated += 1
                self.socket.send(request)
                continue
            if about == request:  # else an answer that came twice
                return int(value)

    def note(self, value: int) -> None:
        """Values must follow one another without gap or repetition."""
        now = time.monotonic()
        with self.answered:
            self.longest = max(self.longest, now - self.last_answer)
            self.last_answer = now
            self.answers += 1
            if self.last_value is not None and value != self.last_value + 1:
                self.errors.append(f"{value} came after {self.last_value}")
            self.last_value = value
            self.answered.notify_all()

    def snapshot(self) -> dict[str, object]:
        """What was seen since the last snapshot, once a silence that lasts now is over."""
        with self.answered:
            before = self.answers
            self.answered.wait_for(lambda: self.answers > before or self.errors, timeout=10.0)
            seen = {
                "kind": "datagrams",
                "answers": self.answers,
                "repeated": self.repeated,
                "value": self.last_value,
                "longest_ms": round(self.longest * 1000, 2),
                "errors": list(self.errors),
                "local_port": self.socket.getsockname()[1],
            }
            self.answers, self.longest = 0, 0.0
            return seen


def main() -> None:
    host, port, key = sys.argv[1:]
    client = Client(host, int(port), key)
    threading.Thread(target=client.run, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(client.snapshot()), flush=True)


if __name__ == "__main__":
    main()
