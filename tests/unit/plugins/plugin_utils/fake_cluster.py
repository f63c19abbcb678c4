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
POLICIES = "admissionregistration.k8s.io"
SOURCE = "flowferry.io/source"
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


def member(name: str = "redis-0") -> dict[str, Any]:
    """A pod of a StatefulSet."""
    made = pod(name)
    owner = {"kind": "StatefulSet", "name": "redis", "uid": "uid-set", "controller": True}
    claim = {"persistentVolumeClaim": {"claimName": "data"}}
    made["spec"]["volumes"] = [{"name": "data", **claim}]
    made["metadata"].update(ownerReferences=[owner], labels={"app": "redis"})
    return made


class FakeCluster:
    """What is in it, who may do what, and what was asked for."""

    def __init__(self, rights: Iterable[tuple[str, str]]) -> None:
        self.rights = set(rights)
        self.pods: dict[str, dict[str, Any]] = {"redis": pod()}
        self.volumes = {
            "data": {
                "metadata": {"name": "pv-data"},
                "spec": {"nfs": {"server": "it"}, "accessModes": ["ReadWriteOnce"]},
            }
        }
        """Persistent volumes, by the name of their claim."""
        self.policies: dict[str, set[str]] = {}
        """Names of admission policies, and of their bindings, by kind."""
        self.strangers = 0
        """So often a controller is faster than whoever deletes a pod and makes it anew."""
        self.lingering = 0
        """For so many requests a deleted policy, which was for another source, is gone by still."""
        self.made = 0
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
        if POLICIES in parts:
            return self._policies(method, parts[parts.index(POLICIES) + 2 :], body)
        if any(part.startswith("persistentvolume") for part in parts):
            return self._volumes(*parts[-2:])
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

    def _volumes(self, kind: str, name: str) -> Answer:
        self.asked.append(("get", kind))
        if ("get", kind) not in self.rights:
            return 403, {"message": f"cannot get resource {kind}"}
        if kind == "persistentvolumeclaims" and name in self.volumes:
            return 200, {"spec": {"volumeName": self.volumes[name]["metadata"]["name"]}}
        for volume in self.volumes.values():
            if volume["metadata"]["name"] == name:
                return 200, volume
        return 404, {"message": "no such volume"}

    def _policies(self, method: str, parts: list[str], body: dict[str, Any]) -> Answer:
        kind = parts[0]
        verb = {"POST": "create", "DELETE": "delete"}[method]
        self.asked.append((verb, f"{kind}.{POLICIES}"))
        if self.asked[-1] not in self.rights:
            return 403, {"message": f"cannot {verb} resource {kind}"}
        names = self.policies.setdefault(kind, set())
        if verb == "create":
            names.add(body["metadata"]["name"])
            return 201, body
        if parts[1] not in names:
            return 404, {"message": "no such policy"}
        names.remove(parts[1])
        return 200, {}

    def _create(self, body: dict[str, Any], *, dry_run: bool) -> Answer:
        name = body["metadata"]["name"]
        bound = self.policies.get("validatingadmissionpolicybindings", set())
        lingers = self.lingering > 0
        self.lingering -= int(lingers and name == "redis-0")
        is_copy = SOURCE in body["metadata"].get("annotations", {})
        if bound and name == "redis-0" and (lingers or not is_copy):
            return 422, {"message": f"ValidatingAdmissionPolicy {bound} denied request"}
        if self.strangers and not dry_run and name not in self.pods:
            self.strangers -= 1
            self.pods[name] = {**member(name), "metadata": {**member(name)["metadata"]}}
            self.pods[name]["metadata"]["uid"] = f"uid-stranger-{self.strangers}"
        if name in self.pods:
            return 409, {"message": f"pod {name} already exists"}
        if not dry_run:
            self.made += 1
            body["metadata"]["uid"] = f"uid-copy-{self.made}"
            body["status"] = {"phase": "Pending"}
            self.pods[name] = body
        return 201, body

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
            return self._create(body, dry_run="dryRun" in query)
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
