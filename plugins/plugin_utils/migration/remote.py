# SPDX-License-Identifier: Apache-2.0
"""The keeper's end of its connection to a helper."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.transfer import JsonLines, tls_context


class HelperLost(FlowferryError):
    """The helper does not answer any more; what it was doing may or may not be done."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(
            "helper_lost",
            f"the helper on {node} is gone ({reason}); run the playbook again: it finishes or "
            "rolls back",
        )
        self.node = node


class NodeHelper(Protocol):
    """What the protocol asks of a node: operations by name."""

    node: str

    @property
    def own_ms(self) -> float:
        """Processor time that its own code has taken for what it was asked; own_time.py."""

    def call(self, operation: str, **arguments: Any) -> Any:
        """The result of an operation; its error is raised here."""

    def begin(self, operation: str, **arguments: Any) -> Callable[[], Any]:
        """Ask for an operation; what is returned waits for its result, and is to be called."""

    def goodbye(self) -> None:
        """The helper may end."""


class RemoteHelper:
    """Requests to one helper, one after the other."""

    def __init__(self, node: str, address: str, port: int, certificates: dict[str, str]) -> None:
        self.node = node
        self.address = address
        self.port = port
        self.own_ms = 0.0
        try:
            plain = socket.create_connection((address, port), timeout=5.0)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = tls_context(certificates, server=False)
            self._lines = JsonLines(context.wrap_socket(plain))
        except OSError as error:
            raise HelperLost(node, f"{address}:{port}: {error}") from error
        self._lines.connection.settimeout(60.0)
        self._lines.send({"hello": "keeper"})

    def call(self, operation: str, **arguments: Any) -> Any:
        """The result of an operation of the helper; its error is raised here, naming the node."""
        return self.begin(operation, **arguments)()

    def begin(self, operation: str, **arguments: Any) -> Callable[[], Any]:
        """Ask for an operation; what is returned waits for its result, before the next is begun."""
        try:
            self._lines.send({"op": operation, **arguments})
        except OSError as error:
            raise HelperLost(self.node, str(error)) from error
        return self._answer

    def _answer(self) -> Any:
        try:
            answer = self._lines.receive()
        except OSError as error:
            raise HelperLost(self.node, str(error)) from error
        if answer is None:
            raise HelperLost(self.node, "the connection ended")
        if "error" in answer:
            reported = answer["error"]
            message = f"{self.node}: {reported['message']}"
            raise FlowferryError(reported["code"], message, reported.get("details", ""))
        self.own_ms += answer["own_ms"]
        return answer["result"]

    def goodbye(self) -> None:
        """The helper may end; does not matter if it has already."""
        try:
            self._lines.send({"op": "goodbye"})
            self._lines.close()
        except OSError:
            return
