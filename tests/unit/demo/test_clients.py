# SPDX-License-Identifier: Apache-2.0
"""The clients that judge a migration: they see silence, loss and repetition, and miss none."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
TRAFFIC = ROOT / "demo" / "traffic_client.py"
CROWD = ROOT / "benchmark" / "crowd_client.py"


class FakeRedis(socketserver.ThreadingTCPServer):
    """Counts, and misbehaves when it is told to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values: Counter[str] = Counter()
        self.silence = threading.Event()
        self.connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close_connections(self) -> None:
        for connection in self.connections:
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()


class _Handler(socketserver.StreamRequestHandler):
    server: FakeRedis

    def handle(self) -> None:
        self.server.connections.append(self.connection)
        with suppress(OSError):  # the connection was closed for the test
            self.serve()

    def serve(self) -> None:
        for line in self.rfile:
            verb, key = line.decode().split()
            while self.server.silence.is_set():
                time.sleep(0.005)
            if verb == "INCR":
                self.server.values[key] += 1
                self.wfile.write(b":%d\r\n" % self.server.values[key])
            else:
                value = str(self.server.values[key]).encode()
                self.wfile.write(b"$%d\r\n%s\r\n" % (len(value), value))


class Program:
    """A client, asked as the lab asks it."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seen(self, question: str = "") -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        self.process.communicate("", timeout=30)


@pytest.fixture
def redis() -> Iterator[FakeRedis]:
    with FakeRedis() as server:
        yield server
        server.silence.clear()
        server.shutdown()


@pytest.fixture
def start(redis: FakeRedis) -> Iterator[Any]:
    started: list[Program] = []

    def run(path: Path, first: str, *rest: str) -> Program:
        started.append(Program(path, first, "127.0.0.1", str(redis.server_address[1]), *rest))
        return started[-1]

    yield run
    for program in started:
        program.end()


@pytest.mark.parametrize("kind", ["pingpong", "writer", "reader"])
def test_an_undisturbed_client_has_nothing_to_complain_of(start: Any, kind: str) -> None:
    client = start(TRAFFIC, kind, "key")
    client.seen()
    seen = client.seen()
    assert seen["kind"] == kind and seen["answers"] > 0 and seen["errors"] == []


def test_a_silence_is_measured_to_its_end(start: Any, redis: FakeRedis) -> None:
    client = start(TRAFFIC, "pingpong", "key")
    client.seen()
    redis.silence.set()
    threading.Timer(0.5, redis.silence.clear).start()
    seen = client.seen("trace")
    assert seen["longest_ms"] >= 400
    assert max(took for _, took in seen["trace"]) == pytest.approx(seen["longest_ms"], abs=100)


def test_a_lost_or_repeated_increment_is_an_error(start: Any, redis: FakeRedis) -> None:
    client = start(TRAFFIC, "pingpong", "key")
    client.seen()
    redis.values["key"] += 5
    (error,) = client.seen()["errors"]
    assert "came after" in error


def test_a_closed_connection_is_an_error_and_the_end(start: Any, redis: FakeRedis) -> None:
    client = start(TRAFFIC, "pingpong", "key")
    client.seen()
    redis.close_connections()
    assert client.seen()["errors"] == ["ConnectionError: the server closed the connection"]


def test_with_reconnect_the_silence_ends_on_the_next_connection(
    start: Any, redis: FakeRedis
) -> None:
    client = start(TRAFFIC, "pingpong", "key", "reconnect")
    port = client.seen()["local_port"]
    redis.close_connections()
    deadline, errors = time.monotonic() + 10, []
    while (seen := client.seen())["local_port"] == port:
        assert time.monotonic() < deadline, "it stays with a connection that was closed"
        errors += seen["errors"]
    errors += seen["errors"]
    assert len(errors) == 1 and client.seen()["answers"] > 0


def test_a_crowd_asks_everybody(start: Any, redis: FakeRedis) -> None:
    crowd = start(CROWD, "30")
    seen = crowd.seen()
    assert seen["connections"] == 30 and seen["errors"] == []
    assert len(redis.values) == 30 and seen["answers"] >= 30


def test_a_crowd_names_who_was_harmed(start: Any, redis: FakeRedis) -> None:
    crowd = start(CROWD, "5")
    crowd.seen()
    redis.values["crowd:2"] += 1
    seen = crowd.seen()
    assert seen["connections"] == 4
    assert len(seen["errors"]) == 1 and "came after" in seen["errors"][0]
    redis.close_connections()
    assert crowd.seen()["connections"] == 0


def test_a_crowd_measures_its_longest_wait(start: Any, redis: FakeRedis) -> None:
    crowd = start(CROWD, "5")
    crowd.seen()
    redis.silence.set()
    threading.Timer(0.4, redis.silence.clear).start()
    assert crowd.seen()["longest_ms"] >= 300
