# SPDX-License-Identifier: Apache-2.0
"""Real programs move there and back with their connections, as they come from Debian."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flowferry_p4.client import Entry, Update
from postgres import GROUP, PASSWD, POSTGRES, build_nobody

from demo.lab_control import NODES, Lab, wait_for
from demo.traffic import RemoteClient

# Fewer while you work at it.
MOVES = int(os.environ.get("FLOWFERRY_MOVES") or 8)
NAME = "program"
SPACE = f"ff-{NAME}"
CLIENT = Path(__file__).with_name("program_client.py")
LARGE = 40 << 20
"""Bytes of the download: far more than what buffers hold, so that the server waits."""
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
SLOW = """
import socket, time

listener = socket.create_server(("0.0.0.0", 7000), backlog=2000)
listener.setblocking(False)
count, deaf, connections = 0, False, []

def accept():
    try:
        while not deaf:
            connections.append(listener.accept()[0])
            connections[-1].setblocking(False)
    except BlockingIOError:
        pass

def serve(connection):
    global count, deaf
    try:
        words = connection.recv(100).split()
    except BlockingIOError:
        return
    for word in words:
        count += 1
        deaf = deaf if word == b"ask" else word == b"deaf"
        connection.send(b"%d\\n" % count)
    if not words:
        connections.remove(connection)
        connection.close()

while True:
    time.sleep(0.02)
    accept()
    for connection in list(connections):
        serve(connection)
"""
"""A server that accepts only now and then, so that some connections always wait for it."""
SSHD = """
import os, pathlib, subprocess

pathlib.Path("/run/sshd").mkdir(parents=True)
subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/srv/key"], check=True)
settings = ["HostKey=/srv/key", "PermitRootLogin=yes", "PermitEmptyPasswords=yes"]
options = [part for setting in settings for part in ("-o", setting)]
os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *options])
"""
SESSION = """
import os

