# SPDX-License-Identifier: Apache-2.0
"""BMv2 as the switch of a node: an agent keeps its tables, and connections go through it.

make integration FLOWFERRY_BMV2=/path/to/simple_switch_grpc

BMv2 has the ports that it was started with. So the pods are connected beforehand, as the CNI plugin
cannot do it there, and the agent finds their records.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flowferry_p4.client import P4Error, Session
from flowferry_p4.client.traffic import EndpointTraffic
from flowferry_p4.cni.records import Record, Records

from tests.integration.cni_bench import start_agent
from tests.integration.program_bench import BMV2
from tests.integration.switch_bench import DEADLINE, GATEWAY_MAC, P4INFO, Host, wait_until
from tests.integration.two_nodes import Connections, Fabric, RunningServer, ask, kubeconfig_of
from tests.unit.p4.agent import kube

pytestmark = pytest.mark.skipif(
    not BMV2 or os.geteuid() != 0,
    reason="run: sudo make integration FLOWFERRY_BMV2=/path/to/simple_switch_grpc",
)

OUTSIDE = "203.0.113.80"
UPLINK, PODS = 1, (2, 3, 4)
"""Ports: the client is behind the first."""


class Bmv2Node:
    """The switch, with a client and three pods at its ports, the agent, and an API server."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.address = f"unix:{directory}/p4rt"
        self.fabric = Fabric()
        stack.callback(self.fabric.remove)
        self.client, *hosts = (self._host(n, stack) for n in (UPLINK, *PODS))
        self.pods = [RunningServer(host, f"pod{host.number}", host.address) for host in hosts]
        records = Records(directory / "attachments")
        for host in hosts:
            records.put(_record(host))
        self.api = self.fabric.api()
        stack.callback(self.api.stop)
        self.api.put("nodes", kube.node("node1"))
        kubeconfig_of(directory, self.api)
        stack.callback(_end, self._start_switch())
        self.agent = self._start_agent()
        stack.callback(self.end_agent)

    def _host(self, number: int, stack: ExitStack) -> Host:
        host = Host(number, self.fabric)
        stack.callback(host.remove)
        # BMv2 computes no checksums of what it does not change, and knows no segments.
        host.offloads_off("data0")
        self.fabric.offloads_off(f"port{number}")
        host.run("ip", "neigh", "replace", "198.19.9.1", "lladdr", GATEWAY_MAC, "dev", "data0")
        return host

    def _start_switch(self) -> subprocess.Popen[bytes]:
        ports = [part for n in (UPLINK, *PODS) for part in ("-i", f"{n}@port{n}")]
        own = ["--grpc-server-addr", self.address, "--cpu-port", "510"]
        command = self.fabric.command(BMV2, "--device-id", "1", "--no-p4", *ports, "--", *own)
        with (self.directory / "bmv2.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _start_agent(self) -> subprocess.Popen[str]:
        arguments = [
            "--node", "node1", "--kubeconfig", str(self.directory / "kubeconfig"),
            "--switch", self.address, "--program", str(P4INFO.parent),
            "--uplink", f"{UPLINK}@port{UPLINK}", "--next-hop-mac", self.client.mac,
            "--socket", str(self.directory / "agent.sock"),
            "--state", str(self.directory / "attachments"),
        ]  # fmt: skip
        return start_agent(self.fabric.name, self.directory, arguments)

    def end_agent(self) -> None:
        if self.agent.poll() is None:
            self.agent.terminate()
            self.agent.communicate(timeout=DEADLINE)

    def serve(self, *pods: RunningServer) -> None:
        """Until the switch leads the outside address to these, and to nobody else."""
        self.api.put("services", kube.service("web", outside=(OUTSIDE,), port=80))
        self.api.put("slices", kube.slice_of("web", *(kube.endpoint(pod.address) for pod in pods)))
        wanted = {pod.address for pod in pods}
        log = self.directory / "agent.log"
        try:
            wait_until(f"it leads to {sorted(wanted)}", lambda: self._led_to() == wanted)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text(encoding='utf-8')}") from error

    def _led_to(self) -> set[object]:
        try:
            with Session.open(self.address, primary=False) as session:
                led_to = {one.params["backend_id"] for one in session.read("bucket")}
                found = {
                    e.match["backend_id"]: e.params["address"] for e in session.read("backend")
                }
        except P4Error:  # it is being started, or has no program yet
            return set()
        return {found.get(one) for one in led_to} if led_to <= set(found) else set()


def _record(host: Host) -> Record:
    name, addresses = f"pod{host.number}", (host.address,)
    interface = f"port{host.number}"
    return Record("flowferry", name, "data0", interface, host.number, host.mac, addresses)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(DEADLINE)


@pytest.fixture(scope="module")
def node() -> Iterator[Bmv2Node]:
    with tempfile.TemporaryDirectory(prefix="ffbmv2-") as directory, ExitStack() as stack:
        yield Bmv2Node(Path(directory), stack)


def test_a_service_answers_and_flows_stay_when_an_endpoint_comes(node: Bmv2Node) -> None:
    few = node.pods[:2]
    node.serve(*few)
    assert set(ask(node.client, OUTSIDE, 80, count=30)) == {pod.name for pod in few}
    kept = Connections(node.client, OUTSIDE, 80, 30)
    node.serve(*node.pods)
    assert kept.talk() == kept.first
    assert set(ask(node.client, OUTSIDE, 80, count=40)) == {pod.name for pod in node.pods}
    assert kept.talk() == kept.first
    kept.close()


def test_what_is_held_is_delivered_at_the_release(node: Bmv2Node) -> None:
    """By a migration's session. BMv2 knows no roles, so that there is no agent meanwhile."""
    node.serve(node.pods[0])
    kept = Connections(node.client, OUTSIDE, 80, 20)
    node.end_agent()
    heard: list[object] = []
    with Session.open(node.address) as session:
        traffic = EndpointTraffic(session, node.pods[0].address)
        traffic.hold_ingress()
        asking = threading.Thread(target=lambda: heard.append(kept.talk()))
        asking.start()
        wait_until("all are held", lambda: traffic.buffer.packets >= 20)
        assert heard == []
        traffic.release({})
        asking.join(DEADLINE)
    assert heard == [kept.first]
    kept.close()
