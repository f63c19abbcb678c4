# SPDX-License-Identifier: Apache-2.0
"""Docker: what it restores is the old program, and what it only starts again is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flowferry_p4.client import Update

from demo.lab_control import Lab, Played

NAME = "dock"
# Does what some versions of Docker do by themselves: starts the program where it is to restore it.
FORGETFUL_RUNC = """#!/usr/bin/python3
import os, sys
words = sys.argv[1:]
if "restore" in words:
    at = words.index("restore")
    given = words[at:]
    kept = [w for name in ("--bundle", "--pid-file") for w in (name, given[given.index(name) + 1])]
    words = [*words[:at], "run", "--detach", *kept, words[-1]]
os.execv("/root/runc.kept", ["runc", *words])
"""


@pytest.fixture(scope="module")
def address(lab: Lab) -> Iterator[str]:
    """The address of Redis in Docker."""
    place = f"{lab.data_network}.140"
    lab.playbook(
        "demo_workload.yml", demo_runtime="docker", demo_name=NAME, demo_address=place
    ).must_succeed()
    yield place
    for node in ("node1", "node2"):
        lab.run(node, f"docker rm -f {NAME}")
        lab.module(node, "endpoint", name=f"ff-{NAME}", state="absent")
    with lab.session(primary=True) as session:
        route = session.read("route", {"destination": f"{place}/32"})
        session.write([Update("DELETE", entry) for entry in route])


def move(lab: Lab, destination: str) -> Played:
    return lab.migrate(destination, workload=f"docker:{NAME}")


def ask(lab: Lab, address: str, command: str) -> str:
    return lab.run("client", f"timeout 20 redis-cli -h {address} {command}")


def run_id(lab: Lab, address: str) -> str:
    """The identity of the Redis process; a restart would change it."""
    lines = ask(lab, address, "info server").splitlines()
    return next(line for line in lines if line.startswith("run_id:"))


def holders(lab: Lab) -> list[str]:
    listing = f"docker ps -a --filter name=^{NAME}$ --format '{{{{.Names}}}}'"
    return [node for node in ("node1", "node2") if lab.run(node, listing) == NAME]


def test_a_container_moves_with_its_memory_and_its_files(lab: Lab, address: str) -> None:
    before = run_id(lab, address)
    ask(lab, address, "set key kept")
    ask(lab, address, "save")
    for destination in ("node2", "node1"):
        played = move(lab, destination).must_succeed()
        assert played.outcome["changed"]
        assert holders(lab) == [destination]
        assert run_id(lab, address) == before
        assert ask(lab, address, "get key") == "kept"
        # A file that it wrote is in the container's own layer.
        pid = lab.run(destination, f"docker inspect --format '{{{{.State.Pid}}}}' {NAME}")
        assert lab.run(destination, f"head -c 5 /proc/{pid}/root/dump.rdb") == "REDIS"
    assert lab.traces() == [] and lab.journals() == []


@contextmanager
def forgetful(lab: Lab, node: str) -> Iterator[None]:
    """The node's runc starts afresh what it is told to restore."""
    path = lab.run(node, "command -v runc")
    lab.run(node, f"mv {path} /root/runc.kept")
    try:
        lab.run(node, f"cat >{path} <<'EOF'\n{FORGETFUL_RUNC}\nEOF\nchmod 755 {path}")
        yield
    finally:
        lab.run(node, f"mv /root/runc.kept {path}")


def test_a_program_that_was_started_afresh_is_no_restore(lab: Lab, address: str) -> None:
    (where,) = holders(lab)
    elsewhere = "node2" if where == "node1" else "node1"
    before = run_id(lab, address)
    with forgetful(lab, elsewhere):
        played = move(lab, elsewhere)
    assert played.failure.get("code") == "started_afresh", played.outcome or played.stdout[-3000:]
    assert "0 of 1 processes are the old ones" in played.outcome["msg"]
    assert holders(lab) == [where]
    assert run_id(lab, address) == before
    assert lab.traces() == [] and lab.journals() == []


def test_what_shares_with_others_is_refused(lab: Lab, address: str) -> None:
    (where,) = holders(lab)
    joined = f"docker run -d --name beside --network container:ff-{NAME} localhost/redis:lab"
    lab.run(where, f"{joined} redis-server --port 7000")
    try:
        played = move(lab, "node2" if where == "node1" else "node1")
    finally:
        lab.run(where, "docker rm -f beside")
    assert played.failure.get("code") == "shared_with_others", played.outcome
    assert "the network of /beside" in played.outcome["msg"]
