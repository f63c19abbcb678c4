# SPDX-License-Identifier: Apache-2.0
"""What happens in a migration, on its way from Ansible's worker process to whoever watches.

The migration action runs in a worker, callback plugins in Ansible's main process. The watcher
listens at a socket and names it in the environment, which workers inherit. Each migration is one
connection with one JSON object a line; the action ends it and waits until the watcher has done so
too, so that what the watcher writes stands before what Ansible writes about the task.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_VARIABLE = "FLOWFERRY_EVENTS"
# A watcher that does not answer keeps nobody waiting for longer (seconds).
_PATIENCE = 1.0


class EventSender:
    """The action's end. Without a watcher, events go nowhere."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        address = os.environ.get(_VARIABLE)
        if address:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(_PATIENCE)
            with suppress(OSError):
                connection.connect(address)
                self._socket = connection

    def send(self, event: dict[str, Any]) -> None:
        """Tell the watcher."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendall(json.dumps(event).encode() + b"\n")

    def close(self) -> None:
        """After the last event; returns when the watcher has taken notice of it."""
        if self._socket is not None:
            with suppress(OSError), self._socket:
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.recv(1)


class EventReceiver:
    """The watcher's end."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="flowferry-events-")
        address = str(Path(self._directory.name) / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._received: dict[socket.socket, bytes] = {}
        self._numbers = itertools.count()
        os.environ[_VARIABLE] = address

    def receive(self, timeout: float) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Events that have come or come soon, with the migration's number; None: it has ended.

        The action waits until the caller asks for what follows the None.
        """
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                connection, _ = self._listener.accept()
                self._received[connection] = b""
                self._selector.register(connection, selectors.EVENT_READ, next(self._numbers))
            elif isinstance(key.fileobj, socket.socket):
                yield from self._read(key.fileobj, key.data)

    def _read(
        self, connection: socket.socket, number: int
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        chunk = connection.recv(65536)
        *lines, rest = (self._received[connection] + chunk).split(b"\n")
        self._received[connection] = rest
        for line in lines:
            yield number, json.loads(line)
        if not chunk:
            yield number, None
            self._selector.unregister(connection)
            del self._received[connection]
            connection.close()

    def close(self) -> None:
        """Leaves nothing behind."""
        os.environ.pop(_VARIABLE, None)
        self._selector.close()
        for connection in (self._listener, *self._received):
            connection.close()
        self._directory.cleanup()
