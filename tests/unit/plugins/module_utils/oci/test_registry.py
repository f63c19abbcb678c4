# SPDX-License-Identifier: Apache-2.0
"""The registry client against a registry in this process, with what registries do otherwise."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.oci.blobs import (
    CONFIG,
    MANIFEST,
    Blob,
    Image,
    canonical,
    digest_of,
)
from ansible_collections.flowferry.core.plugins.module_utils.oci.reference import Reference
from ansible_collections.flowferry.core.plugins.module_utils.oci.registry import Access, Registry

PASSWORD = "Basic " + base64.b64encode(b"who:secret").decode()


class FakeRegistry(BaseHTTPRequestHandler):
    """Blobs and manifests in dictionaries; ``habits`` says what it does otherwise."""

    blobs: dict[str, bytes]
    manifests: dict[str, bytes]
    habits: set[str]
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        wanted = "Bearer token" if "token" in self.habits else PASSWORD
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/token?"):
            good = self.headers["Authorization"] == PASSWORD
            self.answer(200 if good else 401, canonical({"token": "token"}) if good else b"")
        elif self.headers["Authorization"] != wanted:
            self.answer(401, b"", {"WWW-Authenticate": self.challenge()})
        elif "/manifests/" in self.path:
            self.manifest(self.path.rpartition("/")[2], body)
        else:
            self.blob(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def challenge(self) -> str:
        if "token" not in self.habits:
            return 'Basic realm="fake"'
        realm = f"http://{self.headers['Host']}/token"
        return f'Bearer realm="{realm}",service="fake",scope="repository:redis:pull,push"'

    def manifest(self, target: str, body: bytes) -> None:
        if self.command == "PUT":
            told = json.loads(body)
            if "drops annotations" in self.habits:
                told.pop("annotations", None)
            self.manifests[target] = canonical(told)
            self.answer(201)
        elif target in self.manifests:
            found = self.manifests[target]
            self.answer(200, found, {"Docker-Content-Digest": digest_of(found)})
        else:
            self.answer(404)

    def blob(self, body: bytes) -> None:
        if self.command == "POST":
            self.answer(202, b"", {"Location": "/v2/redis/blobs/uploads/1?state=x"})
        elif self.command == "PUT":
            digest = self.path.partition("digest=")[2].replace("%3A", ":")
            self.blobs[digest] = body
            self.answer(201 if digest_of(body) == digest else 400)
        else:
            self.answer(200 if self.path.rpartition("/")[2] in self.blobs else 404)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Running:
    """A fake registry that serves."""

    def __init__(self) -> None:
        state: dict[str, Any] = {"blobs": {}, "manifests": {}, "habits": set()}
        self.handler = type("Handler", (FakeRegistry,), state)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self, password: str = "secret") -> Registry:
        name = f"127.0.0.1:{self.server.server_address[1]}/redis:checkpoint"
        return Registry(Reference.parse(name), Access("who", password, plain_http=True))


@pytest.fixture
def fake() -> Iterator[Running]:
    running = Running()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def image() -> Image:
    config, layer = Blob.of(b"{}"), Blob.of(b"layer" * 1000)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": "x", "digest": layer.digest, "size": layer.size}],
        "annotations": {"org.criu.checkpoint.container.name": "redis"},
    }
    return Image(canonical(manifest), [config, layer])


@pytest.mark.parametrize("habit", ["password", "token"])
def test_a_push_is_there_and_the_second_does_nothing(
    fake: Running, image: Image, habit: str
) -> None:
    fake.handler.habits.add(habit)
    client = fake.client()
    assert client.push(image) is True
    assert client.manifest("checkpoint") == (image.digest, image.manifest)
    assert set(fake.handler.blobs) == {blob.digest for blob in image.blobs}
    assert client.push(image) is False


def test_a_registry_that_drops_annotations_is_told_of(fake: Running, image: Image) -> None:
    fake.handler.habits.add("drops annotations")
    with pytest.raises(FlowferryError, match=r"org\.criu\.checkpoint") as refused:
        fake.client().push(image)
    assert refused.value.code == "registry_changed_image"


def test_a_wrong_password_is_told_of(fake: Running, image: Image) -> None:
    with pytest.raises(FlowferryError) as refused:
        fake.client("wrong").push(image)
    assert refused.value.code == "registry_denied"


def test_a_registry_that_is_not_there_is_told_of(fake: Running, image: Image) -> None:
    client = fake.client()
    fake.server.shutdown()
    fake.server.server_close()
    with pytest.raises(FlowferryError) as refused:
        client.push(image)
    assert refused.value.code == "registry_unreachable"
