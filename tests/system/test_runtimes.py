# SPDX-License-Identifier: Apache-2.0
"""Every runtime by both address strategies, over TCP and UDP, IPv4 and IPv6.

A cell of the table is ten moves under load. The three protocols of a runtime and a strategy share
their moves: the workload is Redis with a child that counts datagrams (counter.c), at an endpoint
with an IPv4 and an IPv6 address. The table is printed at the end of the run. A new runtime is a
row: a function that starts the server in the endpoint's namespace, and a command that ends it.
"""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from flowferry_p4.client import Entry, Update
from flowferry_p4.client.traffic import Address

from demo.lab_control import NODES, ROOT, Lab, wait_for
from demo.traffic import RemoteClient
from tests.system.runtime_table import RUNTIMES, STRATEGIES

# Fewer while you work at it.
MOVES = int(os.environ.get("FLOWFERRY_MOVES") or 10)
# So many are made by one run of Ansible, after which it is asked what clients saw.
TOGETHER = 5
NAME = "table"
SPACE = f"ff-{NAME}"
COUNTER = "/usr/local/bin/counter"
COUNTER_SOURCE = Path(__file__).with_name("counter.c")
TCP_CLIENT = ROOT / "demo" / "traffic_client.py"
UDP_CLIENT = Path(__file__).with_name("datagram_client.py")
REDIS = '--save "" --protected-mode no'
PORTS = ((6, 6379), (17, 7000))
"""Protocol and port: Redis, and the counter of datagrams."""
PATTERNS = ["198.19.{lab}.{host}", "2001:2:0:{lab}::{host}"]


def start_podman(lab: Lab, node: str) -> None:
    """The counter is no part of the image: it moves with what the container has changed."""
    lab.run(
        node,
        f"podman create --name {NAME} --network ns:/run/netns/{SPACE} --entrypoint /counter "
        f"localhost/redis:lab redis-server {REDIS} && podman cp {COUNTER} {NAME}:/counter && "
        f"podman start {NAME}",
    )


def start_process(lab: Lab, node: str) -> None:
    # Debian's redis-tools holds the server as well: it is one program, which goes by its name.
    redis = f"exec -a redis-server redis-check-rdb {REDIS}"
    lab.run(
        node,
        f"cd /; setsid nsenter --net=/run/netns/{SPACE} {COUNTER} bash -c '{redis}' "
        "</dev/null >/dev/null 2>&1 &",
    )


def start_docker(lab: Lab, node: str) -> None:
    lab.run(
        node,
        f"docker create --name {NAME} --network container:{SPACE} --entrypoint /counter "
        f"localhost/redis:lab redis-server {REDIS} && docker cp --quiet {COUNTER} {NAME}:/counter "
        f"&& docker start {NAME}",
    )


def start_pod(lab: Lab, node: str) -> None:
    """Redis in one container, the counter (with a Redis that nobody asks) in another one."""
    create = f"podman create --pod {NAME} --name {NAME}"
    lab.run(
        node,
        f"podman pod create --name {NAME} --network ns:/run/netns/{SPACE} && "
        f"{create}-redis localhost/redis:lab redis-server {REDIS} && "
        f"{create}-counter --entrypoint /counter localhost/redis:lab redis-server --port 6380 && "
        f"podman cp {COUNTER} {NAME}-counter:/counter && podman pod start {NAME}",
    )


@dataclass(frozen=True)
class Row:
    """A runtime: what the workload is called, how it is started and ended."""

    workload: str
    start: Callable[[Lab, str], None]
    end: str
    docker: bool = False
    """Whether a pause container keeps the endpoint."""


ROWS = {
    "docker": Row(f"docker:{NAME}", start_docker, f"docker rm --force {NAME}", docker=True),
    "podman": Row(f"podman:{NAME}", start_podman, f"podman rm --force --time 0 {NAME}"),
    "podman-pod": Row(f"podman-pod:{NAME}", start_pod, f"podman pod rm --force --time 0 {NAME}"),
    "process": Row(f"process:{SPACE}", start_process, f"ip netns pids {SPACE} | xargs -r kill -9"),
}


