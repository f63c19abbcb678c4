# SPDX-License-Identifier: Apache-2.0
"""Two nodes with a switch and an agent each, a client, and an API server that tests write to.

Links between them are those of a bridge, on which link addresses count. The API server is reached
by a second bridge, as a management network.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flowferry_p4.client import Session
from flowferry_p4.cni.interfaces import namespace

from tests.integration.cni_bench import IPAM, PLUGIN, Pod, start_agent
from tests.integration.switch_bench import (
    DEADLINE,
    P4INFO,
    PROGRAM,
    ROOT,
    Namespace,
    SwitchProcess,
    run,
    wait_until,
)
from tests.unit.p4.agent import kube
from tests.unit.p4.agent.fake_api import FakeApi

CLIENT, CLIENT_MAC = "198.19.9.11", "02:ff:00:00:09:0b"
CLIENT6 = "2001:2:0:9::b"
API = "10.99.0.1"
Made = TypeVar("Made")


class Fabric(Namespace):
    """Two bridges, and who is plugged in."""

    def __init__(self) -> None:
        super().__init__("fffab")
        for bridge in ("data", "mgmt"):
            self.run("ip", "link", "add", bridge, "type", "bridge")
            self.run("ip", "link", "set", bridge, "up")
        self.run("ip", "address", "add", f"{API}/24", "dev", "mgmt")
        self._cables = 0

    def plug(self, host: Namespace, interface: str, bridge: str, mac: str) -> None:
        """By a cable for jumbo frames: pods have smaller ones, or as large."""
        self._cables += 1
        end = f"c{self._cables}"
        run(
            "ip", "link", "add", interface, "address", mac, "mtu", "9000", "netns", host.name,
            "type", "veth", "peer", "name", end, "mtu", "9000", "netns", self.name,
        )  # fmt: skip
        self.run("ip", "link", "set", end, "master", bridge, "up")
        host.run("ip", "link", "set", interface, "up")

    def api(self) -> FakeApi:
        """Its socket is in the fabric's namespace, its threads are this process's."""
        return self._within(lambda: FakeApi("0.0.0.0"))

    def again(self, api: FakeApi) -> None:
        """Start one again that was stopped."""
        self._within(api.start)

    def _within(self, act: Callable[[], Made]) -> Made:
        made: list[Made] = []

        def enter() -> None:
            with namespace(f"/run/netns/{self.name}") as handle:
                _enter(handle)
            made.append(act())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]


def _enter(handle: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(handle, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the fabric's namespace")


class ClusterNode(Namespace):
    """A node: its switch, with the bridge at port 1 and its kernel at port 2, and its agent."""

    def __init__(self, number: int, directory: Path, fabric: Fabric, kubeconfig: Path) -> None:
        self.node = f"node{number}"
        super().__init__(self.node)
        self.number = number
        self.directory = directory / self.node
        self.plugins = self.directory / "plugins"
        self.plugins.mkdir(parents=True)
        (self.plugins / IPAM.name).symlink_to(IPAM)
        self.kubeconfig = kubeconfig
        self.address = f"198.19.9.{20 + number}"
        self.mac = f"02:ff:00:00:09:1{number}"
        self.pods: list[Pod] = []
        fabric.plug(self, "up0", "data", self.mac)
        fabric.plug(self, "mgmt0", "mgmt", f"02:ff:00:00:08:1{number}")
        self.run("ip", "address", "add", f"10.99.0.{10 + number}/24", "dev", "mgmt0")
        self.run("ip", "link", "add", "ffhost", "type", "veth", "peer", "name", "ffhostp")
        self.run("ip", "link", "set", "ffhost", "up")
        self.run("ip", "address", "add", f"{self.address}/32", "dev", "ffhost")
        self.run("ip", "route", "add", "default", "via", "169.254.1.1", "dev", "ffhost", "onlink")
        with ExitStack() as started:  # what has started ends if the next does not
            started.callback(self.remove)
            self.switch = self.start_switch()
            started.callback(self.end_switch)
            self.agent = self.start_agent()
            started.pop_all()

    def start_switch(self) -> SwitchProcess:
        """Pinned: its program forwards on while its process is started again."""
        pin = self.directory / "pin"
        (pin / "maps").mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(pin / "maps"):
            run("mount", "-t", "bpf", "bpf", str(pin / "maps"))
        switch = SwitchProcess(
            self, self.directory / "p4rt", ["1@up0", "2@ffhostp"],
            str(PROGRAM), "--p4info", str(P4INFO), "--pin", str(pin),
        )  # fmt: skip
        switch.wait_ready()
        return switch

    def start_agent(self) -> subprocess.Popen[str]:
        arguments = [
            "--node", self.node,
            "--kubeconfig", str(self.kubeconfig), "--switch", self.switch.address,
            "--uplink", "1@up0", "--next-hop-mac", CLIENT_MAC,
            "--host-port", "2@ffhost", "--data-address", self.address,
            "--socket", str(self.directory / "agent.sock"),
            "--state", str(self.directory / "attachments"),
        ]  # fmt: skip
        return start_agent(self.name, self.directory, arguments)

    def log(self) -> str:
        return (self.directory / "agent.log").read_text(encoding="utf-8")

    def restart_agent(self) -> None:
        self.agent.kill()
        self.agent.communicate(timeout=DEADLINE)
        self.agent = self.start_agent()

    def restart_switch(self) -> None:
        self.switch.end(9)
        self.switch = self.start_switch()

    def end_switch(self) -> None:
        """And what it has pinned."""
        self.switch.end()
        unpin = self.command(
            sys.executable, "-m", "flowferry_p4.switch", "--unpin", str(self.directory / "pin")
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "p4")}
        subprocess.run(unpin, env=environment, check=True)
        run("umount", str(self.directory / "pin" / "maps"), check=False)

    # -- pods

    def network(self, mtu: int = 1500) -> dict[str, Any]:
        """IPv4 and IPv6; each node has its own part of one network."""
        first = f"198.19.9.{100 + 50 * (self.number - 1)}"
        last = f"198.19.9.{149 + 50 * (self.number - 1)}"
        begin6 = f"2001:2:0:9::{self.number}00"
        ranges = [
            [{"subnet": "198.19.9.0/24", "rangeStart": first, "rangeEnd": last}],
            [{"subnet": "2001:2:0:9::/64", "rangeStart": begin6}],
        ]
        return {
            "cniVersion": "1.1.0",
            "name": "flowferry",
            "type": "flowferry",
            "socket": str(self.directory / "agent.sock"),
            "mtu": mtu,
            "ipam": {
                "type": "host-local",
                "ranges": ranges,
                "dataDir": str(self.directory / "local"),
            },
        }

    def cni(self, command: str, pod: Pod, mtu: int = 1500) -> dict[str, Any]:
        variables = {
            "CNI_COMMAND": command,
            "CNI_PATH": f"{self.plugins}:/usr/lib/cni",
            "CNI_CONTAINERID": pod.container,
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_UID=uid-{pod.name}",
        }
        done = subprocess.run(
            [str(PLUGIN)],
            input=json.dumps(self.network(mtu)),
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{self.log()}"
        return dict(json.loads(done.stdout)) if done.stdout else {}

    def add(self, api: FakeApi, name: str = "pod", mtu: int = 1500) -> RunningPod:
        """A pod that runs, and that the API knows."""
        pod = Pod(name)
        self.pods.append(pod)
        result = self.cni("ADD", pod, mtu)
        found = [one["address"].partition("/")[0] for one in result["ips"]]
        running = RunningPod(pod, self.node, found[0], found[1])
        api.put("pods", kube.pod(pod.name, self.node, *found))
        return running

    def entries(self, table: str) -> list[Mapping[str, Any]]:
        with Session.open(self.switch.address, primary=False) as session:
            return [{**entry.match, **entry.params} for entry in session.read(table)]

    def is_for_clients(self, address: str) -> bool:
        """Whether flows to a virtual address follow their client's last one."""
        with Session.open(self.switch.address, primary=False) as session:
            found = [one for one in session.read("service") if one.match["address"] == address]
        return [one.action for one in found] == ["select_client"]

    def close(self) -> None:
        self.agent.kill()
        self.agent.communicate(timeout=DEADLINE)
        self.end_switch()
        for pod in self.pods:
            pod.remove()
        self.remove()


