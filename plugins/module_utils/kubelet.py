# SPDX-License-Identifier: Apache-2.0
"""A kubelet's checkpoint API, which writes the checkpoint of a running container on its node."""

from __future__ import annotations

import http.client
import json
import socket
import ssl

from .errors import FlowferryError

PORT = 10250
# The kubelet answers when the checkpoint is written (seconds).
TIMEOUT = 60.0


class Kubelet:
    """One open connection, so that a checkpoint starts at once."""

    def __init__(self, address: str, port: int, context: ssl.SSLContext, token: str = "") -> None:
        self.place = f"{address}:{port}"
        self._address = (address, port)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connection = http.client.HTTPSConnection(
            address, port, context=context, timeout=TIMEOUT
        )
        try:
            self._connection.connect()
        except OSError as error:
            raise FlowferryError(
                "kubelet_unreachable",
                f"the kubelet does not answer at {self.place} ({error}); check that it runs, that "
                "the port is open, and its certificate",
            ) from error
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def checkpoint(self, namespace: str, pod: str, container: str) -> str:
        """Have a checkpoint written; returns the archive's path on the node."""
        path = f"/checkpoint/{namespace}/{pod}/{container}"
        try:
            self._connection.request("POST", path, headers=self._headers)
            answer = self._connection.getresponse()
            body = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise FlowferryError(
                "checkpoint_failed", f"the kubelet at {self.place} ended {path}: {error!r}"
            ) from error
        if answer.status != 200:
            raise FlowferryError("checkpoint_failed", self._said(answer.status, body), body)
        found: str = json.loads(body)["items"][0]
        return found

    def lives(self) -> bool:
        """Whether it takes connections at this moment."""
        try:
            socket.create_connection(self._address, timeout=2.0).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._connection.close()

    def _said(self, status: int, body: str) -> str:
        hints = {
            401: "it does not know who asks",
            403: "whoever asks has no right to nodes/checkpoint: deploy/rbac.yml",
            404: "no such container, or the feature gate ContainerCheckpoint is off",
            500: "the container runtime's log says more; /etc/criu/runc.conf must allow "
            "established connections: the role criu",
        }
        hint = hints.get(status, "see its log")
        return f"the kubelet at {self.place} answered {status}: {body[-400:].strip()} ({hint})"


def client_context(ca_file: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """TLS with the cluster's authority and the files of whoever asks."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except OSError as error:
        raise FlowferryError(
            "kubelet_unreachable",
            f"cannot use {ca_file or 'the system authorities'} and "
            f"{certificate or 'no certificate'} to speak to a kubelet: {error}",
        ) from error
    return context
