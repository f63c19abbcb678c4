# SPDX-License-Identifier: Apache-2.0
"""What the agent reads of Kubernetes objects, as the API server writes them in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

SWITCH_CLASS = "flowferry.dev/p4"
"""spec.loadBalancerClass of Services whose outside addresses the switches serve."""
SERVICE_LABEL = "flowferry.dev/switch"
"""Label of Services whose cluster addresses the switches serve, in kube-proxy's place: "true"."""
PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
"""Kubernetes' own label with which kube-proxy leaves a Service to somebody else."""
ASKED_ADDRESSES = "flowferry.dev/addresses"
"""Annotation of a Service: which addresses of the pools it is to get, with a comma between two."""
BUCKETS = "flowferry.dev/buckets"
"""Annotation of a Service: how many buckets it has (a prime)."""
CLIENT_TIMEOUT = 10800
"""Seconds, where sessionAffinityConfig does not say: Kubernetes' own default."""
UPLINK_MAC = "flowferry.dev/uplink-mac"
"""Annotation of a Node, written by its agent: the link address that its switch listens to."""
DATA_ADDRESSES = "flowferry.dev/data-addresses"
"""Annotation of a Node, written by its agent: its own addresses in the pods' network."""


@dataclass(frozen=True)
class Pod:
    uid: str
    name: str
    """NAMESPACE/NAME"""
    node: str
    addresses: tuple[str, ...]
    created: str


@dataclass(frozen=True)
class Node:
    name: str
    ready: bool
    networks: tuple[str, ...]
    """What pods of the node get their addresses from."""
    addresses: tuple[str, ...]
    """The node's own, in the pods' network."""
    uplink_mac: str = ""


@dataclass(frozen=True)
class ServicePort:
    name: str
    protocol: str
    port: int


@dataclass(frozen=True)
class Service:
    name: str
    """NAMESPACE/NAME"""
    created: str
    cluster_addresses: tuple[str, ...]
    """Those that switches are asked to serve; empty when kube-proxy does."""
    outside_addresses: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    client_timeout: int = 0
    """Seconds for which a client stays with its endpoint (sessionAffinity: ClientIP), else 0."""
    outside_local: bool = False
    """externalTrafficPolicy: Local"""
    cluster_local: bool = False
    """internalTrafficPolicy: Local"""
    buckets: str = ""
    is_outside: bool = False
    """Whether it is of the switches' class, with outside addresses or still without."""
    versions: tuple[int, ...] = (4,)
    """IP versions, the first one first."""
    asked_addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    address: str
    node: str
    ready: bool
    serving: bool
    terminating: bool


@dataclass(frozen=True)
class Slice:
    """An EndpointSlice."""

    service: str
    ports: Mapping[str, tuple[str, int]]
    """Protocol and number by the name of the service's port."""
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class Cluster:
    """All that the agent knows of the cluster at one moment."""

    pods: Sequence[Pod] = ()
    nodes: Sequence[Node] = ()
    services: Sequence[Service] = ()
    slices: Sequence[Slice] = ()


def cluster(
    pods: Sequence[Object] = (),
    nodes: Sequence[Object] = (),
    services: Sequence[Object] = (),
    slices: Sequence[Object] = (),
) -> Cluster:
    """From lists of objects; what does not concern the switches is left out."""
    return Cluster(
        [pod for pod in map(read_pod, pods) if pod],
        [read_node(node) for node in nodes],
        [service for service in map(read_service, services) if service],
        [read for read in map(read_slice, slices) if read],
    )


def _name(item: Object) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', 'default')}/{metadata['name']}"


def read_pod(item: Object) -> Pod | None:
    """None for a pod without a network of its own, or without an address, or that has ended."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    addresses = tuple(one["ip"] for one in status.get("podIPs") or [] if one.get("ip"))
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed") or not addresses:
        return None
    metadata = item["metadata"]
    return Pod(
        metadata.get("uid", ""),
        _name(item),
        spec.get("nodeName", ""),
        addresses,
        metadata.get("creationTimestamp") or "",
    )


def read_node(item: Object) -> Node:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    annotations = item["metadata"].get("annotations") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or []}
    networks = spec.get("podCIDRs") or [one for one in [spec.get("podCIDR")] if one]
    return Node(
        item["metadata"]["name"],
        conditions.get("Ready") == "True",
        tuple(networks),
        tuple(filter(None, annotations.get(DATA_ADDRESSES, "").split(","))),
        annotations.get(UPLINK_MAC, ""),
    )


def read_service(item: Object) -> Service | None:
    """None for a Service that the switches are not asked to serve."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    inside = (metadata.get("labels") or {}).get(SERVICE_LABEL) == "true"
    outside = spec.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") == SWITCH_CLASS
    given = spec.get("clusterIPs") or [spec.get("clusterIP")]
    ingress = ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    cluster_addresses = tuple(a for a in given if a and a != "None") if inside else ()
    outside_addresses = tuple(one["ip"] for one in ingress if one.get("ip")) if outside else ()
    if not cluster_addresses and not outside:
        return None
    annotations = metadata.get("annotations") or {}
    asked = annotations.get(ASKED_ADDRESSES, "").split(",")
    return Service(
        _name(item),
        metadata.get("creationTimestamp") or "",
        cluster_addresses,
        outside_addresses,
        tuple(
            ServicePort(port.get("name") or "", port.get("protocol") or "TCP", port["port"])
            for port in spec.get("ports") or []
        ),
        _client_timeout(spec),
        spec.get("externalTrafficPolicy") == "Local",
        spec.get("internalTrafficPolicy") == "Local",
        annotations.get(BUCKETS, ""),
        outside,
        tuple(6 if family == "IPv6" else 4 for family in spec.get("ipFamilies") or ["IPv4"]),
        tuple(filter(None, (one.strip() for one in asked))),
    )


def _client_timeout(spec: Object) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    told = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(told.get("timeoutSeconds") or CLIENT_TIMEOUT)


def read_slice(item: Object) -> Slice | None:
    """None for one that belongs to no Service, or names no addresses."""
    metadata = item["metadata"]
    service = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
    if not service or item.get("addressType") not in ("IPv4", "IPv6"):
        return None
    ports = {
        port.get("name") or "": (port.get("protocol") or "TCP", port["port"])
        for port in item.get("ports") or []
        if port.get("port")
    }
    endpoints = [
        # The API says that consumers use the first address only.
        _endpoint(one["addresses"][0], one)
        for one in item.get("endpoints") or []
        if one.get("addresses")
    ]
    return Slice(f"{metadata.get('namespace', 'default')}/{service}", ports, tuple(endpoints))


def _endpoint(address: str, item: Object) -> Endpoint:
    """Conditions that are not told: ready unless said otherwise, serving as ready, not ending."""
    conditions = item.get("conditions") or {}
    told = {name: value for name, value in conditions.items() if value is not None}
    ready = told.get("ready", True)
    return Endpoint(
        address,
        item.get("nodeName") or "",
        ready,
        told.get("serving", ready),
        told.get("terminating", False),
    )
