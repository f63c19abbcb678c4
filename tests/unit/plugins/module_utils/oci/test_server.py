# SPDX-License-Identifier: Apache-2.0
"""An image that is still to come: whoever asks waits for it, and hears when it never comes."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.oci.blobs import Blob, Image, canonical
from ansible_collections.flowferry.core.plugins.module_utils.oci.server import ImageServer


@pytest.fixture
def server() -> Iterator[ImageServer]:
    running = ImageServer()
    yield running
    running.close()


class Asking(threading.Thread):
    """A request in the background."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.status = 0
        self.body = b""
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self.url, timeout=20) as answer:
                self.status, self.body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            self.status = error.code


def test_a_pull_waits_for_the_image(server: ImageServer) -> None:
    promise = server.promise("checkpoint/redis")
    asking = Asking(f"http://{server.address}/v2/checkpoint/redis/manifests/restore")
    assert promise.asked.wait(10)
    assert asking.is_alive()
    layer = Blob.of(b"content")
    promise.keep(Image(canonical({"schemaVersion": 2}), [layer]))
    asking.join(10)
    assert (asking.status, asking.body) == (200, b'{"schemaVersion":2}')
    blob = Asking(f"http://{server.address}/v2/checkpoint/redis/blobs/{layer.digest}")
    blob.join(10)
    assert (blob.status, blob.body) == (200, b"content")


def test_who_waits_hears_that_there_will_be_no_image(server: ImageServer) -> None:
    promise = server.promise("checkpoint/redis")
    asking = Asking(f"http://{server.address}/v2/checkpoint/redis/manifests/restore")
    assert promise.asked.wait(10)
    promise.keep(None)
    asking.join(10)
    assert asking.status == 404


def test_what_was_not_promised_is_not_waited_for(server: ImageServer) -> None:
    asking = Asking(f"http://{server.address}/v2/other/manifests/restore")
    asking.join(10)
    assert asking.status == 404
