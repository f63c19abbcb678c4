# SPDX-License-Identifier: Apache-2.0
"""One session with a Kubernetes cluster: its API server, and its kubelets' checkpoint API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.flowferry.core.plugins.module_utils import kubelet
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.kubelet import Kubelet, client_context

try:
    import kubernetes
    import urllib3
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

Pod = dict[str, Any]
TIMEOUT = 20.0


@dataclass(frozen=True)
class Right:
    """One verb on one resource; the resource of a subresource is written with a slash."""

    verb: str
    resource: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"


ADMISSION = "admissionregistration.k8s.io"
POLICIES = ("validatingadmissionpolicies", "validatingadmissionpolicybindings")

# deploy/rbac.yml gives these and no others; a test compares the two.
RIGHTS = (
    Right("get", "nodes"),
    Right("create", "nodes/checkpoint"),
    *(Right(verb, "pods") for verb in ("create", "delete", "get", "list", "patch")),
    *(Right("get", kind) for kind in ("persistentvolumeclaims", "persistentvolumes")),
    *(Right(verb, kind, ADMISSION) for kind in POLICIES for verb in ("create", "delete")),
)


class Refused(FlowferryError):
    """The API server answered, and not as it was to."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("kubernetes_refused", message)
        self.status = status


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
        self._settings = kubernetes.client.Configuration()
        # A server that hangs is not asked again: packets may be held meanwhile.
        self._settings.retries = urllib3.Retry(total=2, read=0)
        kubernetes.config.load_kube_config(kubeconfig, client_configuration=self._settings)
        self._client = kubernetes.client.ApiClient(self._settings)
        self._kubelets: dict[str, Kubelet] = {}
        self._may_move_in: set[str] = set()

    # -- rights

    def require_rights(self, namespace: str) -> None:
        """FlowferryError unless a migration of this namespace's pods may do all that it has to.

        To learn of a missing right in the middle would cost a rollback, and after the commit
        leave the source for another run.
        """
        if namespace in self._may_move_in:
            return
        missing = [str(right) for right in RIGHTS if not self._may(right, namespace)]
        if missing:
            raise FlowferryError(
                "rights_missing",
                f"whoever asks the API server may not {', '.join(missing)} (namespace "
                f"{namespace}); deploy/rbac.yml has the rights that a migration needs",
            )
        self._may_move_in.add(namespace)

    def _may(self, right: Right, namespace: str) -> bool:
        resource, _, subresource = right.resource.partition("/")
        wanted = {
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace if resource in ("pods", "persistentvolumeclaims") else "",
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        told = self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        assert told is not None
        return bool(told["status"]["allowed"])

    # -- pods

    def get_pod(self, namespace: str, name: str, *, timeout: float = TIMEOUT) -> Pod | None:
        """The pod; None when there is none of this name."""
        return self._ask("GET", _pods(namespace, name), allow_missing=True, timeout=timeout)

    def list_pods(self, namespace: str, selector: str) -> list[Pod]:
        """Pods by label."""
        query = f"?labelSelector={quote(selector)}"
        found = self._ask("GET", _pods(namespace) + query)
        assert found is not None
        items: list[Pod] = found["items"]
        return items

    def pods_with_address(self, address: str) -> list[Pod]:
        """Pods of any namespace that have an address and have not ended."""
        query = f"?fieldSelector={quote(f'status.podIP={address}')}"
        found = self._ask("GET", "/api/v1/pods" + query)
        assert found is not None
        ended = ("Succeeded", "Failed")
        return [pod for pod in found["items"] if pod["status"].get("phase") not in ended]

    def create_pod(self, pod: Pod, *, dry_run: bool = False) -> Pod:
        """Make a pod; with ``dry_run`` only ask whether it would be admitted."""
        query = "?dryRun=All" if dry_run else ""
        created = self._ask("POST", _pods(pod["metadata"]["namespace"]) + query, pod)
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

    # -- volumes

    def get_claim(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A claim of a persistent volume; None when there is none of this name."""
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
        return self._ask("GET", path, allow_missing=True)

    def get_volume(self, name: str) -> dict[str, Any] | None:
        """A persistent volume; None when there is none of this name."""
        return self._ask("GET", f"/api/v1/persistentvolumes/{name}", allow_missing=True)

    # -- admission policies, of the whole cluster

    def create_policy(self, kind: str, body: dict[str, Any]) -> None:
        """``kind`` is one of POLICIES."""
        self._ask("POST", f"/apis/{ADMISSION}/v1/{kind}", body)

    def delete_policy(self, kind: str, name: str) -> None:
        """One that is not there is no failure."""
        self._ask("DELETE", f"/apis/{ADMISSION}/v1/{kind}/{name}", allow_missing=True)

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
        context = client_context(
            self._settings.ssl_ca_cert, self._settings.cert_file, self._settings.key_file
        )
        self._kubelets[name] = Kubelet(
            addresses["InternalIP"], port or kubelet.PORT, context, self._token()
        )

    def checkpoint(self, node: str, namespace: str, pod: str, container: str) -> str:
        """Have the kubelet write a checkpoint; the archive's path on the node."""
        return self._kubelets[node].checkpoint(namespace, pod, container)

    def kubelet_lives(self, node: str) -> bool:
        """Whether the kubelet that was connected to can still be reached."""
        return self._kubelets[node].lives()

    def _token(self) -> str:
        sent = self._client.param_serialize("POST", "/", auth_settings=["BearerToken"])
        headers = {name.lower(): str(value) for name, value in sent[2].items()}
        return headers.get("authorization", "").rpartition(" ")[2]

    # -- HTTP

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        kind: str = "application/json",
        allow_missing: bool = False,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any] | None:
        headers = {"Content-Type": kind, "Accept": "application/json"}
        sent = self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        _, url, headers, content, _ = sent
        try:
            answer = self._client.call_api(method, url, headers, content, _request_timeout=timeout)
            said = json.loads(answer.read() or b"{}")
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            raise FlowferryError(
                "kubernetes_unreachable", f"the API server does not answer: {error}"
            ) from error
        if answer.status == 404 and allow_missing:
            return None
        if answer.status >= 300:
            raise Refused(
                answer.status, _api_said(method, path, answer.status, said.get("message"))
            )
        found: dict[str, Any] = said
        return found


def _pods(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def _api_said(method: str, path: str, status: int, message: str | None) -> str:
    hint = "; deploy/rbac.yml has the rights that a migration needs" if status == 403 else ""
    return f"the API server answered {status} to {method} {path}: {message or '-'}{hint}"
