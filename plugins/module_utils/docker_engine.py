# SPDX-License-Identifier: Apache-2.0
"""Docker's engine, through the API that it serves at a unix socket.

Docker joins no network namespace by its path. So an endpoint for Docker belongs to a *pause
container*, which does nothing and has no network but the endpoint's cable; the workload joins it
with ``--network container:NAME``. It has the name of the endpoint's namespace.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from . import endpoint as endpoints
from .commands import run
from .errors import FlowferryError
from .volumes.model import Store, Volume

SOCKET = Path("/run/docker.sock")
PAUSE_IMAGE = "localhost/flowferry/pause:latest"
_PAUSE_LABEL = "flowferry.pause"


class _Connection(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(SOCKET))


def is_installed() -> bool:
    """Whether an engine has run on this node."""
    return SOCKET.exists()


def call(
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    code: str = "command_failed",
    timeout: float = 30.0,
    **query: str,
) -> Any:
    """The engine's answer; None when it knows no such thing. A refusal is a FlowferryError."""
    connection = _Connection("localhost", timeout=timeout)
    content = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"} if content else {}
    what = f"docker: {method} {path}"
    try:
        connection.request(method, f"{path}?{urlencode(query)}", content, headers)
        answer = connection.getresponse()
        text = answer.read()
    except OSError as error:
        raise FlowferryError(
            "no_docker",
            f"{what}: the engine at {SOCKET} does not answer ({error}); start dockerd",
        ) from error
    finally:
        connection.close()
    if answer.status == http.client.NOT_FOUND:
        return None
    found = json.loads(text) if text.strip() else {}
    if answer.status >= http.client.BAD_REQUEST:
        message = str(found.get("message", ""))
        raise FlowferryError(code, f"{what} failed ({answer.status}): {message[-600:]}", message)
    return found


def inspect(name: str) -> dict[str, Any] | None:
    """What the engine says of a container; None when there is none of this name or id."""
    found: dict[str, Any] | None = call("GET", f"/containers/{quote(name)}/json")
    return found


def remove(name: str) -> None:
    """End and delete a container; one that is not there is no failure. Its volumes stay."""
    call("DELETE", f"/containers/{quote(name)}", force="true")


def create(name: str, wanted: dict[str, Any], *, code: str = "command_failed") -> str:
    """Make a container that does not run yet; returns its id."""
    made = call("POST", "/containers/create", wanted, code=code, name=name)
    if made is None:
        raise FlowferryError(code, f'docker has no image "{wanted["Image"]}"')
    return str(made["Id"])


def has_image(name: str) -> bool:
    """Whether there is an image of this name or id."""
    return call("GET", f"/images/{quote(name)}/json") is not None


class DockerStore(Store):
    """Docker's named volumes; those without a name of their own have a random one."""

    removal = "docker volume rm {name}"

    def inspect(self, name: str) -> Volume | None:
        found = call("GET", f"/volumes/{quote(name, safe='')}")
        if found is None:
            return None
        return Volume.of_engine(name, found)

    def create(self, volume: Volume) -> None:
        # The engine makes nothing of a request for one that is there, and says nothing either.
        if self.inspect(volume.name) is not None:
            raise FlowferryError(
                "volume_taken", f"somebody has just made a volume {volume.name} on the destination"
            )
        call("POST", "/volumes/create", {"Name": volume.name, "Labels": volume.labels})

    def remove(self, name: str) -> None:
        call("DELETE", f"/volumes/{quote(name, safe='')}")

    def home(self) -> Path:
        return Path(call("GET", "/info")["DockerRootDir"]) / "volumes"

    def mounts(self) -> list[tuple[str, list[dict[str, Any]]]]:
        return [
            (one["Names"][0].lstrip("/"), one["Mounts"])
            for one in call("GET", "/containers/json", all="true") or []
        ]


# -- pause containers


def is_pause(container: dict[str, Any]) -> bool:
    """Whether it is one that keeps an endpoint's namespace."""
    return _PAUSE_LABEL in (container["Config"]["Labels"] or {})


def endpoint_of(pause: dict[str, Any]) -> endpoints.Endpoint | None:
    """The endpoint that a pause container keeps; None when it has lost it."""
    name = str(pause["Name"]).lstrip("/")
    own = Path(f"/proc/{pause['State']['Pid']}/ns/net")
    try:
        same = own.samefile(endpoints.NAMESPACES / name)
    except OSError:  # it does not run, or the namespace has no name
        return None
    return endpoints.find(name) if same and is_pause(pause) else None


def create_endpoint(endpoint: endpoints.Endpoint, hostname: str = "") -> None:
    """Make a pause container and connect it; what a failed attempt left is removed."""
    remove_endpoint(endpoint)
    name = endpoint.namespace
    wanted = {
        "Image": PAUSE_IMAGE,
        "Hostname": hostname or name,
        "Labels": {_PAUSE_LABEL: ",".join(endpoint.addresses)},
        "HostConfig": {"NetworkMode": "none"},
    }
    try:
        create(name, wanted)
        call("POST", f"/containers/{quote(name)}/start")
        pause = inspect(name)
        if pause is None:
            raise FlowferryError("command_failed", f'the pause container "{name}" is gone')
        run(["ip", "netns", "attach", name, str(pause["State"]["Pid"])])
        endpoints.connect(endpoint)
    except FlowferryError:
        remove_endpoint(endpoint)
        raise


def remove_endpoint(endpoint: endpoints.Endpoint) -> None:
    """Take the endpoint away, its cable first, and its pause container."""
    endpoints.remove(endpoint)
    pause = inspect(endpoint.namespace)
    if pause is not None and is_pause(pause):
        remove(str(pause["Id"]))
