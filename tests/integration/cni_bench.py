# SPDX-License-Identifier: Apache-2.0
"""A node as the CNI plugin finds it: a switch with a client behind its uplink, and an agent.

The plugin is run as a container runtime runs it: a program, variables, JSON in and out.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowferry_p4.client import Session

from tests.integration.switch_bench import (
    DEADLINE,
    GATEWAY_MAC,
    P4INFO,
    PROGRAM,
    ROOT,
    Bench,
    Host,
    Namespace,
    wait_until,
)

PLUGIN = ROOT / "p4/flowferry_p4/cni/plugin.py"
IPAM = ROOT / "roles/pod_network/files/flowferry-ipam"
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"

# Connects once, or again and again, to a port where nobody listens. A packet that is lost is sent
# again after a second: too late.
_KNOCK = """
import socket, sys, time
limit = 0.9
end = time.monotonic() + float(sys.argv[2])
print("begun", flush=True)
while True:
    try:
        socket.create_connection((sys.argv[1], 9), limit).close()
    except ConnectionRefusedError:
        pass
    except OSError as error:
        print(error)
        sys.exit()
    if time.monotonic() >= end:
        break
    time.sleep(0.02)
print("answered")
"""


class Failed(Exception):
    """The plugin answered with an error."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(f"{answer['code']}: {answer['msg']}")
        self.code = answer["code"]
        self.text = answer["msg"]


class Pod(Namespace):
    """A namespace as a runtime makes it for a pod: with nothing in it."""

    def __init__(self, name: str = "pod") -> None:
        super().__init__(f"ff{name}")
        self.container = f"c-{self.name}"
        self.path = f"/run/netns/{self.name}"

    def reaches(self, address: str, seconds: float = 0.0) -> bool:
        """Whether every connection is answered, once or for some time: nobody listens, so refused.

        What it takes to find the gateway is in the first one.
        """
        return self.answered(self.knock(address, seconds), seconds)

    def knock(self, address: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        """Begin to do so, and go on meanwhile."""
        process = self.python(_KNOCK, address, str(seconds))
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        return process

    @staticmethod
    def answered(process: subprocess.Popen[str], seconds: float = 0.0) -> bool:
        # Not communicate(): "begun" may have brought more with it, which that does not look for.
        assert process.stdout is not None and process.stderr is not None
        process.wait(timeout=seconds + DEADLINE)
        said, errors = process.stdout.read(), process.stderr.read()
        assert not errors, errors
        assert said, "it ended without a word"
        print(said)  # for who reads of a failure: which error it was
        return said.endswith("answered\n")


def start_agent(namespace: str, directory: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """An agent in a network namespace, that has said that it is ready; its log is in agent.log.

    It has its own network namespace only: those of pods that come later are to be seen.
    """
    command = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
    command += [sys.executable, "-m", "flowferry_p4.agent", *arguments]
    log = directory / "agent.log"
    with log.open("a", encoding="utf-8") as out:
        agent = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT / "p4")},
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
        )
    assert agent.stdout is not None
    ready, _, _ = select.select([agent.stdout], [], [], DEADLINE)
    if not ready or agent.stdout.readline() != "ready\n":
        agent.kill()
        agent.wait()
        raise AssertionError(log.read_text(encoding="utf-8"))
    return agent


