# SPDX-License-Identifier: Apache-2.0
"""Who has which address of a node: the address manager's word, and what moves make of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import pod_network
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

MANAGER = (
    Path(__file__).resolve().parents[4] / "roles" / "pod_network" / "files" / pod_network.MANAGER
)
FIRST, SECOND, FIXED = "198.19.0.128", "198.19.0.129", "198.19.0.100"

Manager = Callable[..., dict[str, Any]]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Manager:
    """The plugin as a runtime calls it: command, sandbox, and the address that a pod asks for."""
    monkeypatch.setattr(pod_network, "STATE", tmp_path)
    loader = SourceFileLoader("flowferry_ipam", str(MANAGER))
    spec = spec_from_loader("flowferry_ipam", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)

    def call(command: str, sandbox: str, address: str = "") -> dict[str, Any]:
        network = {
            "ipam": {
                "dataDir": str(tmp_path),
                "rangeStart": FIRST,
                "rangeEnd": SECOND,
                "gateway": "198.19.0.254",
                "prefix": 24,
            },
            "runtimeConfig": {module.ANNOTATIONS: {module.ADDRESS: address} if address else None},
        }
        monkeypatch.setenv("CNI_COMMAND", command)
        monkeypatch.setenv("CNI_CONTAINERID", sandbox)
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(network)))
        capsys.readouterr()
        try:
            module.main()
        except module.Refused as error:
            return {"refused": str(error)}
        said = capsys.readouterr().out
        return dict(json.loads(said)) if said else {}

    return call


def got(answer: dict[str, Any]) -> str:
    address: str = answer["ips"][0]["address"]
    return address.partition("/")[0]


def reservations(directory: Path) -> dict[str, list[str]]:
    return {file.name: file.read_text().split() for file in directory.glob("[0-9]*")}


def test_what_moved_away_with_its_pod_stays_reserved(manager: Manager, tmp_path: Path) -> None:
    manager("ADD", "a")
    assert (pod_network.owner(FIRST), pod_network.owner(FIXED)) == ("a", "")
    pod_network.keep_reserved([FIRST])
    assert pod_network.owner(FIRST) == "a", "the sandbox has it until it ends"
    manager("DEL", "a")
    assert reservations(tmp_path) == {FIRST: ["moved"]}
    assert pod_network.owner(FIRST) == ""
    assert got(manager("ADD", "b")) == SECOND
    pod_network.keep_reserved([FIRST])
    assert reservations(tmp_path)[FIRST] == ["moved"]


def test_a_copy_that_is_given_up_leaves_the_reservation(manager: Manager, tmp_path: Path) -> None:
    """Its address is that of the source, which lives on elsewhere."""
    manager("ADD", "a")
    pod_network.keep_reserved([FIRST])
    manager("DEL", "a")
    assert got(manager("ADD", "copy", FIRST)) == FIRST
    assert got(manager("ADD", "copy", FIRST)) == FIRST
    manager("DEL", "copy")
    assert reservations(tmp_path) == {FIRST: ["moved"]}


def test_the_reservation_of_a_pod_that_came_back_ends_with_it(
    manager: Manager, tmp_path: Path
) -> None:
    manager("ADD", "a")
    pod_network.keep_reserved([FIRST])
    manager("DEL", "a")
    manager("ADD", "copy", FIRST)
    pod_network.claim([FIRST])
    assert reservations(tmp_path) == {FIRST: ["copy"]}
    manager("DEL", "copy")
    assert reservations(tmp_path) == {}


def test_an_address_that_its_pod_gave_up_is_free_wherever_it_was(
    manager: Manager, tmp_path: Path
) -> None:
    manager("ADD", "a")
    pod_network.free([FIRST])
    assert reservations(tmp_path) == {FIRST: ["a"]}, "a sandbox that has it is not robbed of it"
    pod_network.keep_reserved([FIRST])
    manager("DEL", "a")
    pod_network.free([FIRST])
    assert reservations(tmp_path) == {}


@pytest.mark.parametrize("change", [pod_network.free, pod_network.claim, pod_network.keep_reserved])
def test_nothing_comes_of_what_nobody_reserved(
    manager: Manager, tmp_path: Path, change: Callable[[list[str]], None]
) -> None:
    change([FIXED])
    assert reservations(tmp_path) == {}


def test_a_node_with_another_network_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_network, "STATE", tmp_path / "none")
    monkeypatch.setattr(pod_network, "NETWORKS", tmp_path)
    (tmp_path / "10-other.conflist").write_text(
        json.dumps({"plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {}]})
    )
    pod_network.keep_reserved([FIXED])
    assert pod_network.settings() == {} and not (tmp_path / "none").exists()


def test_the_settings_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_network, "NETWORKS", tmp_path)
    manager = {"type": pod_network.MANAGER, "rangeStart": FIRST, "rangeEnd": SECOND}
    manager |= {"gateway": "198.19.0.254", "prefix": 24}
    (tmp_path / "10-it.conflist").write_text(json.dumps({"plugins": [{"ipam": manager}]}))
    assert pod_network.settings() == {
        "first": FIRST,
        "last": SECOND,
        "gateway": "198.19.0.254",
        "network": "198.19.0.0/24",
        "ipv6": False,
    }


def test_what_a_sandbox_got_is_found_by_its_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_network, "RESULTS", tmp_path)
    for uid, address in (("2", "127.0.0.1/8"), ("1", "198.19.0.1/24"), ("2", "198.19.0.2/24")):
        cached = {
            "cniArgs": [["K8S_POD_NAME", "it"], ["K8S_POD_UID", uid]],
            "result": {"ips": [{"address": address}]},
        }
        (tmp_path / f"{uid}-{address[:6]}").write_text(json.dumps(cached))
    (tmp_path / "half-written").write_text("{")
    (tmp_path / "of-nobody").write_text(json.dumps({"cniArgs": None, "result": None}))
    assert pod_network.addresses_of("2") == ["198.19.0.2"]
    assert pod_network.addresses_of("3") == []


def test_the_network_of_a_sandbox_is_found_without_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libcni keeps it: an interface outside of the sandbox has none."""
    monkeypatch.setattr(pod_network, "RESULTS", tmp_path)
    interfaces = [{"name": "veth0"}, {"name": "eth0", "sandbox": "/var/run/netns/it"}]
    cached = {"cniArgs": [["K8S_POD_UID", "1"]], "result": {"interfaces": interfaces}}
    (tmp_path / "1").write_text(json.dumps(cached))
    assert pod_network.namespace_of("1") == Path("/var/run/netns/it")
    with pytest.raises(FlowferryError, match="pod 2 is known here") as raised:
        pod_network.namespace_of("2")
    assert raised.value.code == "not_running"
