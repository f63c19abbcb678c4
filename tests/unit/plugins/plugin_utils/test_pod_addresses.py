# SPDX-License-Identifier: Apache-2.0
"""Another address for a pod: which are refused in the plan, and what the copy must have got."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.pod_addresses import (
    addresses_of_copy,
    new_endpoint,
)

NETWORK = {"network": "198.19.0.0/24", "gateway": "198.19.0.254", "owner": ""}
RANGES = {
    "node1": {**NETWORK, "first": "198.19.0.128", "last": "198.19.0.159"},
    "node2": {**NETWORK, "first": "198.19.0.160", "last": "198.19.0.191"},
}

BOTH = ["198.19.0.170", "2001:2::170"]


class Node:
    """A helper that knows its node's network."""

    def __init__(self, name: str, network: dict[str, Any]) -> None:
        self.node = name
        self.network = network
        self.copy_has: list[str] = []

    def call(self, operation: str, **_: Any) -> Any:
        return {"addressing": self.network, "copy_addresses": self.copy_has}[operation]

    def goodbye(self) -> None:
        """Nothing to close."""


class Cluster:
    """Pods by their address."""

    def __init__(self, **pods: str) -> None:
        self.pods = pods

    def pods_with_address(self, address: str) -> list[dict[str, Any]]:
        named = [name for name, has in self.pods.items() if has == address]
        return [{"metadata": {"namespace": "shop", "name": name}} for name in named]


def wanted(*addresses: str, cluster: Cluster | None = None, **networks: Any) -> dict[str, Any]:
    """The endpoint on node2."""
    nodes = {name: Node(name, told) for name, told in {**RANGES, **networks}.items()}
    return new_endpoint(cluster or Cluster(), "node2", nodes, "pod-1", list(addresses))  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["198.19.0.170", "198.19.0.100"])
def test_an_address_of_the_node_or_of_nobody_can_be_had(address: str) -> None:
    assert wanted(address)["address"] == address


def test_without_one_the_node_chooses() -> None:
    assert wanted() == {"namespace": "pod-1", "address": "", "mac": "", "others": []}
    assert wanted(node2={"owner": ""})["address"] == "", "whatever its network is"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("198.18.0.170", "whose pod network is 198.19.0.0/24"),
        ("198.19.0.254", "with the gateway 198.19.0.254"),
        ("198.19.0.0", "whose pod network is"),
        ("198.19.0.255", "whose pod network is"),
        ("2001:2::170", "whose pod network is 198.19.0.0/24"),
        ("198.19.0.128", "one of those that node1 gives to its own pods"),
        ("198.19.0.159", "198.19.0.128 to 198.19.0.159"),
    ],
)
def test_one_that_the_node_cannot_give_is_refused(address: str, said: str) -> None:
    with pytest.raises(FlowferryError, match=said) as refused:
        wanted(address)
    assert refused.value.code == "address_mismatch"
    assert "leave destination_address out" in str(refused.value)


def test_a_network_that_takes_no_address_is_not_asked_for_one() -> None:
    with pytest.raises(FlowferryError, match="takes no address from a pod's annotation") as refused:
        wanted("198.19.0.170", node2={"owner": ""})
    assert refused.value.code == "address_mismatch"


def test_one_that_is_in_use_is_refused_with_its_owner() -> None:
    with pytest.raises(FlowferryError, match="belongs to pod shop/web;") as refused:
        wanted("198.19.0.170", cluster=Cluster(web="198.19.0.170"))
    assert refused.value.code == "address_taken"
    held = {**RANGES["node2"], "owner": "0123456789abcdef"}
    with pytest.raises(FlowferryError, match="sandbox 0123456789ab on node2") as refused:
        wanted("198.19.0.170", node2=held)
    assert refused.value.code == "address_taken"


@pytest.mark.parametrize(
    ("has", "asked", "expected"),
    [
        (["198.19.0.170"], ["198.19.0.170"], ["198.19.0.170"]),
        (["198.19.0.170"], [], ["198.19.0.170"]),
        (["2001:2::170", "198.19.0.170"], [], ["198.19.0.170"]),
        (["2001:2::170", "198.19.0.170"], BOTH, BOTH),
        (["198.19.0.170"], BOTH, None),
        (["198.19.0.171"], ["198.19.0.170"], None),
        (["2001:2::170"], [], None),
        ([], [], None),
    ],
)
def test_what_the_copy_has_got(
    has: list[str], asked: list[str], expected: list[str] | None
) -> None:
    node = Node("node2", RANGES["node2"])
    node.copy_has = has
    about = {"namespace": "default", "copy": "redis-moved"}
    if expected:
        assert addresses_of_copy(about, node, asked) == expected
        return
    with pytest.raises(
        FlowferryError, match=r"default/redis-moved.*flowferry.io/address"
    ) as failed:
        addresses_of_copy(about, node, asked)
    assert failed.value.code == "prepare_failed"
