# SPDX-License-Identifier: Apache-2.0
"""The CNI plugin by the specification (1.1), one behaviour after the other, with packets."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flowferry_p4.client import Entry, Session, Update

from tests.integration.cni_bench import ANNOTATIONS, Failed, Node, node
from tests.integration.switch_bench import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture(scope="module")
def running() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="ffcni-") as directory, node(Path(directory)) as made:
        made.wait_ready()
        yield made


@pytest.fixture
def cni(running: Node) -> Iterator[Node]:
    yield running
    running.clean()


def fails(cni: Node, code: int, *arguments: Any, **named: Any) -> str:
    with pytest.raises(Failed) as caught:
        cni.call(*arguments, **named)
    assert caught.value.code == code, caught.value
    return str(caught.value.text)


# -- VERSION


def test_version_needs_no_agent(cni: Node) -> None:
    told = cni.call("VERSION", network={"cniVersion": "1.0.0", "socket": "/nowhere"})
    assert told == {"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}


@pytest.mark.parametrize("version", ["0.4.0", "2.0.0", ""])
def test_another_version_is_refused(cni: Node, version: str) -> None:
    text = fails(cni, 1, "ADD", cni.pod(), network=cni.network(cniVersion=version))
    assert "1.0.0, 1.1.0" in text


# -- ADD


def test_a_pod_is_connected(cni: Node) -> None:
    pod = cni.pod()
    result = cni.add(pod)
    host, inside = result["interfaces"]
    assert result["cniVersion"] == "1.1.0"
    assert inside == {
        "name": "eth0",
        "mac": "02:ff:c6:13:09:64",
        "sandbox": pod.path,
        "mtu": 1500,
    }
    assert cni.interfaces() == [host["name"]]
    assert "sandbox" not in host
    assert result["ips"] == [
        {"address": "198.19.9.100/32", "gateway": "169.254.1.1", "interface": 1}
    ]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
    assert cni.ports() == [f"8@{host['name']}"]
    assert pod.reaches(cni.client.address), "the gateway's link address is not answered"
    neighbours = json.loads(pod.run("ip", "-j", "neigh"))
    assert [(n["dst"], n["lladdr"]) for n in neighbours] == [("169.254.1.1", "02:ff:00:00:00:01")]
    assert "PERMANENT" not in neighbours[0]["state"]


def test_pods_reach_each_other_and_are_reached(cni: Node) -> None:
    first, second = cni.pod("a"), cni.pod("b")
    addresses = [cni.add(pod)["ips"][0]["address"].partition("/")[0] for pod in (first, second)]
    assert first.reaches(addresses[1])
    assert second.reaches(addresses[0])
    listen = "import socket; s = socket.create_server(('', 7)); print('up', flush=True); s.accept()"
    server = first.python(listen)
    assert server.stdout is not None and server.stdout.readline() == "up\n"
    knock = f"import socket; socket.create_connection(('{addresses[0]}', 7), 5)"
    cni.client.run(sys.executable, "-c", knock)


def test_a_stream_of_a_pod_is_whole(cni: Node) -> None:
    """Large packets with unfinished checksums, as a pod's kernel hands them over."""
    pod = cni.pod()
    cni.add(pod)
    listen = (
        "import socket; s = socket.create_server(('', 7)); print('up', flush=True)\n"
        "c, _ = s.accept(); n = 0\nwhile b := c.recv(1 << 20): n += len(b)\nprint(n)"
    )
    server = cni.client.python(listen)
    assert server.stdout is not None and server.stdout.readline() == "up\n"
    send = (
        f"import socket; s = socket.create_connection(('{cni.client.address}', 7), 5)\n"
        "s.sendall(bytes(20 << 20))"
    )
    client = pod.python(send)
    _, errors = client.communicate(timeout=20)
    assert not errors
    assert server.stdout.readline() == f"{20 << 20}\n"


def test_both_ip_versions(cni: Node) -> None:
    ranges = [
        [{"subnet": "198.19.9.0/24", "rangeStart": "198.19.9.200"}],
        [{"subnet": "2001:2:0:9::/64"}],
    ]
    ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(cni.directory / "local")}
    first, second = cni.pod("a"), cni.pod("b")
    network = cni.network(ipam=ipam)
    results = [cni.call("ADD", pod, network=network) for pod in (first, second)]
    try:
        assert [one["gateway"] for one in results[0]["ips"]] == ["169.254.1.1", "fe80::1"]
        for address in (one["address"].partition("/")[0] for one in results[1]["ips"]):
            assert first.reaches(address)
    finally:
        for pod in (first, second):
            cni.call("DEL", pod, network=network)


