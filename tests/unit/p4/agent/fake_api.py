# SPDX-License-Identifier: Apache-2.0
"""An API server, as far as lists, watches and patches of the agent go; HTTP over loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from flowferry_p4.agent.watch import KINDS
from kubernetes import client

from tests.unit.p4.agent.kube import Object

_KIND_OF = {path: name for name, path in KINDS.items()}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that ends in the middle of a watch is nothing to be told of."""


class FakeApi:
    """Objects by kind. Events are kept, and told to every watch from where it asks."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.lists = 0
        """Lists that were asked for."""
        self._changed = threading.Condition()
        self._objects: dict[str, dict[str, Object]] = {name: {} for name in KINDS}
        self._events: list[tuple[int, str, str, Object]] = []
        self._version = 100
        self._forgotten = 0
        self._server: _Server | None = None
        self.start()

    # -- what tests do

    def put(self, kind: str, *objects: Object) -> None:
        for item in objects:
            known = self._objects[kind]
            name = _name(item)
            self._happen(kind, "MODIFIED" if name in known else "ADDED", item)
            known[name] = item

    def remove(self, kind: str, item: Object) -> None:
        del self._objects[kind][_name(item)]
        self._happen(kind, "DELETED", item)

    def get(self, kind: str, name: str) -> Object:
        return self._objects[kind][name]

    def forget(self) -> None:
        """As after a compaction: watches from before are told 410."""
        with self._changed:
            self._version += 1
            self._forgotten = self._version
            self._events.clear()
            self._changed.notify_all()

    def _happen(self, kind: str, event: str, item: Object) -> None:
        with self._changed:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            self._events.append((self._version, kind, event, json.loads(json.dumps(item))))
            self._changed.notify_all()

    @property
    def client(self) -> client.ApiClient:
        configuration = client.Configuration(host=f"http://127.0.0.1:{self.port}")
        configuration.proxy = None
        configuration.retries = False
        return client.ApiClient(configuration)

    def start(self) -> None:
        """Where it was before."""
        self._server = _Server((self.host, self.port), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            with self._changed:
                self._changed.notify_all()

    # -- HTTP

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # watches come in chunks

            def answer(self, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                url = urlparse(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                kind = _KIND_OF.get(url.path)
                if kind is None:
                    self.send_error(404)
                    return
                if query.get("watch") != "true":
                    self.answer(api._list(kind))
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in api._watch(kind, int(query["resourceVersion"])):
                    self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
                self.close_connection = True

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                item = api.get("nodes", f"/{self.path.rpartition('/')[2]}")
                annotations = item["metadata"].setdefault("annotations", {})
                annotations.update(body["metadata"]["annotations"])
                api.put("nodes", item)
                self.answer(item)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody reads it."""

        return Handler

    def _list(self, kind: str) -> dict[str, Any]:
        self.lists += 1
        with self._changed:
            items = list(self._objects[kind].values())
            return {"items": items, "metadata": {"resourceVersion": str(self._version)}}

    def _watch(self, kind: str, version: int) -> Iterator[bytes]:
        """A line for each event, in pieces, until the server stops."""
        server = self._server
        while self._server is server:
            with self._changed:
                news = [event for event in self._events if event[0] > version]
                gone = version < self._forgotten
                if not news and not gone:
                    self._changed.wait(0.5)
                    continue
            if gone:
                error = {"code": 410, "message": "too old"}
                yield json.dumps({"type": "ERROR", "object": error}).encode() + b"\n"
                return
            version = news[-1][0]
            for _, of, event, item in news:
                if of == kind:
                    line = json.dumps({"type": event, "object": item}).encode() + b"\n"
                    yield line[:10]
                    yield line[10:]


def _name(item: Object) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
