# SPDX-License-Identifier: Apache-2.0
"""Connections that only the kernel knows, as the kernel of this machine shows them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.unsettled import Lookout, Unsettled

OWN = Path("/proc/self/ns/net")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Sockets that end with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest, opened: ExitStack) -> socket.socket:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    return opened.enter_context(socket.create_server((request.param, 0), family=family))


def name_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def look(network: Path) -> Unsettled:
    with closing(Lookout(network)) as lookout:
        return lookout.look()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        time.sleep(0.01)


def test_connections_are_counted_until_they_are_accepted(
    listener: socket.socket, opened: ExitStack
) -> None:
    name = name_of(listener)
    assert name not in look(OWN).not_accepted
    for _ in range(2):
        opened.enter_context(socket.create_connection(listener.getsockname()[:2]))
    wait_until(lambda: look(OWN).not_accepted[name] == 2, f"two connections wait at {name}")
    with pytest.raises(FlowferryError, match=r"it has not accepted in time \(.*2 at ") as raised:
        look(OWN).refuse("it")
    assert raised.value.code == "not_accepted" and f"2 at {name}" in str(raised.value)
    for _ in range(2):
        opened.enter_context(listener.accept()[0])
    assert name not in look(OWN).not_accepted


def test_a_handshake_that_has_not_ended(listener: socket.socket, opened: ExitStack) -> None:
    """The kernel puts its end off until there is data."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    client = opened.enter_context(socket.create_connection(listener.getsockname()[:2]))
    name = name_of(listener)
    wait_until(lambda: any(name in one for one in look(OWN).handshakes), "a handshake is seen")
    client.send(b"data")
    wait_until(lambda: not any(name in one for one in look(OWN).handshakes), "it has ended")


def test_data_of_a_closed_connection(listener: socket.socket, opened: ExitStack) -> None:
    client = opened.enter_context(socket.create_connection(listener.getsockname()[:2]))
    server = listener.accept()[0]
    server.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += server.send(bytes(1 << 16))
    name = name_of(client)
    assert not any(name in one for one in look(OWN).undelivered), "the program still has it"
    server.close()
    wait_until(lambda: any(name in one for one in look(OWN).undelivered), "data is under way")
    while sent:
        sent -= len(client.recv(1 << 16))
    wait_until(lambda: not any(name in one for one in look(OWN).undelivered), "it has arrived")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_that_have_not_been_read(host: str, opened: ExitStack) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    server.bind((host, 0))
    client = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    name = name_of(server)
    assert not any(name in one for one in look(OWN).unread)
    client.sendto(b"datagram", server.getsockname()[:2])
    wait_until(lambda: any(name in one for one in look(OWN).unread), "a datagram waits")
    server.recv(100)
    assert not any(name in one for one in look(OWN).unread)


def test_only_what_a_client_would_miss_is_refused() -> None:
    Unsettled(handshakes=["192.0.2.1:5 to 192.0.2.2:80"], unread=["8 bytes at :7000"]).refuse("it")
    with pytest.raises(FlowferryError, match="300 bytes to 192") as raised:
        Unsettled(undelivered=["300 bytes to 192.0.2.1:5"]).refuse("it")
    assert raised.value.code == "undelivered"


def test_a_namespace_that_is_gone(tmp_path: Path) -> None:
    assert not look(tmp_path / "gone")