def test_a_pod_gets_the_address_of_its_annotation(cni: Node) -> None:
    pod = cni.pod()
    fixed = {ANNOTATIONS: {"flowferry.io/address": "198.19.9.77"}}
    result = cni.add(pod, runtimeConfig=fixed)
    assert result["ips"][0]["address"] == "198.19.9.77/32"
    assert result["interfaces"][1]["mac"] == "02:ff:c6:13:09:4d"
    assert pod.reaches(cni.client.address)


def test_the_mtu_is_the_networks(cni: Node) -> None:
    pod = cni.pod()
    cni.add(pod, mtu=9000)
    (link,) = json.loads(pod.run("ip", "-j", "link", "show", "eth0"))
    assert link["mtu"] == 9000
    fails(cni, 7, "ADD", cni.pod(), network=cni.network(mtu="many"))


def test_dns_is_passed_on(cni: Node) -> None:
    dns = {"nameservers": ["10.96.0.10"]}
    assert cni.add(cni.pod(), dns=dns)["dns"] == dns


def test_version_1_0_has_no_mtu_in_its_result(cni: Node) -> None:
    result = cni.add(cni.pod(), cniVersion="1.0.0")
    assert result["cniVersion"] == "1.0.0"
    assert all("mtu" not in interface for interface in result["interfaces"])


def test_a_second_add_is_refused_and_harms_nothing(cni: Node) -> None:
    pod = cni.pod()
    cni.add(pod)
    fails(cni, 101, "ADD", pod)
    assert pod.reaches(cni.client.address)


def test_an_interface_that_is_there_is_not_taken(cni: Node) -> None:
    pod = cni.pod()
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    fails(cni, 101, "ADD", pod)
    cni.nothing_left()


def test_two_interfaces_of_one_pod(cni: Node) -> None:
    pod = cni.pod()
    ipam = {**cni.network()["ipam"], "type": "flowferry-ipam"}
    cni.add(pod)
    other = cni.network(ipam={**ipam, "dataDir": str(cni.directory / "ipam2")}, name="second")
    with pytest.raises(Failed) as caught:
        cni.call("ADD", pod, {"CNI_IFNAME": "eth1"}, network=other)
    assert caught.value.code == 101
    assert "a way out already" in caught.value.text
    assert len(cni.ports()) == 1
    assert pod.reaches(cni.client.address)


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"CNI_CONTAINERID": ""}, 4),
        ({"CNI_CONTAINERID": "../etc"}, 4),
        ({"CNI_IFNAME": "a name with spaces"}, 4),
        ({"CNI_IFNAME": ".."}, 4),
        ({"CNI_NETNS": ""}, 4),
        ({"CNI_NETNS": "/run/netns/nobody"}, 3),
        ({"CNI_PATH": "/nowhere"}, 7),
        ({"CNI_COMMAND": "MOVE"}, 4),
    ],
)
def test_what_a_runtime_gets_wrong_is_told(cni: Node, variables: dict[str, str], code: int) -> None:
    fails(cni, code, "ADD", cni.pod(), variables)
    cni.nothing_left()


def test_a_network_without_ipam_is_refused(cni: Node) -> None:
    assert "ipam.type" in fails(cni, 7, "ADD", cni.pod(), network=cni.network(ipam={}))


def test_what_is_not_json_is_told(cni: Node) -> None:
    assert "not JSON" in fails(cni, 6, "ADD", cni.pod(), network=[])  # type: ignore[arg-type]


def test_without_addresses_nothing_is_left(cni: Node) -> None:
    ipam = {**cni.network()["ipam"], "rangeEnd": "198.19.9.100"}
    cni.add(cni.pod("a"), ipam=ipam)
    text = fails(cni, 100, "ADD", cni.pod("b"), network=cni.network(ipam=ipam))
    assert "no address is free" in text
    assert len(cni.interfaces()) == len(cni.ports()) == len(cni.addresses()) == 1


