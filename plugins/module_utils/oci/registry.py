# SPDX-License-Identifier: Apache-2.0
"""A client of image registries (OCI distribution 1.1): ask, push, read back, delete.

It is small and of the standard library alone, because nodes have nothing else, and because what is
kept elsewhere (oras, python-dxf) hides the manifest: here its annotations are the point, and they
are read back after a push, as some registries drop them.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from ..errors import FlowferryError
from .blobs import CHUNK, INDEX, MANIFEST, Blob, Image
from .reference import Reference

_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_ACCEPT = f"{MANIFEST}, {INDEX}, {_DOCKER}"
TIMEOUT = 30.0


@dataclass(frozen=True)
class Access:
    """How a registry is reached: TLS with the system's authorities or ``ca_file``, or plain."""

    username: str = ""
    password: str = ""
    ca_file: str = ""
    plain_http: bool = False


@dataclass(frozen=True)
class Answer:
    """What a registry said."""

    status: int
    headers: dict[str, str]
    body: bytes


class Registry:
    """One session with the registry of one repository."""

    def __init__(self, reference: Reference, access: Access) -> None:
        self.reference = reference
        self._access = access
        self._authorization = ""
        self._connection = self._connect(reference.registry, plain=access.plain_http)

    def _connect(self, place: str, *, plain: bool) -> http.client.HTTPConnection:
        if plain:
            return http.client.HTTPConnection(place, timeout=TIMEOUT, blocksize=CHUNK)
        try:
            context = ssl.create_default_context(cafile=self._access.ca_file or None)
        except OSError as error:
            raise FlowferryError(
                "registry_unreachable", f"cannot read the CA file {self._access.ca_file}: {error}"
            ) from error
        return http.client.HTTPSConnection(place, timeout=TIMEOUT, context=context, blocksize=CHUNK)

    def close(self) -> None:
        self._connection.close()

    # -- what is there

    def manifest(self, target: str) -> tuple[str, bytes] | None:
        """Digest and bytes of a manifest by tag or digest; None when there is none."""
        answer = self._ask("GET", self._path("manifests", target), {"Accept": _ACCEPT})
        if answer.status == 404:
            return None
        self._expect(answer, 200, f"reading the manifest {target}")
        return answer.headers.get("docker-content-digest", ""), answer.body

    def has_blob(self, digest: str) -> bool:
        answer = self._ask("HEAD", self._path("blobs", digest))
        if answer.status == 404:
            return False
        self._expect(answer, 200, f"looking for {digest}")
        return True

    # -- what is changed

    def push(self, image: Image) -> bool:
        """Blobs first, then the manifest under the reference's tag; False when it is there.

        What was pushed is read back: it must be the same bytes, annotations included.
        """
        found = self.manifest(self.reference.tag)
        if found is not None and found[1] == image.manifest:
            return False
        for blob in image.blobs:
            if not self.has_blob(blob.digest):
                self._push_blob(blob)
        self._push_manifest(image.manifest)
        self._verify(image)
        return True

    def delete(self, digest: str) -> None:
        """Take a manifest away; registries that do not delete keep it until they collect."""
        self._ask("DELETE", self._path("manifests", digest))

    def _push_manifest(self, manifest: bytes) -> None:
        path = self._path("manifests", self.reference.tag)
        kind = json.loads(manifest).get("mediaType", MANIFEST)
        answer = self._ask("PUT", path, {"Content-Type": kind}, lambda: manifest)
        self._expect(answer, 201, "pushing the manifest")

    def _verify(self, image: Image) -> None:
        found = self.manifest(self.reference.tag)
        kept = json.loads(found[1]).get("annotations") or {} if found else {}
        lost = sorted(key for key, value in image.annotations.items() if kept.get(key) != value)
        if lost:
            raise FlowferryError(
                "registry_changed_image",
                f"{self.reference.registry} dropped annotations of {self.reference}: "
                f"{', '.join(lost)}. Runtimes know a checkpoint by them; use another registry",
            )
        if found is None or found[1] != image.manifest:
            raise FlowferryError(
                "registry_changed_image",
                f"{self.reference.registry} gives another manifest for {self.reference} than was "
                "pushed; use a registry that keeps manifests as they are",
            )

    def _push_blob(self, blob: Blob) -> None:
        started = self._ask("POST", self._path("blobs", "uploads/"))
        self._expect(started, 202, f"starting the upload of {blob.digest}")
        place = started.headers["location"]
        path = place if place.startswith("/") else place.partition(self.reference.registry)[2]
        path += ("&" if "?" in path else "?") + urlencode({"digest": blob.digest})
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(blob.size),
        }
        answer = self._ask("PUT", path, headers, lambda: _Part(blob.open(), blob.size))
        self._expect(answer, 201, f"uploading {blob.digest}")

    # -- HTTP

    def _path(self, kind: str, target: str) -> str:
        return f"/v2/{self.reference.repository}/{kind}/{quote(target, safe=':/')}"

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Callable[[], Any] | None = None,
    ) -> Answer:
        """One request; once more with credentials when the registry asks for them."""
        answer = self._send(method, path, headers, body)
        if answer.status != 401:
            return answer
        self._authorization = self._authorize(answer.headers.get("www-authenticate", ""))
        answer = self._send(method, path, headers, body)
        if answer.status in (401, 403):
            raise FlowferryError(
                "registry_denied",
                f"{self.reference.registry} does not let {self._access.username or 'nobody'} "
                f"{method} {self.reference.repository}; check user name, password and rights",
            )
        return answer

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None,
        body: Callable[[], Any] | None,
    ) -> Answer:
        sent = dict(headers or {})
        if self._authorization:
            sent["Authorization"] = self._authorization
        try:
            self._connection.request(method, path, body() if body else None, sent)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise FlowferryError(
                "registry_unreachable",
                f"{self.reference.registry} does not answer ({error}); check its address, its "
                "certificate and that it runs",
            ) from error
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, content)

    def _authorize(self, challenge: str) -> str:
        """The Authorization header that a registry asks for: Basic, or a token from its server."""
        pair = f"{self._access.username}:{self._access.password}".encode()
        basic = f"Basic {base64.b64encode(pair).decode()}" if self._access.username else ""
        if not challenge.lower().startswith("bearer "):
            return basic
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        place = urlsplit(wanted.pop("realm", ""))
        server = self._connect(place.netloc, plain=place.scheme == "http")
        try:
            headers = {"Authorization": basic} if basic else {}
            server.request("GET", f"{place.path}?{urlencode(wanted)}", headers=headers)
            response = server.getresponse()
            told = json.loads(response.read()) if response.status == 200 else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FlowferryError(
                "registry_unreachable",
                f"the token server {place.netloc} of {self.reference.registry} does not answer: "
                f"{error}",
            ) from error
        finally:
            server.close()
        return f"Bearer {told.get('token') or told.get('access_token') or ''}"

    def _expect(self, answer: Answer, status: int, doing: str) -> None:
        if answer.status == status:
            return
        said = answer.body.decode(errors="replace")[:400]
        raise FlowferryError(
            "registry_refused",
            f"{self.reference.registry} answered {answer.status} to {doing} of {self.reference}: "
            f"{said or '-'}",
        )


class _Part:
    """A file object that ends after a number of bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        if not data:
            self._file.close()
        return data
