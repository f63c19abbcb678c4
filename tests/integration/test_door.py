# SPDX-License-Identifier: Apache-2.0
"""A closed door keeps new connections of others out of a network namespace, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.door import TABLE, Door

INSIDE, OUTSIDE = (f"ff-door-{end}-{os.getpid()}" for end in ("in", "out"))
ADDRESS = "192.0.2.1"
SERVER = """
import socket, threading

def serve(connection):
    connection.sendall(b"hello")
    while said := connection.recv(5):
        connection.sendall(said)

with socket.create_server(("", 7)) as server:
    print("listens", flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
# Says whether it was let in; one that was asks a second time when it is told to.
CLIENT = """
import socket, sys

try:
    with socket.create_connection((sys.argv[1], 7), timeout=0.5) as connection:
        connection.settimeout(5.0)
        print(connection.recv(5).decode(), flush=True)
        sys.stdin.readline()
        connection.sendall(b"again")
        print(connection.recv(5).decode(), flush=True)
except TimeoutError:
    print("nobody opens", flush=True)
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _within(namespace: str, program: str, *arguments: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, sys.executable, "-c", program, *arguments]


@pytest.fixture
def network() -> Iterator[Path]:
    """A namespace with a server, which another one reaches by a cable."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root")
    try:
        for name in (INSIDE, OUTSIDE):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            "-n",
            INSIDE,
            "link",
            "add",
            "d0",
            "type",
            "veth",
            "peer",
            "name",
            "d0",
            "netns",
            OUTSIDE,
        )
        for name, address in ((INSIDE, ADDRESS), (OUTSIDE, "192.0.2.2")):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "d0")
            _ip("-n", name, "link", "set", "d0", "up")
        server = subprocess.Popen(_within(INSIDE, SERVER), stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert server.stdout.readline() == "listens\n"
        with server:
            try:
                yield Path("/run/netns", INSIDE)
            finally:
                server.kill()
    finally:
        for name in (INSIDE, OUTSIDE):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def _client(namespace: str, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _within(namespace, CLIENT, address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _connect(namespace: str, address: str) -> str:
    """What the client says of its connection, in the end."""
    told, _ = _client(namespace, address).communicate("\n", timeout=20.0)
    return told.split("\n")[0]


def _tables() -> str:
    command = ["ip", "netns", "exec", INSIDE, "nft", "list", "tables"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_others_cannot_connect_until_it_is_open_again(network: Path) -> None:
    door = Door(network)
    door.prepare()
    before = _client(OUTSIDE, ADDRESS)
    assert before.stdout is not None
    assert before.stdout.readline() == "hello\n"
    for _ in range(2):  # once more changes nothing
        door.close()
        assert _connect(OUTSIDE, ADDRESS) == "nobody opens"
    assert _connect(INSIDE, "127.0.0.1") == "hello", "what is in there may go on with itself"
    assert before.communicate("\n", timeout=20.0) == ("again\n", None), "it was connected before"
    Door(network).open()  # as another process does after a crash
    assert _connect(OUTSIDE, ADDRESS) == "hello"
    assert TABLE not in _tables()
    door.open()
    assert TABLE not in _tables()
