# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the plugin: a unix socket, a thread for each call."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .operations import Operations, answer
from .protocol import IO_FAILURE, CniError, read_call

_LARGEST = 1 << 20
_SECONDS = 30.0
Done = Callable[[str, int, float], None]
"""Told of every call: its command, CNI's code (0: well), and the seconds that it took."""

log = logging.getLogger(__name__)


class Server:
    """Serves until ``close``. Only root may connect."""

    def __init__(self, path: Path, operations: Operations, done: Done, host_root: str = "") -> None:
        """``host_root`` is where paths begin that the runtime names; see ``read_call``."""
        self.path = path
        self._host_root = host_root
        self._operations = operations
        self._done = done
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an agent before this one
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._socket.listen(128)
        self._thread = threading.Thread(target=self._accept, name="cni", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_SECONDS)
            try:
                reply = self.handle(_receive(connection))
                connection.sendall(json.dumps(reply).encode())
            except OSError as error:
                log.warning("a plugin did not take its answer: %s", error)

    def handle(self, data: bytes) -> dict[str, Any]:
        """One call; whatever happens is an answer in CNI's words."""
        begin, command, code = time.monotonic(), "?", 0
        network: dict[str, Any] = {}
        try:
            request = json.loads(data)
            network = request["network"]
            command = str(request["variables"].get("CNI_COMMAND", "?"))
            found = self._operations.run(read_call(request, self._host_root))
            reply = {"exit": 0, "output": json.dumps(found) if found is not None else ""}
        except CniError as error:
            code = error.code
            reply = {"exit": 1, "output": json.dumps(answer(error, network))}
        except Exception as error:
            log.exception("CNI %s failed", command)
            code = IO_FAILURE
            told = CniError(code, f"{command}: {type(error).__name__}: {error}")
            reply = {"exit": 1, "output": json.dumps(answer(told, network))}
        if code:
            log.warning("CNI %s: %s", command, reply["output"])
        self._done(command, code, time.monotonic() - begin)
        return reply

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.path.unlink(missing_ok=True)


def _receive(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
        if len(data) > _LARGEST:
            raise OSError("a request of more than 1 MiB")
    return data
