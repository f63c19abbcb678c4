# SPDX-License-Identifier: Apache-2.0
"""An agent in a container finds what the runtime names, where it is on the node."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowferry_p4.cni.protocol import Call, read_call


def call(root: Path | str, namespace: str, path: str = "/usr/lib/cni") -> Call:
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": namespace,
        "CNI_PATH": path,
    }
    network = {"cniVersion": "1.1.0", "name": "flowferry"}
    return read_call({"variables": variables, "network": network}, str(root) if root else "")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """/var/run is an absolute link, as in Debian, which must not leave the node."""
    (tmp_path / "run/netns").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "opt").symlink_to("usr/../usr/lib")
    return tmp_path


def test_links_lead_where_they_lead_on_the_node(node: Path) -> None:
    found = call(node, "/var/run/netns/cni-1", "/opt/cni:/usr/lib/cni")
    assert found.namespace == f"{node}/run/netns/cni-1"
    assert found.path == (f"{node}/usr/lib/cni", f"{node}/usr/lib/cni")


def test_links_that_lead_to_one_another_end(node: Path) -> None:
    (node / "loop").symlink_to("/loop")
    assert call(node, "/loop/netns/x").namespace.startswith(str(node))


def test_on_the_node_itself_paths_are_as_they_are() -> None:
    assert call("", "/var/run/netns/x").namespace == "/var/run/netns/x"