count = 0
while True:
    try:
        word = input()
        count += 1
        print("it is", count, word, os.isatty(0), flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
"""What somebody who has logged in by ssh has running there."""
COMMANDS = {
    "echo": "python3 /srv/echo.py",
    "memcached": "memcached -u root -l 0.0.0.0 -m 64",
    "nginx": "nginx -e stderr -c /srv/nginx.conf",
    "postgres": "python3 /srv/postgres.py",
    "slow": "python3 /srv/slow.py",
    "ssh": "python3 /srv/sshd.py",
}


@pytest.fixture(scope="module")
def files(lab: Lab) -> str:
    """The image on both nodes, and beside it on node1 what containers get; the large one's hash."""
    lab.playbook("../tests/system/programs.yml").must_succeed()
    contents = {
        "srv/echo.py": ECHO,
        "srv/postgres.py": POSTGRES,
        "srv/session.py": SESSION,
        "srv/slow.py": SLOW,
        "srv/sshd.py": SSHD,
        "srv/nginx.conf": NGINX,
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
    }
    contents["srv/small"] = "small\n"
    lab.run("node1", "mkdir -p /root/programs/etc /root/programs/srv")
    for name, text in contents.items():
        lab.run("node1", f"printf %s {shlex.quote(text)} >/root/programs/{name}")
    build_nobody(lab, "/root/programs/srv/nobody.so")
    large = "/root/programs/srv/large"
    lab.run("node1", f"head -c {LARGE} /dev/urandom >{large}")
    return lab.run("node1", f"sha256sum {large}").split()[0]


@pytest.fixture
def start(lab: Lab, files: str) -> Iterator[Callable[..., RemoteClient]]:
    """Starts a program on node1, with the first of its clients; all end with the test."""
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
    clients: list[RemoteClient] = []

    def run(program: str) -> None:
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
        try:
            wait_for(
                lambda: "yes" in lab.run("node1", f"{listening} && echo yes", check=False),
                f"{program} listens",
                seconds=60,
            )
        except AssertionError as error:
            error.add_note(lab.run("node1", f"podman logs {NAME} 2>&1"))
            raise

    def begin(program: str, kind: str = "") -> RemoteClient:
        if not clients:
            run(program)
        clients.append(RemoteClient(lab, CLIENT, kind or program, address))
        return clients[-1]

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


def test_a_thousand_connections_to_asyncio(lab: Lab, start: Callable[..., RemoteClient]) -> None:
    client = start("echo")
    for round_number, destination in enumerate(("node2", "node1"), start=1):
        assert client.seen() == {"connections": 1000, "rounds": 2 * round_number - 1}
        move(lab, destination)
        assert client.seen() == {"connections": 1000, "rounds": 2 * round_number}


def test_memcached(lab: Lab, start: Callable[..., RemoteClient]) -> None:
    client = start("memcached")
    assert client.seen() == {"value": 100}
    for moves, destination in enumerate(("node2", "node1"), start=2):
        move(lab, destination)
        assert client.seen() == {"value": 100 * moves}


def test_a_download_from_nginx_goes_on(
    lab: Lab, files: str, start: Callable[..., RemoteClient]
) -> None:
    client = start("nginx")
    client.seen()
    for destination in ("node2", "node1"):
        move(lab, destination)
        seen = client.seen()
        assert seen["small"] == "small" and seen["left"] > 0
    assert client.seen("finish") == {"left": 0, "sha256": files}


def test_visitors_come_all_the_time(lab: Lab, start: Callable[..., RemoteClient]) -> None:
    """Some of their connections always wait to be accepted, or are being set up."""
    client = start("slow", "visitors")
    before = 0
    moves = [{"workload": NAME, "destination": node} for node in ("node2", "node1")]
    for _ in range(2):
        lab.migrate_each(moves * (MOVES // 4)).must_succeed()
        seen = client.seen()
        assert seen["errors"] == [] and seen["answered"] > before
        before = seen["answered"]
    seen = client.seen("finish")
    assert seen["errors"] == [] and seen["last"] == seen["answered"]


def test_a_program_that_accepts_nothing(lab: Lab, start: Callable[..., RemoteClient]) -> None:
    """It is not moved, and learns nothing of that."""
    command = start("slow", "command")
    assert command.seen("deaf") == {"answer": 1}
    visitors = start("slow", "visitors")
    waiting = f"ip netns exec {SPACE} ss -Hltn | awk '{{exit !$2}}' && echo yes"
    wait_for(lambda: lab.run("node1", waiting, check=False) == "yes", "visitors wait")
    played = lab.migrate("node2", workload=NAME)
    assert played.failure["code"] == "not_accepted", played.outcome
    assert " at 0.0.0.0:7000)" in played.outcome["msg"]
    assert "The source serves on" in played.outcome["msg"]
    assert lab.traces() == [] and lab.journals() == []
    assert command.seen("hear") == {"answer": 2}
    seen = visitors.seen("finish")
    assert seen["errors"] == [] and seen["answered"] > 100
    assert seen["last"] == seen["answered"] + 2


def test_an_open_transaction_of_postgresql(lab: Lab, start: Callable[..., RemoteClient]) -> None:
    """It sees what it has written, others do not; a cursor and a subscription go on."""
    client = start("postgres")
    for number, destination in enumerate(("node2", "node1"), start=1):
        assert client.seen() == {"own": number, "others": 0, "fetched": number, "heard": number}
        move(lab, destination)
    assert client.seen() == {"own": 3, "others": 0, "fetched": 3, "heard": 3}
    assert client.seen("finish") == {"own": 3, "others": 3, "restarted": False}


def test_sessions_of_ssh(lab: Lab, start: Callable[..., RemoteClient]) -> None:
    """With a terminal and without; the terminal goes on to make signals of keys."""
    clients = [start("ssh", kind) for kind in ("ssh", "terminal")]
    for number, destination in enumerate(("node2", "node1"), start=1):
        for client, terminal in zip(clients, (False, True), strict=True):
            assert client.seen() == {"count": number, "terminal": terminal}
        move(lab, destination)
    assert clients[1].seen("interrupt") == {"answer": "interrupted"}
    for client, terminal in zip(clients, (False, True), strict=True):
        assert client.seen() == {"count": 3, "terminal": terminal}
