# SPDX-License-Identifier: Apache-2.0
"""The CNI address manager: fixed addresses, ranges, and addresses whose pods have moved away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).resolve().parents[3] / "roles/pod_network/files/flowferry-ipam"


class Node:
    """The address manager of one node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def call(self, command: str, sandbox: str, address: str = "", **more: Any) -> dict[str, Any]:
        annotations = {"flowferry.io/address": address} if address else {}
        network = {
            "cniVersion": "1.0.0",
            "name": "flowferry",
            "ipam": {
                "dataDir": str(self.directory),
                "rangeStart": "198.19.0.128",
                "rangeEnd": "198.19.0.129",
                "gateway": "198.19.0.254",
                "prefix": 24,
                **more,
            },
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations},
        }
        done = subprocess.run(
            [sys.executable, str(PLUGIN)],
            input=json.dumps(network),
            env={**os.environ, "CNI_COMMAND": command, "CNI_CONTAINERID": sandbox},
            capture_output=True,
            text=True,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        assert (done.returncode != 0) == ("code" in answer), done.stderr
        return answer

    def add(self, sandbox: str, address: str = "") -> str:
        answer = self.call("ADD", sandbox, address)
        assert "code" not in answer, answer
        assert answer["ips"][0]["gateway"] == "198.19.0.254"
        return str(answer["ips"][0]["address"])


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "addresses")


def test_addresses_of_the_range_are_given_once(node: Node) -> None:
    assert node.add("one") == "198.19.0.128/24"
    assert node.add("two") == "198.19.0.129/24"
    assert "no address is free" in node.call("ADD", "three")["msg"]
    node.call("DEL", "one")
    assert node.add("three") == "198.19.0.128/24"


def test_the_same_sandbox_gets_the_same_address(node: Node) -> None:
    assert node.add("one") == node.add("one")


def test_a_fixed_address_has_one_owner(node: Node) -> None:
    assert node.add("one", "198.19.0.100") == "198.19.0.100/24"
    assert "in use" in node.call("ADD", "two", "198.19.0.100")["msg"]
    node.call("DEL", "one")
    assert node.add("two", "198.19.0.100") == "198.19.0.100/24"


def test_the_address_of_a_pod_that_moved_away_waits_for_it(node: Node) -> None:
    node.add("one")
    (node.directory / "198.19.0.128").write_text("moved")
    node.call("DEL", "one")
    assert node.add("two") == "198.19.0.129/24"
    assert node.add("back", "198.19.0.128") == "198.19.0.128/24"


def test_deleting_what_is_not_there_is_no_failure(node: Node) -> None:
    assert node.call("DEL", "never") == {}


def test_nonsense_is_refused(node: Node) -> None:
    assert node.call("ADD", "one", "../../etc")["code"] == 7


def test_it_says_which_versions_it_speaks(node: Node) -> None:
    assert "1.0.0" in node.call("VERSION", "")["supportedVersions"]


IPV6 = {
    "rangeStart": "2001:2::80",
    "rangeEnd": "2001:2::81",
    "gateway": "2001:2::fe",
    "prefix": 64,
}


def both(node: Node, sandbox: str, address: str = "") -> list[str]:
    answer = node.call("ADD", sandbox, address, ipv6=IPV6)
    assert [one["dst"] for one in answer["routes"]] == ["0.0.0.0/0", "::/0"]
    return [one["address"] for one in answer["ips"]]


def test_a_network_of_both_ip_versions_gives_one_of_each(node: Node) -> None:
    assert both(node, "one") == ["198.19.0.128/24", "2001:2::80/64"]
    assert both(node, "two", "198.19.0.100") == ["198.19.0.100/24", "2001:2::81/64"]
    node.call("DEL", "one")
    fixed = both(node, "moved", "2001:2:0::64, 198.19.0.101")
    assert fixed == ["198.19.0.101/24", "2001:2::64/64"]


def test_it_gives_all_or_nothing(node: Node) -> None:
    both(node, "one")
    both(node, "two")
    node.call("DEL", "one", ipv6=IPV6)
    assert "in use" in node.call("ADD", "three", "2001:2::81", ipv6=IPV6)["msg"]
    assert both(node, "four") == ["198.19.0.128/24", "2001:2::80/64"]


def test_what_a_network_cannot_give_is_refused(node: Node) -> None:
    assert "no IPv6" in node.call("ADD", "one", "2001:2::64")["msg"]
    assert "two addresses" in node.call("ADD", "one", "198.19.0.1,198.19.0.2")["msg"]
