# SPDX-License-Identifier: Apache-2.0
"""The cluster as the API server tells it: lists that are kept up to date by watching."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from .objects import (
    DATA_ADDRESSES,
    UPLINK_MAC,
    Cluster,
    Object,
    read_node,
    read_pod,
    read_service,
    read_slice,
)

KINDS = {
    "pods": "/api/v1/pods",
    "nodes": "/api/v1/nodes",
    "services": "/api/v1/services",
    "slices": "/apis/discovery.k8s.io/v1/endpointslices",
}
_READ: dict[str, Callable[[Object], Any]] = {
    "pods": read_pod,
    "nodes": read_node,
    "services": read_service,
    "slices": read_slice,
}
_SECONDS = 300
"""How long the server lets one watch run; the next goes on where it ended."""

log = logging.getLogger(__name__)


def connect(kubeconfig: str | None) -> client.ApiClient:
    """By a file, or as a pod by its service account."""
    if kubeconfig:
        return config.new_client_from_config(kubeconfig)
    config.load_incluster_config()
    return client.ApiClient()


class Gone(Exception):
    """The server does not remember so far back: everything has to be listed again."""


class Kind:
    """What concerns the switch of all objects of one kind.

    It stays as it was last known while the API does not answer. Only what changes that is told: a
    node's heartbeat, every few seconds, is not.
    """

    def __init__(
        self, api: client.ApiClient, name: str, changed: Callable[[], None], retry: float = 1.0
    ) -> None:
        self.name = name
        self.synced = threading.Event()
        self._api = api
        self._changed = changed
        self._retry = retry
        self._lock = threading.Lock()
        self._read = _READ[name]
        self._objects: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {name}", daemon=True)
        self._thread.start()

    def objects(self) -> list[Any]:
        with self._lock:
            return list(self._objects.values())

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        version = ""
        while not self._ended.is_set():
            try:
                version = version or self._list()
                for seen in self._watch(version):
                    version = seen
                    if self._ended.is_set():
                        return
            except Gone:
                version = ""
            except (ApiException, HTTPError, OSError, ValueError) as error:
                log.warning("%s: the API server does not answer: %s", self.name, _first(error))
                version = ""
                self._ended.wait(self._retry)

    def _get(self, **query: Any) -> Any:
        """The response as it comes, since objects are read as JSON."""
        request = self._api.param_serialize(
            "GET",
            KINDS[self.name],
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        answer = self._api.call_api(*request, _request_timeout=(10, _SECONDS + 30)).response
        if answer.status == 410:
            raise Gone
        if answer.status != 200:
            raise ApiException(status=answer.status, reason=answer.reason)
        return answer

    def _list(self) -> str:
        """Everything there is; returns from where to watch."""
        found = json.loads(self._get().data)
        objects = {_key(item): self._read(item) for item in found["items"]}
        with self._lock:
            self._objects = {key: item for key, item in objects.items() if item is not None}
        self.synced.set()
        self._changed()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> Iterator[str]:
        """Take in what changes, until the server ends it; yields how far it has come."""
        response = self._get(
            watch="true",
            resourceVersion=version,
            allowWatchBookmarks="true",
            timeoutSeconds=_SECONDS,
        )
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise Gone
                    raise ValueError(str(event["object"].get("message")))
                self._take(event["type"], event["object"])
                yield str(event["object"]["metadata"]["resourceVersion"])
        finally:
            response.release_conn()

    def _take(self, kind: str, item: Object) -> None:
        if kind == "BOOKMARK":
            return
        now = None if kind == "DELETED" else self._read(item)
        with self._lock:
            before = self._objects.pop(_key(item), None)
            if now is not None:
                self._objects[_key(item)] = now
        if now != before:
            self._changed()


class Watched:
    """The cluster, once every kind has been listed."""

    def __init__(self, api: client.ApiClient, changed: Callable[[], None]) -> None:
        self._api = api
        self._kinds = {name: Kind(api, name, changed) for name in KINDS}

    @property
    def synced(self) -> bool:
        return all(kind.synced.is_set() for kind in self._kinds.values())

    def wait(self, seconds: float) -> bool:
        """Whether every kind has been listed by then."""
        deadline = time.monotonic() + seconds
        left = [k.synced.wait(max(0, deadline - time.monotonic())) for k in self._kinds.values()]
        return all(left)

    def cluster(self) -> Cluster:
        return Cluster(**{name: kind.objects() for name, kind in self._kinds.items()})

    def annotate(self, node: str, uplink_mac: str, addresses: tuple[str, ...]) -> None:
        """Tell other nodes' agents where this node is; nothing is written where they know."""
        for known in self._kinds["nodes"].objects():
            if known.name == node and (known.uplink_mac, known.addresses) != (
                uplink_mac,
                addresses,
            ):
                wanted = {UPLINK_MAC: uplink_mac, DATA_ADDRESSES: ",".join(addresses)}
                body = {"metadata": {"annotations": wanted}}
                client.CoreV1Api(self._api).patch_node(node, body)

    def end(self) -> None:
        for kind in self._kinds.values():
            kind.end()


def _key(item: Object) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _lines(response: Any) -> Iterator[bytes]:
    """Of a stream that comes in pieces of any length."""
    rest = b""
    for part in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + part).split(b"\n")
        yield from (line for line in lines if line)


def _first(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
