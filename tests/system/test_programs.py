# SPDX-License-Identifier: Apache-2.0
"""Real programs move there and back with their connections, as they come from Debian."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flowferry_p4.client import Entry, Update
from lab_control import NODES, Lab, wait_for

from demo.traffic import RemoteClient

NAME = "program"
SPACE = f"ff-{NAME}"
CLIENT = Path(__file__).with_name("program_client.py")
LARGE = 40 << 20
"""Bytes of the download: far more than what buffers hold, so that the server waits."""
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
NGINX = """
daemon off; user root; worker_processes 2; pid /nginx.pid; error_log stderr;
events { worker_connections 200; }
http {
  access_log off; client_body_temp_path /body; proxy_temp_path /proxy;
  fastcgi_temp_path /fastcgi; uwsgi_temp_path /uwsgi; scgi_temp_path /scgi;
  server { listen 8080; root /srv; }
}
"""
ECHO = """
import asyncio

async def serve(reader, writer):
    count = 0
    while line := await reader.readline():
        count += 1
        writer.write(line.strip() + b" %d\\n" % count)
        await writer.drain()

async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 7000, backlog=2000)
    await server.serve_forever()

asyncio.run(main())
"""
COMMANDS = {
    "echo": "python3 /srv/echo.py",
    "memcached": "memcached -u root -l 0.0.0.0 -m 64",
    "nginx": "nginx -e stderr -c /srv/nginx.conf",
}


@pytest.fixture(scope="module")
def files(lab: Lab) -> str:
    """The image on both nodes, and beside it on node1 what containers get; the large one's hash."""
    lab.playbook("../tests/system/programs.yml").must_succeed()
    contents = {
        "srv/echo.py": ECHO,
        "srv/nginx.conf": NGINX,
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
    }
    contents["srv/small"] = "small\n"
    lab.run("node1", "mkdir -p /root/programs/etc /root/programs/srv")
    for name, text in contents.items():
        lab.run("node1", f"printf %s {shlex.quote(text)} >/root/programs/{name}")
    large = "/root/programs/srv/large"
    lab.run("node1", f"head -c {LARGE} /dev/urandom >{large}")
    return lab.run("node1", f"sha256sum {large}").split()[0]


@pytest.fixture
def start(lab: Lab, files: str) -> Iterator[Callable[[str], RemoteClient]]:
    """Starts a program on node1 and its client; both end with the test."""
    address = f"{lab.data_network}.150"
    route = Entry(
        "route",
        {"destination": f"{address}/32"},
        "forward",
        {
            "port": NODES["node1"],
            "source_mac": f"02:ff:00:00:{lab.number:02x}:01",
            "destination_mac": f"02:ff:00:00:{lab.number:02x}:0b",
        },
    )
    clients = []

    def begin(program: str) -> RemoteClient:
        made = lab.module("node1", "endpoint", name=SPACE, address=[address])
        assert not made.get("failed"), made
        with lab.session(primary=True) as session:
            session.write([Update("INSERT", route)])
        lab.run(
            "node1",
            f"podman create --name {NAME} --network ns:/run/netns/{SPACE} --ulimit nofile=4096 "
            f"localhost/programs:lab {COMMANDS[program]} && cd /root/programs && "
            f"podman cp etc/. {NAME}:/etc && podman cp srv/. {NAME}:/srv && "
            f"podman start {NAME}",
        )
        listening = f"ip netns exec {SPACE} ss -Hltn | grep -q :"
        wait_for(
            lambda: "yes" in lab.run("node1", f"{listening} && echo yes", check=False),
            f"{program} listens",
            seconds=60,
        )
        clients.append(RemoteClient(lab, CLIENT, program, address))
        return clients[0]

    yield begin
    for client in clients:
        client.end()
    for node in NODES:
        lab.run(node, f"podman rm --force --time 0 --ignore {NAME}")
        lab.module(node, "endpoint", name=SPACE, state="absent")
    with lab.session(primary=True) as session:
        left = session.read("route", {"destination": f"{address}/32"})
        session.write([Update("DELETE", entry) for entry in left])


def move(lab: Lab, destination: str) -> None:
    played = lab.migrate(destination, workload=NAME).must_succeed()
    assert played.outcome["changed"] and played.outcome["overflow_packets"] == 0


def test_a_thousand_connections_to_asyncio(lab: Lab, start: Callable[[str], RemoteClient]) -> None:
    client = start("echo")
    for round_number, destination in enumerate(("node2", "node1"), start=1):
        assert client.seen() == {"connections": 1000, "rounds": 2 * round_number - 1}
        move(lab, destination)
        assert client.seen() == {"connections": 1000, "rounds": 2 * round_number}


def test_memcached(lab: Lab, start: Callable[[str], RemoteClient]) -> None:
    client = start("memcached")
    assert client.seen() == {"value": 100}
    for moves, destination in enumerate(("node2", "node1"), start=2):
        move(lab, destination)
        assert client.seen() == {"value": 100 * moves}


def test_a_download_from_nginx_goes_on(
    lab: Lab, files: str, start: Callable[[str], RemoteClient]
) -> None:
    client = start("nginx")
    client.seen()
    for destination in ("node2", "node1"):
        move(lab, destination)
        seen = client.seen()
        assert seen["small"] == "small" and seen["left"] > 0
    assert client.seen("finish") == {"left": 0, "sha256": files}
