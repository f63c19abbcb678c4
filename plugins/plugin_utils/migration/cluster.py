# SPDX-License-Identifier: Apache-2.0
"""One session with a Kubernetes cluster: its API server, and its kubelets' checkpoint API."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

try:
    import kubernetes
    import urllib3
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

Pod = dict[str, Any]
KUBELET_PORT = 10250
# The kubelet answers when the checkpoint is written (seconds).
CHECKPOINT_TIMEOUT = 60.0
TIMEOUT = 20.0


class Cluster:
    """What a migration asks of the cluster. Pods are plain JSON, as the API has them."""

    def __init__(self, kubeconfig: str) -> None:
        if IMPORT_ERROR is not None:
            raise FlowferryError(
                "kubernetes_not_configured",
                f"the Python package kubernetes is missing on the controller: {IMPORT_ERROR}",
            )
        if not Path(kubeconfig).is_file():
            raise FlowferryError(
                "kubernetes_not_configured",
                f'there is no kubeconfig "{kubeconfig}"; name one: -e migration_kubeconfig=FILE',
            )
        self._client = kubernetes.config.new_client_from_config(kubeconfig)
        self._settings = self._client.configuration
        self._kubelets: dict[str, http.client.HTTPSConnection] = {}

    # -- pods

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        """The pod; None when there is none of this name."""
        return self._ask("GET", _pods(namespace, name), allow_missing=True)

    def list_pods(self, namespace: str, selector: str) -> list[Pod]:
        """Pods by label."""
        query = f"?labelSelector={quote(selector)}"
        found = self._ask("GET", _pods(namespace) + query)
        assert found is not None
        items: list[Pod] = found["items"]
        return items

    def create_pod(self, pod: Pod) -> Pod:
        created = self._ask("POST", _pods(pod["metadata"]["namespace"]), pod)
        assert created is not None
        return created

    def patch_pod(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        """Merge a change of metadata into a pod."""
        kind = "application/strategic-merge-patch+json"
        self._ask("PATCH", _pods(namespace, name), patch, kind=kind)

    def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Take this very pod away at once; one of the same name that came later stays."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        }
        found = self.get_pod(namespace, name)
        if found is not None and found["metadata"]["uid"] == uid:
            self._ask("DELETE", _pods(namespace, name), body, allow_missing=True)

    # -- nodes

    def node(self, name: str) -> dict[str, Any]:
        """The node; FlowferryError when the cluster knows none of this name."""
        found = self._ask("GET", f"/api/v1/nodes/{name}", allow_missing=True)
        if found is None:
            raise FlowferryError(
                "unknown_destination",
                f'the cluster has no node "{name}"; `kubectl get nodes` lists them. Names in the '
                "inventory must be those of the cluster",
            )
        return found

    def connect_kubelet(self, node: dict[str, Any]) -> None:
        """Open the connection to a node's kubelet, so that the checkpoint itself starts at once."""
        name = node["metadata"]["name"]
        addresses = {one["type"]: one["address"] for one in node["status"]["addresses"]}
        port = node["status"].get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port")
        context = ssl.create_default_context(cafile=self._settings.ssl_ca_cert)
        if self._settings.cert_file:
            context.load_cert_chain(self._settings.cert_file, self._settings.key_file)
        connection = http.client.HTTPSConnection(
            addresses["InternalIP"],
            port or KUBELET_PORT,
            context=context,
            timeout=CHECKPOINT_TIMEOUT,
        )
        try:
            connection.connect()
        except OSError as error:
            raise FlowferryError(
                "kubelet_unreachable",
                f"the kubelet of {name} does not answer at {connection.host}:{connection.port} "
                f"({error}); check that it runs and that the port is open",
            ) from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._kubelets[name] = connection

    def checkpoint(self, node: str, namespace: str, pod: str, container: str) -> str:
        """Have the kubelet write a checkpoint; the archive's path on the node."""
        connection = self._kubelets[node]
        path = f"/checkpoint/{namespace}/{pod}/{container}"
        try:
            connection.request("POST", path, headers=self._token())
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise FlowferryError(
                "checkpoint_failed", f"the kubelet of {node} did not answer {path}: {error!r}"
            ) from error
        if answer.status != 200:
            said = _kubelet_said(node, answer.status, body)
            raise FlowferryError("checkpoint_failed", said, body)
        found: str = json.loads(body)["items"][0]
        return found

    def _token(self) -> dict[str, str]:
        sent = self._client.param_serialize("POST", "/", auth_settings=["BearerToken"])
        headers: dict[str, str] = sent[2]
        return {name: value for name, value in headers.items() if name.lower() == "authorization"}

    # -- HTTP

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        kind: str = "application/json",
        allow_missing: bool = False,
    ) -> dict[str, Any] | None:
        headers = {"Content-Type": kind, "Accept": "application/json"}
        sent = self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        _, url, headers, content, _ = sent
        try:
            answer = self._client.call_api(method, url, headers, content, _request_timeout=TIMEOUT)
            said = json.loads(answer.read() or b"{}")
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            raise FlowferryError(
                "kubernetes_unreachable", f"the API server does not answer: {error}"
            ) from error
        if answer.status == 404 and allow_missing:
            return None
        if answer.status >= 300:
            raise FlowferryError(
                "kubernetes_refused", _api_said(method, path, answer.status, said.get("message"))
            )
        found: dict[str, Any] = said
        return found


def _pods(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def _api_said(method: str, path: str, status: int, message: str | None) -> str:
    hint = "; deploy/rbac.yml has the rights that a migration needs" if status == 403 else ""
    return f"the API server answered {status} to {method} {path}: {message or '-'}{hint}"


def _kubelet_said(node: str, status: int, body: str) -> str:
    hints = {
        401: "the kubelet does not know who asks",
        403: "whoever asks has no right to nodes/checkpoint: deploy/rbac.yml",
        404: "no such container, or the feature gate ContainerCheckpoint is off",
        500: "CRIU's complaint is in the container runtime's log; /etc/criu/runc.conf must allow "
        "established connections (role criu)",
    }
    hint = hints.get(status, "see the kubelet's log")
    return f"the kubelet of {node} answered {status} to the checkpoint: {body[-400:]} ({hint})"