def test_many_at_once_have_ports_of_their_own(cni: Node) -> None:
    pods = [cni.pod(f"m{n}") for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(cni.add, pods))
    assert len({result["ips"][0]["address"] for result in results}) == 12
    assert len({port.partition("@")[0] for port in cni.ports()}) == 12
    assert all(pod.reaches(cni.client.address) for pod in pods)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(cni.delete, pods))
    wait_until("the routes are gone", lambda: cni.routes() == {})
    cni.nothing_left()


# -- DEL


def test_del_removes_everything_as_often_as_it_is_asked(cni: Node) -> None:
    pod = cni.pod()
    cni.add(pod)
    cni.delete(pod)
    cni.delete(pod)
    (link,) = json.loads(pod.run("ip", "-j", "link"))
    assert link["ifname"] == "lo"
    wait_until("the routes are gone", lambda: cni.routes() == {})
    cni.nothing_left()


def test_del_without_a_namespace(cni: Node) -> None:
    """It may be gone, or a runtime that was started again does not know it any more."""
    pod = cni.pod()
    cni.add(pod)
    pod.remove()
    cni.pods.remove(pod)
    assert cni.call("DEL", pod, {"CNI_NETNS": ""}) == {}
    wait_until("the routes are gone", lambda: cni.routes() == {})
    cni.nothing_left()


def test_del_of_what_was_never_added(cni: Node) -> None:
    assert cni.call("DEL", cni.pod()) == {}


# -- CHECK


def test_check_finds_nothing_wrong(cni: Node) -> None:
    pod = cni.pod()
    result = cni.add(pod)
    assert cni.call("CHECK", pod, network=cni.network(prevResult=result)) == {}
    fails(cni, 7, "CHECK", pod)


@pytest.mark.parametrize("broken", ["address", "down", "gone", "port", "route", "deleted"])
def test_check_finds_what_is_wrong(cni: Node, broken: str) -> None:
    pod = cni.pod()
    result = cni.add(pod)
    network = cni.network(prevResult=result)
    name = cni.interfaces()[0]
    cni.wait_ready()
    if broken == "address":
        pod.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
    elif broken == "down":
        pod.run("ip", "link", "set", "eth0", "down")
    elif broken == "gone":
        cni.bench.switch_namespace.run("ip", "link", "del", name)
    elif broken == "port":
        import grpc
        from flowferry_p4.switch.port_service import PortClient

        with grpc.insecure_channel(cni.bench.switch.address) as channel:
            PortClient(channel).remove(8)
    elif broken == "route":
        route = Entry("route", {"destination": "198.19.9.100/32"})
        with Session.open(cni.bench.switch.address) as session:
            session.write([Update("DELETE", route)])
    else:
        cni.delete(pod)
    wanted = {
        "address": "the pod does not have the address 198.19.9.100",
        "down": "it is down",
        "gone": "the pod has no such interface",
        "port": f"{name} is not port 8",
        "route": "the switch has no route to 198.19.9.100",
        "deleted": "it was not added, or is deleted",
    }[broken]
    assert wanted in fails(cni, 100, "CHECK", pod, network=network)


# -- GC


def test_gc_removes_what_the_runtime_does_not_have(cni: Node) -> None:
    kept, leaked = cni.pod("kept"), cni.pod("leaked")
    cni.add(kept)
    cni.add(leaked)
    valid = [{"containerID": kept.container, "ifname": "eth0"}]
    assert cni.call("GC", network=cni.network(**{"cni.dev/valid-attachments": valid})) == {}
    assert kept.reaches(cni.client.address)
    assert len(cni.interfaces()) == len(cni.ports()) == 1
    assert cni.addresses() == ["198.19.9.100"]


def test_gc_leaves_other_networks_alone(cni: Node) -> None:
    pod = cni.pod()
    cni.add(pod)
    nothing = {"cni.dev/valid-attachments": []}
    cni.call("GC", network=cni.network(name="another", **nothing))
    assert pod.reaches(cni.client.address)


def test_what_nobody_remembers_is_collected(cni: Node) -> None:
    """As an agent leaves it that was killed: a cable without record, a port without cable."""
    switch = cni.bench.switch_namespace
    switch.run("ip", "link", "add", "ffp000000000000", "type", "veth", "peer", "name", "lost")
    cni.call("GC", network=cni.network(**{"cni.dev/valid-attachments": []}))
    assert cni.interfaces() == []
    cni.nothing_left()