class RunningServer:
    """It says its name to whoever connects, by TCP or UDP, of either IP version."""

    def __init__(self, where: Namespace, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.server = where.python(_SERVER, name)
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "up\n"


class RunningPod(RunningServer):
    """A pod that does so."""

    def __init__(self, pod: Pod, node: str, address: str, address6: str) -> None:
        super().__init__(pod, pod.name, address)
        self.pod, self.node, self.address6 = pod, node, address6

    def endpoint(self, version: int = 4) -> kube.Object:
        return kube.endpoint(self.address if version == 4 else self.address6, self.node)


_SERVER = """
import socket, sys, threading
name = sys.argv[1].encode()
def serve(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(name + b" " + data)
        except OSError:
            pass
def datagrams(s):
    while True:
        data, whom = s.recvfrom(65536)
        # No longer than the question, which may have been as long as a packet can be.
        s.sendto((name + b" " + data)[:max(len(data), 100)], whom)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::", 8080))
threading.Thread(target=datagrams, args=(udp,), daemon=True).start()
server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

_ASK = """
import socket, sys
address, port, kind, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
for number in range(count):
    if kind == "tcp":
        s = socket.create_connection((address, port), 3)
    else:
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        s.connect((address, port))
    s.settimeout(3)
    s.send(b"hello")
    print(s.recv(100).split()[0].decode())
    s.close()
"""

_ASK_FROM = """
import json, socket, struct, sys
port, whom = int(sys.argv[1]), json.loads(sys.argv[2])
for address, there in whom:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(3)
    s.bind(("", port))
    s.connect((address, there))
    s.send(b"hello")
    print(s.recv(100).split()[0].decode())
    # A reset, so that nothing waits on either side when the port is used again.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"""


_KEEP = """
import json, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kept = {}
for number in range(count):
    s = socket.create_connection((address, port), 3)
    s.settimeout(3)
    kept[s.getsockname()[1]] = s
def talk():
    said = {}
    for s in kept.values():
        try:
            s.send(b"hello")
        except OSError:
            pass
    for number, s in kept.items():
        try:
            said[number] = s.recv(100).split()[0].decode()
        except (OSError, IndexError):
            said[number] = None
    print(json.dumps(said), flush=True)
talk()
for line in sys.stdin:
    talk()
"""


class Connections:
    """Connections of a client that stay; each says which pod answers, again and again."""

    def __init__(self, who: Namespace, address: str, port: int, count: int) -> None:
        self._process = who.python(_KEEP, address, str(port), str(count))
        self.first = self._hear()

    def talk(self) -> dict[int, str | None]:
        """The pod by the client's port; None where the connection is broken."""
        assert self._process.stdin is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[int, str | None]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        return {int(number): name for number, name in json.loads(line).items()}

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def ask(
    who: Namespace, address: str, port: int = 8080, kind: str = "tcp", count: int = 1
) -> list[str]:
    """The names of the pods that answered, one for each connection; every one has to."""
    told = who.run(sys.executable, "-c", _ASK, address, str(port), kind, str(count))
    return told.split()


def ask_from(who: Namespace, port: int, whom: list[tuple[str, int]]) -> list[str]:
    """The same for connections one after another, all of them from one port."""
    return who.run(sys.executable, "-c", _ASK_FROM, str(port), json.dumps(whom)).split()


_SIZE = """
import socket, sys, threading
address, port, kind, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if kind == "TCP":
    s = socket.create_connection((address, port), 3)
    threading.Thread(target=s.sendall, args=(b"-" * 1_000_000,)).start()
    heard = 0
    while heard < 1_000_000:
        heard += len(s.recv(65536))
    print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
else:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    # IP_MTU_DISCOVER and its twin for IPv6: never in fragments
    s.setsockopt(*((socket.IPPROTO_IPV6, 23) if ":" in address else (socket.IPPROTO_IP, 10)), 2)
    s.settimeout(3)
    s.connect((address, port))
    s.send(b"-" * size)
    print(len(s.recv(65536)))
"""


def size(who: Namespace, address: str, port: int, kind: str, size: int) -> int:
    """Of segments in a connection that brings a megabyte there and back; or of a datagram."""
    return int(who.run(sys.executable, "-c", _SIZE, address, str(port), kind, str(size)))


class Cluster:
    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.fabric = Fabric()
        stack.callback(self.fabric.remove)
        self.api = self.fabric.api()
        stack.callback(self.api.stop)
        kubeconfig = kubeconfig_of(directory, self.api)
        self.client = Namespace("ffcli")
        stack.callback(self.client.remove)
        self.fabric.plug(self.client, "data0", "data", CLIENT_MAC)
        self.client.run("ip", "address", "add", f"{CLIENT}/24", "dev", "data0")
        self.client.run("ip", "address", "add", f"{CLIENT6}/64", "dev", "data0", "nodad")
        self.client.run("ip", "route", "add", "203.0.113.0/24", "dev", "data0")
        self.client.run("ip", "route", "add", "2001:db8::/64", "dev", "data0")
        self.nodes = []
        for number in (1, 2):
            self.api.put("nodes", kube.node(f"node{number}"))
            node = ClusterNode(number, directory, self.fabric, kubeconfig)
            stack.callback(node.close)
            self.nodes.append(node)

    def serve(self, service: kube.Object, *pods: RunningPod) -> None:
        """A Service, and its endpoints of both IP versions."""
        name = service["metadata"]["name"]
        self.api.put("services", service)
        protocol = service["spec"]["ports"][0]["protocol"]
        for version in (4, 6):
            ends = [pod.endpoint(version) for pod in pods]
            family = f"IPv{version}"
            item = kube.slice_of(name, *ends, family=family, protocol=protocol)
            item["metadata"]["name"] += protocol.lower()
            self.api.put("slices", item)

    def ready(self, node: ClusterNode, ready: bool) -> None:
        """What the API says of a node."""
        item = self.api.get("nodes", f"/{node.node}")
        item["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]
        self.api.put("nodes", item)

    def neighbour(self, address: str) -> str:
        """The link address by which the client knows it."""
        told = json.loads(self.client.run("ip", "-j", "neigh", "show", address))
        return str(told[0].get("lladdr", "")) if told else ""

    def wait_for(self, address: str, *pods: RunningPod, protocol: str = "TCP") -> None:
        """Until both switches lead an address, of either IP version, to these pods, and know
        their answers, and who reaches them by their own addresses.
        """
        suffix = "_ipv6" if ":" in address else ""
        wanted = {pod.address6 if suffix else pod.address for pod in pods}
        carried = getattr(socket, f"IPPROTO_{protocol}")

        def leads(node: ClusterNode) -> bool:
            services, replies = (
                {one["address"]: one for one in node.entries(table) if one["protocol"] == carried}
                for table in (f"service{suffix}", f"reply{suffix}")
            )
            if not {address, *wanted} <= services.keys() or not wanted <= replies.keys():
                return False
            number = services[address]["service_id"]
            led_to = {b["backend_id"] for b in node.entries("bucket") if b["service_id"] == number}
            backends = {b["backend_id"]: b["address"] for b in node.entries(f"backend{suffix}")}
            return {backends.get(one) for one in led_to} == wanted

        for node in self.nodes:
            wait_until(f"{node.node} leads {address} to {sorted(wanted)}", partial(leads, node))


def kubeconfig_of(directory: Path, api: FakeApi) -> Path:
    """A file that leads to an API server in the fabric."""
    path = directory / "kubeconfig"
    path.write_text(json.dumps(_kubeconfig(f"http://{API}:{api.port}")))
    return path


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }


@contextmanager
def two_nodes(directory: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(directory, stack)