class Node:
    """The agent beside the switch, and the plugin."""

    def __init__(self, directory: Path, bench: Bench) -> None:
        self.directory = directory
        self.bench = bench
        self.client: Host = bench.hosts[0]
        # The client is the router, too, and knows who is behind its cable.
        neighbour = ["198.19.9.1", "lladdr", GATEWAY_MAC, "dev", "data0"]
        self.client.run("ip", "neigh", "replace", *neighbour)
        self.socket = directory / "agent.sock"
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        shutil.copy(IPAM, self.plugins)
        self.pods: list[Pod] = []
        self.agent = self.start_agent()

    # -- the agent

    def start_agent(self, *more: str) -> subprocess.Popen[str]:
        arguments = [
            "--node", "node1",
            *(more or ("--without-cluster",)), "--switch", self.bench.switch.address,
            "--uplink", "1@port1", "--next-hop-mac", self.client.mac,
            "--socket", str(self.socket), "--state", str(self.directory / "attachments"),
            "--metrics", "127.0.0.1:9560",
        ]  # fmt: skip
        return start_agent(self.bench.switch_namespace.name, self.directory, arguments)

    def log(self) -> str:
        return (self.directory / "agent.log").read_text(encoding="utf-8")

    def end_agent(self, kill: bool = False) -> None:
        if kill:
            self.agent.kill()
        else:
            self.agent.terminate()
        self.agent.communicate(timeout=DEADLINE)

    def wait_ready(self) -> None:
        wait_until("a pass of the agent", lambda: self.get("/readyz")[0] == 200)

    def get(self, path: str) -> tuple[int, str]:
        """From the agent's HTTP server, which is in the switch's namespace."""
        code = (
            "import sys, urllib.request as u, urllib.error as e\n"
            "try:\n"
            f"    r = u.build_opener(u.ProxyHandler({{}})).open('http://127.0.0.1:9560{path}')\n"
            "except e.HTTPError as error:\n"
            "    r = error\n"
            "print(r.status); print(r.read().decode())"
        )
        status, _, text = self.bench.switch_namespace.run(sys.executable, "-c", code).partition(
            "\n"
        )
        return int(status), text

    # -- what it is about

    def pod(self, name: str = "pod") -> Pod:
        pod = Pod(name)
        self.pods.append(pod)
        return pod

    def network(self, **more: Any) -> dict[str, Any]:
        return {
            "cniVersion": "1.1.0",
            "name": "flowferry",
            "type": "flowferry",
            "socket": str(self.socket),
            "ipam": {
                "type": "flowferry-ipam",
                "dataDir": str(self.directory / "ipam"),
                "rangeStart": "198.19.9.100",
                "rangeEnd": "198.19.9.163",
                "gateway": "198.19.9.254",
                "prefix": 24,
            },
            **more,
        }

    def call(
        self,
        command: str,
        pod: Pod | None = None,
        variables: Mapping[str, str] | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As a runtime calls it; Failed for an error."""
        own = {"CNI_COMMAND": command, "CNI_PATH": f"{self.plugins}:/usr/lib/cni"}
        if pod:
            own |= {
                "CNI_CONTAINERID": pod.container,
                "CNI_NETNS": pod.path,
                "CNI_IFNAME": "eth0",
                "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME={pod.name};K8S_POD_NAMESPACE=default",
            }
        done = subprocess.run(
            [str(PLUGIN)],
            input=json.dumps(self.network() if network is None else network),
            env={"PATH": os.environ["PATH"], **own, **(variables or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        if done.returncode:
            raise Failed(answer)
        assert "code" not in answer
        return answer

    def add(self, pod: Pod, **more: Any) -> dict[str, Any]:
        return self.call("ADD", pod, network=self.network(**more))

    def delete(self, pod: Pod) -> None:
        assert self.call("DEL", pod) == {}

    # -- what is left

    def interfaces(self) -> list[str]:
        """Of pods, on the node."""
        links = json.loads(self.bench.switch_namespace.run("ip", "-j", "link"))
        return sorted(link["ifname"] for link in links if link["ifname"].startswith("ffp"))

    def ports(self) -> list[str]:
        import grpc
        from flowferry_p4.switch.port_service import PortClient

        with grpc.insecure_channel(self.bench.switch.address) as channel:
            return [port for port in PortClient(channel).list() if "@ffp" in port]

    def routes(self) -> dict[str, int]:
        """Port by address, of hosts' own routes."""
        with Session.open(self.bench.switch.address, primary=False) as session:
            found = session.read(["route", "route_ipv6"])
        ways = {entry.match["destination"]: entry.params["port"] for entry in found}
        return {
            network.partition("/")[0]: port
            for network, port in ways.items()
            if network.endswith(("/32", "/128"))
        }

    def addresses(self) -> list[str]:
        """That the address manager has given."""
        folder = self.directory / "ipam"
        return sorted(f.name for f in folder.iterdir() if f.name[0] != ".")

    def nothing_left(self) -> None:
        assert self.interfaces() == []
        assert self.ports() == []
        assert self.routes() == {}
        assert list((self.directory / "attachments").iterdir()) == []
        assert self.addresses() == []

    def clean(self) -> None:
        """After each test: nothing of its pods is to be found by the next one."""
        if self.agent.poll() is not None:
            self.agent = self.start_agent()
        self.call("GC", network=self.network(**{"cni.dev/valid-attachments": []}))
        for pod in self.pods:
            pod.remove()
        self.pods.clear()

    def close(self) -> None:
        for pod in self.pods:
            pod.remove()
        if self.agent.poll() is None:
            self.end_agent()


@contextmanager
def node(directory: Path) -> Iterator[Node]:
    with_program = (str(PROGRAM), "--p4info", str(P4INFO))
    bench = Bench(directory, hosts=1, more=with_program)
    try:
        made = Node(directory, bench)
        try:
            yield made
        finally:
            made.close()
    finally:
        bench.close()