# -- STATUS


def test_status(cni: Node) -> None:
    assert cni.call("STATUS") == {}
    fails(cni, 7, "STATUS", variables={"CNI_PATH": "/nowhere"})


# -- the agent's end


def test_without_the_agent_the_runtime_is_to_try_again(cni: Node) -> None:
    pod = cni.pod()
    cni.add(pod)
    cni.end_agent()
    assert "see that it runs" in fails(cni, 11, "ADD", cni.pod("b"))
    fails(cni, 11, "DEL", pod)
    fails(cni, 50, "STATUS")
    assert pod.reaches(cni.client.address), "packets need the agent"
    cni.agent = cni.start_agent()
    cni.delete(pod)


def test_an_agent_that_was_killed_goes_on_where_it_was(cni: Node) -> None:
    pod = cni.pod()
    result = cni.add(pod)
    cni.wait_ready()
    knocking = pod.knock(cni.client.address, 4)
    cni.end_agent(kill=True)
    cni.agent = cni.start_agent()
    cni.wait_ready()
    assert pod.answered(knocking, 4), "packets were lost while there was no agent"
    assert cni.call("CHECK", pod, network=cni.network(prevResult=result)) == {}
    assert "flowferry_agent_writes_total 0" in cni.get("/metrics")[1]
    cni.delete(pod)


def test_what_an_agent_was_killed_over_is_collected(cni: Node) -> None:
    """The record is there, and nothing of what it says."""
    pod = cni.pod()
    cni.add(pod)
    name = cni.interfaces()[0]
    cni.bench.switch_namespace.run("ip", "link", "del", name)
    cni.end_agent(kill=True)
    cni.agent = cni.start_agent()
    cni.wait_ready()
    cni.delete(pod)
    wait_until("the routes are gone", lambda: cni.routes() == {})
    cni.nothing_left()


def test_a_switch_that_has_lost_everything_gets_it_again(cni: Node) -> None:
    """Without --pin neither ports nor entries outlive its process."""
    pods = [cni.pod("a"), cni.pod("b")]
    for pod in pods:
        cni.add(pod)
    before = (cni.ports(), cni.routes())
    cni.bench.switch.end()
    cni.bench.switch = cni.bench.start()
    cni.bench.switch.wait_ready()
    wait_until("ports and routes are there again", lambda: (cni.ports(), cni.routes()) == before)
    assert all(pod.reaches(cni.client.address) for pod in pods)


# -- in a chain


def test_bandwidth_after_it(cni: Node) -> None:
    """A plugin that limits the pod's interface finds the node's end of it in the result."""
    pod = cni.pod()
    result = cni.add(pod, cniVersion="1.0.0")
    limits = {"ingressRate": 8_000_000, "ingressBurst": 800_000}
    network = {"cniVersion": "1.0.0", "name": "flowferry", "type": "bandwidth",
               "prevResult": result, **limits}  # fmt: skip
    done = subprocess.run(
        cni.bench.switch_namespace.command("/usr/lib/cni/bandwidth"),
        input=json.dumps(network),
        env={**os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": pod.container,
             "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0", "CNI_PATH": "/usr/lib/cni"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["ips"] == result["ips"]
    name = cni.interfaces()[0]
    assert "tbf" in cni.bench.switch_namespace.run("tc", "qdisc", "show", "dev", name)
    assert pod.reaches(cni.client.address)


# -- how long it takes, and what is told of it


def test_add_is_measured(cni: Node, record_property: Any) -> None:
    """No limit is tested, as other things run on the machine: the figure is printed."""
    took = []
    for number in range(20):
        pod = cni.pod(f"t{number}")
        begin = time.perf_counter()
        cni.add(pod)
        took.append((time.perf_counter() - begin) * 1000)
        cni.delete(pod)
    record_property("cni_add_p50_ms", statistics.median(took))
    print(f"\nADD: p50 {statistics.median(took):.1f} ms, slowest of 20 {max(took):.1f} ms")
    status, text = cni.get("/metrics")
    assert status == 200
    assert 'flowferry_agent_cni_calls_total{command="ADD",code="0"}' in text
    assert cni.get("/healthz")[0] == 200
    assert cni.get("/nowhere")[0] == 404
