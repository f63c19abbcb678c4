# SPDX-License-Identifier: Apache-2.0
"""A node is prepared for its switch, again and again, and is afterwards what it was before."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowferry_p4.cni import plugin

from tests.integration.cni_bench import IPAM
from tests.integration.switch_bench import Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

OWN, OWN6 = "198.19.9.21", "2001:2:0:9::21"


@pytest.fixture
def node() -> Iterator[Namespace]:
    made = Namespace("ffprep")
    made.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "fabric")
    for interface in ("up0", "fabric"):
        made.run("ip", "link", "set", interface, "up")
    made.run("ip", "address", "add", f"{OWN}/24", "dev", "up0")
    made.run("ip", "address", "add", f"{OWN6}/64", "dev", "up0", "nodad")
    yield made
    made.remove()


def prepare(node: Namespace, directory: Path, *more: str) -> None:
    (directory / "conflist").write_text('{"name": "flowferry"}')
    (directory / "arguments").write_text(
        "\n".join(
            [
                f"--cni-plugins={directory}/plugins",
                f"--cni-network={directory}/conflist",
                f"--cni-configuration={directory}/net.d/10-flowferry.conflist",
                f"--address-manager={IPAM}",
                "--uplink=up0",
                "--host-cable=ffhost",
                f"--data-address={OWN}",
                f"--data-address={OWN6}",
                "--reach=198.19.9.0/24",
                "--reach=2001:2:0:9::/64",
                "--reach=10.96.0.0/16",
            ]
        )
    )
    words = (sys.executable, "-m", "flowferry_p4.agent.prepare", f"@{directory}/arguments")
    node.run(*words, *more)


def addresses(node: Namespace, interface: str) -> set[str]:
    (link,) = json.loads(node.run("ip", "-j", "address", "show", "dev", interface))
    told = [(one["local"], one["prefixlen"]) for one in link["addr_info"]]
    return {f"{address}/{bits}" for address, bits in told if not address.startswith("fe80")}


def route(node: Namespace, destination: str) -> dict[str, str]:
    (found,) = json.loads(node.run("ip", "-j", "route", "get", destination))
    return {key: found[key] for key in ("dev", "gateway", "prefsrc") if key in found}


def test_the_nodes_address_is_behind_its_switch_and_comes_back(
    node: Namespace, tmp_path: Path
) -> None:
    before = addresses(node, "up0")
    for _ in range(2):
        prepare(node, tmp_path)
        assert addresses(node, "up0") == set()
        assert addresses(node, "ffhost") == {f"{OWN}/32", f"{OWN6}/128"}
        for pod in ("198.19.9.130", "10.96.0.1"):
            way = {"dev": "ffhost", "gateway": "169.254.1.1", "prefsrc": OWN}
            assert route(node, pod) == way
        assert route(node, "2001:2:0:9::130")["gateway"] == "fe80::1"
    prepare(node, tmp_path, "--remove")
    assert addresses(node, "up0") == before
    assert "ffhost" not in node.run("ip", "-brief", "link")
    prepare(node, tmp_path, "--remove")


def test_the_plugins_are_put_in_place_whole(node: Namespace, tmp_path: Path) -> None:
    prepare(node, tmp_path)
    plugins, configured = tmp_path / "plugins", tmp_path / "net.d"
    assert sorted(path.name for path in plugins.iterdir()) == ["flowferry", IPAM.name]
    assert (plugins / "flowferry").read_bytes() == Path(plugin.__file__).read_bytes()
    assert os.access(plugins / "flowferry", os.X_OK)
    assert [path.name for path in configured.iterdir()] == ["10-flowferry.conflist"]
    prepare(node, tmp_path, "--remove")
    assert list(plugins.iterdir()) == [] and list(configured.iterdir()) == []
