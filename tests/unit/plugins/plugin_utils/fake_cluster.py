# SPDX-License-Identifier: Apache-2.0
"""An API server with pods, nodes and rights, as far as a migration asks for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Answer = tuple[int, dict[str, Any]]
ROOT = Path(__file__).resolve().parents[4]
NODES = ("node1", "node2")
REDIS = "registry.example/redis@sha256:" + "0" * 64


def granted() -> list[tuple[str, str]]:
    """Verb and resource of every right in deploy/rbac.yml."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "rbac.yml").read_text())
    roles = [one for one in documents if one["kind"] in ("ClusterRole", "Role")]
    return [
        (verb, f"{resource}.{group}" if group else resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def pod(name: str = "redis", node: str = "node1") -> dict[str, Any]:
    """A pod that runs, as the API has it."""
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {}},
        "spec": {"nodeName": node, "containers": [{"name": "redis", "image": "redis:7"}]},
        "status": {
            "phase": "Running",
            "podIP": "198.19.0.100",
            "containerStatuses": [{"name": "redis", "imageID": REDIS, "state": {"running": {}}}],
        },
    }


class FakeCluster:
    """What is in it, who may do what, and what was asked for."""

    def __init__(self, rights: Iterable[tuple[str, str]]) -> None:
        self.rights = set(rights)
        self.pods: dict[str, dict[str, Any]] = {"redis": pod()}
        self.asked: list[tuple[str, str]] = []
        self.kubelets_live = True
        self.fails: dict[tuple[str, str], Answer] = {}
        """Answers to give instead, by verb and resource."""
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kubeconfig(self, directory: Path) -> str:
        """A file that says how to reach it."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        told = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": url}}],
            "users": [{"name": "it", "user": {"token": "secret"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        file = directory / "kubeconfig"
        file.write_text(json.dumps(told))
        return str(file)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, url: str, body: dict[str, Any]) -> Answer:
        """Status and body of one request."""
        place = urlsplit(url)
        parts = unquote(place.path).strip("/").split("/")
        if parts[-1] == "selfsubjectaccessreviews":
            return self._review(body["spec"]["resourceAttributes"])
        resource = "nodes" if "nodes" in parts else "pods"
        name = parts[-1] if parts[-1] != resource else ""
        verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
        verb = verbs.get(method) or ("get" if name else "list")
        self.asked.append((verb, resource))
        if (verb, resource) not in self.rights:
            return 403, {"message": f"cannot {verb} resource {resource}"}
        if (verb, resource) in self.fails:
            return self.fails[verb, resource]
        if resource == "nodes":
            return (200, _node(name)) if name in NODES else (404, {"message": "no such node"})
        return self._pods(verb, name, body, parse_qs(place.query))

    def _review(self, wanted: dict[str, str]) -> Answer:
        resource = "/".join(filter(None, (wanted["resource"], wanted["subresource"])))
        named = f"{resource}.{wanted['group']}" if wanted["group"] else resource
        return 201, {"status": {"allowed": (wanted["verb"], named) in self.rights}}

    def _pods(
        self, verb: str, name: str, body: dict[str, Any], query: dict[str, list[str]]
    ) -> Answer:
        if verb == "list" and "fieldSelector" in query:
            address = query["fieldSelector"][0].removeprefix("status.podIP=")
            return 200, {
                "items": [p for p in self.pods.values() if p["status"].get("podIP") == address]
            }
        if verb == "list":
            key, _, value = query["labelSelector"][0].partition("=")
            found = [p for p in self.pods.values() if p["metadata"]["labels"].get(key) == value]
            return 200, {"items": found}
        if verb == "create":
            name = body["metadata"]["name"]
            body["metadata"]["uid"] = f"uid-{name}"
            body["status"] = {"phase": "Pending"}
            self.pods[name] = body
            return 201, body
        if name not in self.pods:
            return 404, {"message": f"no pod {name}"}
        if verb == "delete":
            return 200, self.pods.pop(name)
        if verb == "patch":
            for key, value in body["metadata"].items():
                kept = self.pods[name]["metadata"]
                kept[key] = {**kept.get(key, {}), **value} if isinstance(value, dict) else value
        return 200, self.pods[name]


def _node(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        },
    }


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        status, told = self.cluster.answer(self.command, self.path, body)
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