@dataclass
class Site:
    """Where the workload is, and by which addresses clients know it."""

    lab: Lab
    row: Row
    strategy: str
    node: str = "node1"

    def __post_init__(self) -> None:
        self.known = self._addresses(130)
        """What clients use: the endpoint's own addresses, or virtual ones."""
        hosts = (131, 132) if self.strategy == "rewrite" else (130,)
        self.own = [self._addresses(host) for host in hosts]
        """What the endpoint has, in turn."""

    def _addresses(self, host: int) -> list[str]:
        return [pattern.format(lab=self.lab.number, host=host) for pattern in PATTERNS]

    def start(self) -> None:
        """The workload on its first node, reachable from the client."""
        compile_counter(self.lab)
        found = self.lab.module(
            self.node, "endpoint", name=SPACE, address=self.own[0], docker=self.row.docker
        )
        assert not found.get("failed"), found
        with self.lab.session(primary=True) as session:
            session.write([Update("INSERT", entry) for entry in self.entries(self.own[0])])
        self.row.start(self.lab, self.node)
        wait_for(self._answers, f"{self.row.workload} answers at {self.known}", seconds=30)

    def _answers(self) -> bool:
        script = f'import socket; socket.create_connection(("{self.known[0]}", 6379), 1)'
        return "ok" in self.lab.run("client", f"python3 -c '{script}' && echo ok", check=False)

    def end(self) -> None:
        """Nothing of it remains, wherever it is."""
        for node in NODES:
            self.lab.run(node, self.row.end, check=False)
            self.lab.module(node, "endpoint", name=SPACE, state="absent")
        with self.lab.session(primary=True) as session:
            entries = [entry for own in self.own for entry in self.entries(own)]
            keys = {str((entry.table, entry.match)): entry for entry in entries}
            found = [one for e in keys.values() for one in session.read(e.table, e.match)]
            session.write([Update("DELETE", entry) for entry in found])

    def entries(self, own: list[str]) -> list[Entry]:
        """What the switch has for the workload at these addresses."""
        found = []
        for family, (known, address) in enumerate(zip(self.known, own, strict=True)):
            found.append(self._route(Address(address)))
            if self.strategy == "rewrite":
                for index, (protocol, port) in enumerate(PORTS):
                    number = 100 + 2 * family + index
                    found += service(Address(known), Address(address), protocol, port, number)
        return found

    def _route(self, address: Address) -> Entry:
        lab, host = self.lab.number, {"node1": 11, "node2": 12}[self.node]
        params = {
            "port": NODES[self.node],
            "source_mac": f"02:ff:00:00:{lab:02x}:01",
            "destination_mac": f"02:ff:00:00:{lab:02x}:{host:02x}",
        }
        match = {"destination": f"{address.text}/{address.bits}"}
        return Entry(address.name("route"), match, "forward", params)

    def moves(self, number: int) -> list[dict[str, Any]]:
        """To the other node, under rewrite to the other addresses, and back, and so on."""
        moves = [self._next_move() for _ in range(number)]
        return self.lab.migrate_each(moves).must_succeed().outcomes

    def _next_move(self) -> dict[str, str]:
        self.node = next(node for node in NODES if node != self.node)
        move = {"workload": self.row.workload, "address_strategy": self.strategy}
        if self.strategy == "rewrite":
            self.own.reverse()
            move["destination_address"] = ",".join(self.own[0])
        return {**move, "destination": self.node}


def service(known: Address, own: Address, protocol: int, port: int, number: int) -> list[Entry]:
    """What makes ``own`` the one backend of a virtual address and port."""
    translated = {"address": own.text, "port": port}
    virtual = {"address": known.text, "port": port}
    return [
        Entry(
            known.name("service"),
            {**virtual, "protocol": protocol},
            "select_bucket",
            {"service_id": number, "bucket_count": 1},
        ),
        Entry("bucket", {"service_id": number, "bucket": 0}, "to_backend", {"backend_id": number}),
        Entry(own.name("backend"), {"backend_id": number}, own.name("translate"), translated),
        Entry(
            own.name("reply"),
            {**translated, "protocol": protocol},
            own.name("restore_virtual"),
            virtual,
        ),
    ]


def compile_counter(lab: Lab) -> None:
    """The same program on both nodes, which have the switch's compiler."""
    source = shlex.quote(COUNTER_SOURCE.read_text())
    for node in NODES:
        build = f"printf %s {source} | clang -xc -O1 -static -Wall -Werror -o {COUNTER} -"
        lab.run(node, f"test -x {COUNTER} || {build}")


@pytest.fixture(
    params=[(runtime, strategy) for runtime in RUNTIMES for strategy in STRATEGIES], ids="-".join
)
def site(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Site]:
    runtime, strategy = request.param
    made = Site(lab, ROWS[runtime], strategy)
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture
def clients(site: Site) -> Iterator[dict[str, RemoteClient]]:
    """A pipelined writer over TCP and a ping-pong over UDP, for each address that clients know."""
    started = {}
    try:
        for key, address in enumerate(site.known):
            version = f"IPv{ip_address(address).version}"
            started[f"TCP {version}"] = RemoteClient(
                site.lab, TCP_CLIENT, "writer", address, "6379", str(key)
            )
            started[f"UDP {version}"] = RemoteClient(
                site.lab, UDP_CLIENT, address, "7000", str(key)
            )
        yield started
    finally:
        for client in started.values():
            client.end()


@pytest.mark.timeout(600)  # ten moves
def test_ten_moves_harm_nothing(
    site: Site, clients: dict[str, RemoteClient], record_property: Callable[[str, object], None]
) -> None:
    longest = dict.fromkeys(clients, 0.0)
    ports = {protocol: client.seen()["local_port"] for protocol, client in clients.items()}
    held = []
    while len(held) < MOVES:
        for client in clients.values():
            client.seen()
        moved = site.moves(min(TOGETHER, MOVES - len(held)))
        held += [move["hold_ms"] for move in moved]
        assert [move["overflow_packets"] for move in moved] == [0] * len(moved)
        for protocol, client in clients.items():
            seen = client.seen()
            assert seen["errors"] == [], f"{protocol}, after {len(held)} moves: {seen}"
            assert seen["answers"] > 0, f"{protocol}, after {len(held)} moves: {seen}"
            assert seen["local_port"] == ports[protocol]
            longest[protocol] = max(longest[protocol], seen["longest_ms"])
    for protocol, silence in longest.items():
        told = f"held p50 {statistics.median(held):.0f} ms, longest silence {silence:.0f} ms"
        record_property(protocol, f"{len(held)} moves, {told}")
    assert site.lab.traces() == [] and site.lab.journals() == []
