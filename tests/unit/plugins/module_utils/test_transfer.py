# SPDX-License-Identifier: Apache-2.0
"""The stream of a checkpoint: what goes in comes out, and nothing else is written."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import transfer
from ansible_collections.flowferry.core.plugins.module_utils.certificates import (
    one_time_certificates,
)
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

CERTIFICATES = one_time_certificates()


class Receiver:
    """The destination's end, in a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.intact: bool | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        context = transfer.tls_context(CERTIFICATES, server=True)
        plain, _ = self.listener.accept()
        # The client is done with the handshake before the server is.
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                lines = transfer.JsonLines(connection)
                assert lines.receive() == {"hello": "transfer"}
                self.intact = transfer.receive(lines, self.directory)
        except (FlowferryError, ssl.SSLError) as error:
            self.error = error

    def join(self) -> None:
        self.thread.join(10)
        self.listener.close()


class Meddler:
    """Stands between sender and receiver, and changes a bit of each piece when it is told to."""

    def __init__(self, port: int) -> None:
        self.meddles = threading.Event()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._run)]

    def __enter__(self) -> Meddler:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        back = threading.Thread(target=self._pass_on, args=(far, near, False))
        back.start()
        self._threads.append(back)
        self._pass_on(near, far, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, meddles: bool) -> None:
        with suppress(OSError):
            while data := bytearray(source.recv(1 << 16)):
                if meddles and self.meddles.is_set():
                    data[-1] ^= 1
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    (tmp_path / "received").mkdir()
    started = Receiver(tmp_path / "received")
    yield started
    started.join()


@pytest.fixture
def sender(receiver: Receiver) -> Iterator[transfer.Sender]:
    context = transfer.tls_context(CERTIFICATES, server=False)
    opened = transfer.Sender("127.0.0.1", receiver.port, context, timeout=5.0)
    yield opened
    opened.close()


def test_every_file_arrives(tmp_path: Path, sender: transfer.Sender, receiver: Receiver) -> None:
    contents = {"empty": b"", "small.img": b"x", "images/pages-1.img": os.urandom(3 << 20)}
    for name, content in contents.items():
        path = tmp_path / "sent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert sender.send(tmp_path / "sent") == {"size": sum(map(len, contents.values()))}
    receiver.join()
    assert receiver.intact is True
    arrived = {
        str(path.relative_to(receiver.directory)): path.read_bytes()
        for path in receiver.directory.rglob("*")
        if path.is_file()
    }
    assert arrived == contents


def test_what_grows_is_sent_before_it_is_whole(
    tmp_path: Path, sender: transfer.Sender, receiver: Receiver
) -> None:
    directory, content = tmp_path / "sent", os.urandom(3 << 20)
    (directory / "images").mkdir(parents=True)
    grown, arrived = (top / "images/pages-1.img" for top in (directory, receiver.directory))
    with sender.following(directory, ("images/pages-*.img",)), grown.open("wb") as file:
        (directory / "images/core-1.img").write_bytes(bytes(1 << 20))
        for begin in range(0, len(content), 1 << 20):
            file.write(content[begin : begin + (1 << 20)])
            file.flush()
            deadline = time.monotonic() + 10
            while not arrived.exists() or arrived.stat().st_size <= begin:
                assert time.monotonic() < deadline, "nothing of the last piece arrives"
                time.sleep(0.002)
        file.write(b"the end")
    assert not (receiver.directory / "images/core-1.img").exists()
    assert sender.send(directory) == {"size": (4 << 20) + len(b"the end")}
    receiver.join()
    assert receiver.intact is True
    assert arrived.read_bytes() == content + b"the end"
    assert (receiver.directory / "images/core-1.img").read_bytes() == bytes(1 << 20)


def send_raw(sender: transfer.Sender, *messages: dict[str, object] | bytes) -> None:
    connection = sender._lines.connection
    for message in messages:
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        connection.sendall(data)


def test_who_writes_is_not_told_that_nothing_can_be_sent(
    tmp_path: Path, sender: transfer.Sender, receiver: Receiver
) -> None:
    send_raw(sender, {"name": "../outside", "at": 0, "size": 1}, b"x")  # which ends the stream
    receiver.join()
    (tmp_path / "pages.img").write_bytes(bytes(1 << 20))
    with sender.following(tmp_path, ("*.img",)):
        deadline = time.monotonic() + 10
        while sender._failure is None and time.monotonic() < deadline:
            with (tmp_path / "pages.img").open("ab") as file:
                file.write(bytes(1 << 20))
    with pytest.raises(OSError):
        sender.send(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"name": "../outside", "at": 0, "size": 1},
        {"name": "/tmp/outside", "at": 0, "size": 1},
        {"name": "a/../../outside", "at": 0, "size": 1},
        {"name": "", "at": 0, "size": 1},
        {"name": "file", "at": 0, "size": -1},
        {"name": "file", "at": 1, "size": 1},
    ],
)
def test_a_file_that_belongs_elsewhere_is_refused(
    sender: transfer.Sender, receiver: Receiver, header: dict[str, object]
) -> None:
    send_raw(sender, header, b"x")
    receiver.join()
    assert isinstance(receiver.error, FlowferryError)
    assert receiver.error.code == "transfer_failed"
    assert list(receiver.directory.parent.rglob("*")) == [receiver.directory]


def test_a_missing_file_is_noticed(sender: transfer.Sender, receiver: Receiver) -> None:
    send_raw(sender, {"name": "file", "at": 0, "size": 1}, b"x", {"files": 2})
    receiver.join()
    assert receiver.intact is False


def test_a_bit_that_changes_on_the_way_is_noticed(tmp_path: Path, receiver: Receiver) -> None:
    """TLS does that, so that nothing here has to."""
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "pages.img").write_bytes(os.urandom(1 << 16))
    with Meddler(receiver.port) as meddler:
        context = transfer.tls_context(CERTIFICATES, server=False)
        sender = transfer.Sender("127.0.0.1", meddler.port, context, timeout=5.0)
        meddler.meddles.set()
        with pytest.raises((FlowferryError, OSError)):
            sender.send(tmp_path / "sent")
        sender.close()
    receiver.join()
    assert receiver.intact is None and isinstance(receiver.error, ssl.SSLError)


def test_a_file_that_shrinks_meanwhile_is_noticed(
    tmp_path: Path, sender: transfer.Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "file").write_bytes(b"short")
    monkeypatch.setattr(transfer, "_size_of", lambda file: 6)
    with pytest.raises(FlowferryError, match="file became shorter while it was sent"):
        sender.send(tmp_path / "sent")


def test_a_stream_that_ends_early_is_noticed(sender: transfer.Sender, receiver: Receiver) -> None:
    send_raw(sender, {"name": "file", "at": 0, "size": 100}, b"x")
    sender.close()
    receiver.join()
    assert isinstance(receiver.error, FlowferryError)
    assert "ended 99 bytes early" in str(receiver.error)


def test_an_unreachable_destination_is_named() -> None:
    context = transfer.tls_context(CERTIFICATES, server=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(FlowferryError, match=f"cannot reach the destination at 127.0.0.1:{port}"):
        transfer.Sender("127.0.0.1", port, context, timeout=1.0)
