# SPDX-License-Identifier: Apache-2.0
"""The addresses that a pod's copy gets: asked for, or one that its node chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.endpoint import endpoint_with
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

from .cluster import Cluster
from .remote import NodeHelper

ANNOTATION = "flowferry.io/address"

Endpoint = dict[str, Any]


def new_endpoint(
    cluster: Cluster,
    node: str,
    remotes: Mapping[str, NodeHelper],
    namespace: str,
    addresses: list[str],
) -> Endpoint:
    """What the copy on ``node`` is to have; no address if the node is to choose.

    An address that the node cannot give to a pod, or that somebody has, is refused.
    """
    if not addresses:
        return {"namespace": namespace, "address": "", "mac": "", "others": []}
    endpoint = endpoint_with(namespace, addresses)
    for address in endpoint.addresses:
        networks = {
            name: remote.call("addressing", address=address) for name, remote in remotes.items()
        }
        _check_range(address, node, networks)
        _check_free(address, node, networks[node]["owner"], cluster)
    return endpoint.as_dict()


def _check_range(address: str, node: str, networks: dict[str, dict[str, Any]]) -> None:
    own, parsed = networks[node], ip_address(address)
    choice = f"leave destination_address out: {node} then chooses one"
    if "network" not in own:
        raise _mismatch(
            f"the pod network of {node} takes no address from a pod's annotation; {choice}"
        )
    network, gateway = ip_network(own["network"]), ip_address(own["gateway"])
    if parsed not in network or parsed in (network[0], network[-1], gateway):
        raise _mismatch(
            f"{address} cannot be a pod's address on {node}, whose pod network is {network} with "
            f"the gateway {gateway}; give another one, or {choice}"
        )
    for other, told in networks.items():
        if other == node or "network" not in told:
            continue
        if ip_address(told["first"]) <= parsed <= ip_address(told["last"]):
            raise _mismatch(
                f"{address} is one of those that {other} gives to its own pods ({told['first']} to "
                f"{told['last']}); give another one, or {choice}"
            )


def _check_free(address: str, node: str, sandbox: str, cluster: Cluster) -> None:
    having = cluster.pods_with_address(address)
    owners = [f"pod {one['metadata']['namespace']}/{one['metadata']['name']}" for one in having]
    if sandbox and not owners:
        owners = [f"sandbox {sandbox[:12]} on {node}"]
    if owners:
        raise FlowferryError(
            "address_taken",
            f"{address} belongs to {', '.join(owners)}; give another destination_address, or leave "
            f"it out: {node} then chooses one",
        )


def addresses_of_copy(
    about: dict[str, Any], remote: NodeHelper, wanted: Sequence[str]
) -> list[str]:
    """What the copy's sandbox has got: all that were asked for, or one of IPv4 if none was."""
    found: list[str] = remote.call("copy_addresses", about=about)
    fitting = list(wanted) or [one for one in found if ":" not in one][:1]
    if not fitting or not set(fitting) <= set(found):
        raise FlowferryError(
            "prepare_failed",
            f"{remote.node} gave {about['namespace']}/{about['copy']} the address "
            f"{', '.join(found) or '(none)'}, not {', '.join(wanted) or 'one of IPv4'}: its pod "
            f"network has to heed the annotation {ANNOTATION} (the role pod_network sets one up)",
        )
    return fitting


def _mismatch(message: str) -> FlowferryError:
    return FlowferryError("address_mismatch", message)
