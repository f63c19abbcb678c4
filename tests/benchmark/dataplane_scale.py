# SPDX-License-Identifier: Apache-2.0
"""A node's data plane with few and with many Services, beside kube-proxy where one is given.

    python -m tests.benchmark.dataplane_scale --output DIRECTORY [--kube-proxy BINARY]

The agent and its switch, and kube-proxy (nftables mode), each on a node of its own, get the same
Services from an API server made for tests. Most endpoints are elsewhere and never reached; one
Service leads to a server on the node. Measured: the time until all is in the tables, and until a
Service that is new works; memory; and what packets through a Service cost. Writes
dataplane_scale.json and, of it, dataplane_scale.png. Needs root and an idle machine; takes some
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.benchmark.scale_figures import draw, summary
from tests.benchmark.switch_speed import ECHO, PING, SECONDS, SINK, SOURCE
from tests.integration.switch_bench import Namespace, run, wait_until
from tests.integration.switch_traffic import line
from tests.integration.two_nodes import ClusterNode, Fabric, kubeconfig_of
from tests.unit.p4.agent import kube
from tests.unit.p4.agent.fake_api import FakeApi

SIZES = ((1, 10), (100, 10), (1_000, 10))
"""Services, and endpoints of each."""
TURNS = 3
NEW = 5
"""Services that come later, one after the other."""
PINGS = 2_000
LIMIT = 600.0
TCP_PORT, UDP_PORT = 7000, 7001
OTHER, OTHER_MAC = "198.19.9.22", "02:ff:00:00:09:12"
"""Where the endpoints are that nobody reaches."""

# Knocks with datagrams until one comes back; the time at that moment, which all processes share.
FIRST_ANSWER = r"""
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.005)
end = time.monotonic() + float(sys.argv[2])
print("begun", flush=True)
while time.monotonic() < end:
    try:
        s.sendto(b"x", (sys.argv[1], 7001))
        s.recv(16)
        print(time.monotonic())
        break
    except OSError:
        pass
else:
    print("never")
"""


class DataPlane(Protocol):
    """A node with two pods; what serves Services begins with start()."""

    client: Namespace
    server: Namespace
    server_address: str

    def start(self) -> None: ...

    def services(self) -> int:
        """How many virtual addresses and ports are in the tables."""

    def memory(self) -> dict[str, int]:
        """Bytes, by who has them."""


# --- objects ----------------------------------------------------------------------------------
def cluster_address(number: int) -> str:
    return f"10.96.{number >> 8}.{number & 255}"


Ports = tuple[tuple[str, int], ...]
STREAMS: Ports = (("TCP", TCP_PORT),)
BOTH: Ports = (*STREAMS, ("UDP", UDP_PORT))


def service(name: str, address: str, ports: Ports) -> kube.Object:
    """One that both data planes serve."""
    made = kube.service(name, address)
    made |= {"apiVersion": "v1", "kind": "Service"}
    made["spec"] |= {"clusterIP": address, "ipFamilies": ["IPv4"], "sessionAffinity": "None"}
    made["spec"]["ports"] = [{**port, "targetPort": port["port"]} for port in _named(ports)]
    return made


def _named(ports: Ports) -> list[dict[str, Any]]:
    return [{"name": kind.lower(), "protocol": kind, "port": port} for kind, port in ports]


def slice_of(name: str, ports: Ports, *endpoints: kube.Object) -> kube.Object:
    made = kube.slice_of(name, *endpoints)
    made |= {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
    made["ports"] = _named(ports)
    return made


def put(api: FakeApi, name: str, number: int, ports: Ports, *endpoints: kube.Object) -> None:
    api.put("slices", slice_of(name, ports, *endpoints))
    api.put("services", service(name, cluster_address(number), ports))


def fill(api: FakeApi, services: int, endpoints: int, server: str) -> None:
    """Services with endpoints elsewhere, and one with the server as its only one."""
    for number in range(services):
        ends = [
            kube.endpoint(f"10.{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", "node2")
            for n in range(number * endpoints + 1, (number + 1) * endpoints + 1)
        ]
        put(api, f"filler{number}", 256 + number, STREAMS, *ends)
    put(api, "measured", 1, BOTH, kube.endpoint(server))


# --- the two ----------------------------------------------------------------------------------
@dataclass
class Switched:
    """Agent and switch; the pods are made by the CNI plugin."""

    node: ClusterNode
    client: Namespace
    server: Namespace
    server_address: str

    def start(self) -> None:
        self.node.agent = self.node.start_agent()

    def services(self) -> int:
        """Without the entries for backends' own addresses, which come with the Services."""
        return sum("service_id" in entry for entry in self.node.entries("service"))

    def memory(self) -> dict[str, int]:
        switch = self.node.switch.process.pid
        return {
            "agent": resident(self.node.agent.pid),
            "switch": resident(switch),
            "tables": tables_of(switch),
        }


