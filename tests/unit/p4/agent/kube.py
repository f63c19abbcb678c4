# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects for tests, as the API server writes them in JSON."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def pod(name: str, node: str, *addresses: str, created: str = "2026-01-01T00:00:00Z") -> Object:
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
        },
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def node(
    name: str,
    *networks: str,
    mac: str = "",
    addresses: tuple[str, ...] = (),
    ready: bool = True,
) -> Object:
    annotations = {"flowferry.dev/data-addresses": ",".join(addresses)}
    if mac:
        annotations["flowferry.dev/uplink-mac"] = mac
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"podCIDRs": list(networks)},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def service(
    name: str,
    *cluster_addresses: str,
    outside: tuple[str, ...] = (),
    port: int = 80,
    protocol: str = "TCP",
    created: str = "2026-01-01T00:00:00Z",
    **spec: Any,
) -> Object:
    found: Object = {
        "metadata": {
            "namespace": "default",
            "name": name,
            "creationTimestamp": created,
            "labels": {"flowferry.dev/switch": "true"} if cluster_addresses else {},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIPs": list(cluster_addresses) or ["10.96.0.99"],
            "ports": [{"name": "web", "protocol": protocol, "port": port, "targetPort": 8080}],
        },
        "status": {},
    }
    if outside:
        found["spec"] |= {"type": "LoadBalancer", "loadBalancerClass": "flowferry.dev/p4"}
        found["status"] = {"loadBalancer": {"ingress": [{"ip": one} for one in outside]}}
    found["spec"] |= spec
    return found


def endpoint(address: str, node: str = "node1", **conditions: bool) -> Object:
    return {
        "addresses": [address],
        "nodeName": node,
        "conditions": {"ready": True, **conditions},
    }


def slice_of(
    service: str, *endpoints: Object, port: int = 8080, protocol: str = "TCP", family: str = "IPv4"
) -> Object:
    return {
        "metadata": {
            "namespace": "default",
            "name": f"{service}-{family}",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": "web", "protocol": protocol, "port": port}],
        "endpoints": list(endpoints),
    }
