# SPDX-License-Identifier: Apache-2.0
"""A process tree with every kind of open file moves there and back, and all of it goes on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowferry_p4.client import Entry, Update

from demo.lab_control import NODES, Lab, wait_for
from demo.traffic import RemoteClient

SPACE = "ff-tree"
MEMORY = 272 << 20
"""Of tree.py, most of which goes apart from the checkpoint."""
DIRECTORY = "/root/tree"
PROGRAM = Path(__file__).with_name("tree.py")
CLIENT = Path(__file__).with_name("program_client.py")


@pytest.fixture
def client(lab: Lab) -> Iterator[RemoteClient]:
    """The tree runs on node1, and somebody talks to it."""
    address = f"{lab.data_network}.151"
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
    made = lab.module("node1", "endpoint", name=SPACE, address=[address])
    assert not made.get("failed"), made
    with lab.session(primary=True) as session:
        session.write([Update("INSERT", route)])
    for node in NODES:  # what is only read has to be there
        lab.run(node, f"printf %s {shlex.quote(PROGRAM.read_text())} >/root/tree.py")
    lab.run(
        "node1",
        f"mkdir {DIRECTORY}; cd /; setsid nsenter --net=/run/netns/{SPACE} "
        f"python3 /root/tree.py {DIRECTORY} </dev/null >/dev/null 2>&1 &",
    )
    listening = f"ip netns exec {SPACE} ss -Hltn | grep -q :7000 && test -e {DIRECTORY}/mapped"
    wait_for(
        lambda: lab.run("node1", f"{listening} && echo yes", check=False) == "yes",
        "the tree listens",
        seconds=30,
    )
    talking = RemoteClient(lab, CLIENT, "tree", address)
    yield talking
    talking.end()
    for node in NODES:
        lab.run(node, f"ip netns pids {SPACE} | xargs -r kill -9", check=False)
        lab.module(node, "endpoint", name=SPACE, state="absent")
        lab.run(node, f"rm -rf {DIRECTORY} /root/tree.py")
    with lab.session(primary=True) as session:
        left = session.read("route", {"destination": f"{address}/32"})
        session.write([Update("DELETE", entry) for entry in left])


def lines(rounds: int) -> str:
    return "".join(f"round {number}\n" for number in range(1, rounds + 1))


def assert_goes_on(client: RemoteClient, rounds: int, pids: list[int]) -> None:
    """By TCP and by UDP: every round so far is remembered everywhere."""
    for number, answer in enumerate(client.seen()["answers"], start=rounds - 1):
        assert answer == {
            "rounds": number,
            "child": number,
            "deleted": lines(number),
            "thread": True,
            "memory": True,
            "pids": pids,
            "own": pids[0],
        }


def test_everything_that_is_open_moves(lab: Lab, client: RemoteClient) -> None:
    pids = client.seen()["answers"][1]["pids"]
    rounds = 2
    for source, destination, memory in (
        ("node1", "node2", "stop-and-copy"),
        ("node2", "node1", "post-copy"),
    ):
        kept = lab.run(source, f"stat -c '%a %u %y' {DIRECTORY}/log")
        moved = lab.migrate(destination, workload=f"process:{SPACE}", memory=memory).must_succeed()
        assert moved.outcome["plan"]["about"].get("post_copy", False) == (memory == "post-copy")
        assert moved.outcome["image_bytes"] > MEMORY, "what goes apart is counted"
        assert lab.run(destination, f"stat -c '%a %u %y' {DIRECTORY}/log") == kept
        assert lab.run(source, f"ls -A {DIRECTORY}") == "", "what moves goes from its source"
        found = lab.run(destination, f"ls {DIRECTORY}").split()
        assert found == ["locked", "log", "mapped"]
        rounds += 2
        assert_goes_on(client, rounds, pids)
        assert lab.run(destination, f"cat {DIRECTORY}/log") == lines(rounds).strip()
        counted = f"od -A n -t d1 -j 7 -N 1 {DIRECTORY}/mapped"
        assert int(lab.run(destination, counted)) == rounds, "the mapping is that of the file"
        lock = f"flock --nonblock {DIRECTORY}/locked true && echo free || echo held"
        assert lab.run(destination, lock) == "held"
    assert lab.traces() == [] and lab.journals() == []