@contextmanager
def switched(directory: Path, fabric: Fabric, api: FakeApi) -> Iterator[Switched]:
    kubeconfig = kubeconfig_of(directory, api)
    api.put("nodes", kube.node("node1"))
    api.put("nodes", kube.node("node2", "10.100.0.0/14", mac=OTHER_MAC, addresses=(OTHER,)))
    node = ClusterNode(1, directory, fabric, kubeconfig)
    try:
        client, server = node.add(api, "client"), node.add(api, "server")
        node.agent.kill()  # the tables are to be filled by one that finds all Services there
        node.agent.wait()
        yield Switched(node, client.pod, server.pod, server.address)
    finally:
        node.close()


class Proxied:
    """A node that routes between two pods, with kube-proxy."""

    def __init__(self, directory: Path, fabric: Fabric, api: FakeApi, binary: Path) -> None:
        self.directory = directory
        self.kubeconfig = kubeconfig_of(directory, api)
        self.binary = binary
        self.process: subprocess.Popen[bytes] | None = None
        self.node = Namespace("ffproxied")
        fabric.plug(self.node, "mgmt0", "mgmt", "02:ff:00:00:08:13")
        self.node.run("ip", "address", "add", "10.99.0.13/24", "dev", "mgmt0")
        self.node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        self.client, self.server = self._pod(1), self._pod(2)
        self.server_address = "198.18.200.2"
        item = kube.node("node1")
        item |= {"apiVersion": "v1", "kind": "Node"}
        item["status"]["addresses"] = [{"type": "InternalIP", "address": "10.99.0.13"}]
        api.put("nodes", item)

    def _pod(self, number: int) -> Namespace:
        pod, address = Namespace(f"ffprox{number}"), f"198.18.200.{number}"
        end = f"pod{number}"
        run("ip", "link", "add", "eth0", "netns", pod.name, "type", "veth",
            "peer", "name", end, "netns", self.node.name)  # fmt: skip
        self.node.run("ip", "link", "set", end, "up")
        self.node.run("ip", "address", "add", "169.254.1.1/32", "dev", end)
        self.node.run("ip", "route", "add", f"{address}/32", "dev", end)
        pod.run("ip", "link", "set", "eth0", "up")
        pod.run("ip", "address", "add", f"{address}/32", "dev", "eth0")
        pod.run("ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink")
        return pod

    def start(self) -> None:
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": "node1",
            "clientConnection": {
                "kubeconfig": str(self.kubeconfig),
                "contentType": "application/json",
                "qps": 1000,
            },
            "conntrack": {"maxPerCore": 0, "min": 0},  # this machine's own limits stay
        }
        path = self.directory / "kube-proxy.json"
        path.write_text(json.dumps(configuration), encoding="utf-8")
        log = (self.directory / "kube-proxy.log").open("ab")
        self.process = subprocess.Popen(
            self.node.command(str(self.binary), "--config", str(path)),
            # The API server made for tests lists, and then watches.
            env={**os.environ, "KUBE_FEATURE_WatchListClient": "false"},
            stdout=log,
            stderr=log,
        )

    def services(self) -> int:
        """Elements of its map of virtual addresses."""
        told = self.node.run("nft", "-j", "list", "map", "ip", "kube-proxy", "service-ips",
                             check=False)  # fmt: skip
        if not told.startswith("{"):
            return 0
        found = [item["map"] for item in json.loads(told)["nftables"] if "map" in item]
        return len(found[0].get("elem", ())) if found else 0

    def memory(self) -> dict[str, int]:
        assert self.process is not None
        return {"kube-proxy": resident(self.process.pid)}

    def close(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(30)
        for space in (self.client, self.server, self.node):
            space.remove()


def resident(pid: int) -> int:
    """Resident memory of a process, bytes."""
    for text in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if text.startswith("VmRSS:"):
            return int(text.split()[1]) * 1024
    raise LookupError(f"process {pid} has no memory")


def tables_of(pid: int) -> int:
    """What the BPF maps that a process has open take in the kernel, bytes."""
    found: dict[str, int] = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        fields = dict(
            text.split(":", 1)
            for text in entry.read_text(encoding="ascii").splitlines()
            if ":" in text
        )
        if "map_id" in fields:
            found[fields["map_id"]] = int(fields["memlock"])
    return sum(found.values())


# --- what is measured -------------------------------------------------------------------------
def measure(plane: DataPlane, api: FakeApi, services: int, endpoints: int) -> dict[str, Any]:
    fill(api, services, endpoints, plane.server_address)
    began = time.monotonic()
    plane.start()
    wanted = services + len(BOTH)
    wait_until(
        f"{wanted} virtual ports are in the tables", lambda: plane.services() >= wanted, LIMIT
    )
    converged = time.monotonic() - began
    measured = cluster_address(1)
    with served(plane):
        first_answer(plane, measured)
        return {
            "services": services,
            "endpoints": services * endpoints,
            "converge_s": converged,
            "memory": plane.memory(),
            "new_service_s": new_services(plane, api),
            **packets(plane, measured),
        }


@contextmanager
def served(plane: DataPlane) -> Iterator[None]:
    echo = plane.server.python(ECHO, plane.server_address)
    assert line(echo) == "listening"
    yield
    echo.kill()


def first_answer(plane: DataPlane, address: str) -> Callable[[], float]:
    """Begin to knock; the function waits for the answer and has the moment of it."""
    knocking = plane.client.python(FIRST_ANSWER, address, str(LIMIT))
    assert line(knocking) == "begun"

    def answered() -> float:
        said = line(knocking)
        assert said != "never", f"{address} did not answer within {LIMIT:g} s"
        return float(said)

    return answered


def new_services(plane: DataPlane, api: FakeApi) -> float:
    """Median time from a Service's creation until its first answer, seconds."""
    times = []
    for number in range(2, 2 + NEW):
        answered = first_answer(plane, cluster_address(number))
        began = time.monotonic()
        put(api, f"new{number}", number, BOTH, kube.endpoint(plane.server_address))
        times.append(answered() - began)
    return statistics.median(times)


def packets(plane: DataPlane, address: str) -> dict[str, float]:
    """Through the Service and directly, by turns: round trips (p50, µs) and TCP (Gbit/s)."""
    ways = {"service": address, "direct": plane.server_address}
    round_trips: dict[str, list[int]] = {name: [] for name in ways}
    streams: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, target in ways.items():
            told = plane.client.run("python3", "-c", PING, target, str(PINGS))
            round_trips[name] += [int(text) for text in told.split()]
            streams[name].append(_stream(plane, target))
    result = {}
    for name in ways:
        result[f"{name}_rtt_p50_us"] = statistics.median(round_trips[name]) / 1e3
        result[f"{name}_tcp_gbit"] = statistics.median(streams[name])
    return result


def _stream(plane: DataPlane, target: str) -> float:
    sink = plane.server.python(SINK, "tcp", plane.server_address, str(SECONDS))
    assert line(sink) == "listening"
    source = plane.client.python(SOURCE, "tcp", target, str(SECONDS + 2))
    _, bits = line(sink).split()
    source.wait(SECONDS + 30)
    sink.kill()
    return float(bits) / 1e9


def measure_all(directory: Path, kube_proxy: Path | None) -> list[dict[str, Any]]:
    """A row for each size and data plane; each on a node that is new."""
    rows = []
    for number, (services, endpoints) in enumerate(SIZES):
        for name in ("P4 switch", *(("kube-proxy",) if kube_proxy else ())):
            print(f"{services} Services with {endpoints} endpoints each: {name}", flush=True)
            place = directory / f"{number}-{name.replace(' ', '-')}"
            place.mkdir()
            with ExitStack() as stack:
                fabric = Fabric()
                stack.callback(fabric.remove)
                api = fabric.api()
                stack.callback(api.stop)
                plane: DataPlane
                if name == "P4 switch":
                    plane = stack.enter_context(switched(place, fabric, api))
                else:
                    assert kube_proxy is not None
                    proxied = Proxied(place, fabric, api, kube_proxy)
                    stack.callback(proxied.close)
                    plane = proxied
                rows.append({"by": name, **measure(plane, api, services, endpoints)})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for what it writes")
    parser.add_argument("--kube-proxy", type=Path, help="a kube-proxy to compare with")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        rows = measure_all(Path(directory), options.kube_proxy)
    document = {"load_at_start": os.getloadavg()[0], "rows": rows}
    path = options.output / "dataplane_scale.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(rows, options.output / "dataplane_scale.png")
    print(summary(rows))


if __name__ == "__main__":
    main()
