# SPDX-License-Identifier: Apache-2.0
"""A registry on the loopback interface that serves images which are still to come.

The copy of a pod is created before its source is held: by the time the checkpoint arrives the pod
has its sandbox, and the runtime has asked for its image and waits for the answer. So nothing is
pushed or scheduled while packets are held.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .blobs import MANIFEST, Blob, Image

LOOPBACK = "127.0.0.1"
# Whoever asks for an image waits at most this long (seconds).
PATIENCE = 120.0


class Promise:
    """An image that is still to come, and whether somebody waits for it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._decided = threading.Event()
        self._image: Image | None = None

    def keep(self, image: Image | None) -> None:
        """Give the image to whoever waits; None tells them that there will be none."""
        self._image = image
        self._decided.set()

    def image(self) -> Image | None:
        self.asked.set()
        self._decided.wait(PATIENCE)
        return self._image

    def kept(self) -> Image | None:
        """The image if it is there; waits for nothing."""
        return self._image


class ImageServer:
    """Serves promised images by repository, any tag."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.promises: dict[str, Promise] = {}
        handler = type("Handler", (_Handler,), {"promises": self.promises, "tls": tls})
        self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def promise(self, repository: str) -> Promise:
        """Say that an image will come."""
        return self.promises.setdefault(repository, Promise())

    def close(self) -> None:
        """Let everybody go who still waits."""
        for promise in self.promises.values():
            if promise.kept() is None:
                promise.keep(None)
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """The part of the distribution API that a pull needs."""

    promises: dict[str, Promise]
    tls: ssl.SSLContext | None
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """In the thread of the connection, so that nobody keeps others from being accepted."""
        if self.tls is not None:
            self.request = self.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if len(parts) < 4 or parts[0] != "v2" or parts[-2] not in ("manifests", "blobs"):
            self._send(200 if parts == ["v2"] else 404, {}, Blob.of(b""), with_body)
            return
        promise = self.promises.get("/".join(parts[1:-2]))
        if promise is None:
            image = None
        else:
            image = promise.image() if parts[-2] == "manifests" else promise.kept()
        found = _find(image, parts[-2], parts[-1]) if image else None
        if found is None:
            self._send(404, {}, Blob.of(b"{}"), with_body)
            return
        kind = "application/octet-stream"
        if image is not None and parts[-2] == "manifests":
            kind = json.loads(image.manifest).get("mediaType", MANIFEST)
        headers = {"Content-Type": kind, "Docker-Content-Digest": found.digest}
        self._send(200, headers, found, with_body)

    def _send(self, status: int, headers: dict[str, str], blob: Blob, with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(blob.size))
        self.end_headers()
        if with_body and blob.size:
            self.wfile.flush()
            if blob.path is None:
                self.wfile.write(blob.data)
            else:
                with blob.open() as file:
                    self.connection.sendfile(file, blob.offset, blob.size)

    def log_message(self, format: str, *args: Any) -> None:
        """The helper's log says what was asked for, and when."""
        print(f"{time.time():.3f} image server: {format % args}", flush=True)


def _find(image: Image, kind: str, target: str) -> Blob | None:
    if kind == "manifests":
        manifest = Blob.of(image.manifest)
        return manifest if target == manifest.digest or ":" not in target else None
    return next((blob for blob in image.blobs if blob.digest == target), None)
