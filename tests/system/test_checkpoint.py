# SPDX-License-Identifier: Apache-2.0
"""Checkpoint, restore and another address, by the modules, on a node of the lab."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.lab_control import Lab, wait_for

PROGRAM = Path(__file__).with_name("pairs.py")
ARCHIVES = "/var/tmp/ff-checkpoints"
SPACE = "ff-pairs"
FIRST, SECOND = ("192.0.2.1", "2001:db8::1"), ("198.51.100.7", "2001:db8:ffff::7")
KINDS = {"tcp4", "tcp6", "mapped", "udp4", "udp6", "new4", "new6"}


@contextmanager
def until_done(lab: Lab, node: str, do: str, undo: str) -> Iterator[None]:
    lab.run(node, do)
    try:
        yield
    finally:
        lab.run(node, undo)


@pytest.fixture
def archives(lab: Lab) -> Iterator[str]:
    """A directory for archives on both nodes."""
    nodes = ("node1", "node2")
    try:
        for node in nodes:
            lab.run(node, f"mkdir -p {ARCHIVES}")
        yield ARCHIVES
    finally:
        for node in nodes:
            lab.run(node, f"rm -rf {ARCHIVES}")


def done(result: dict[str, Any], *, changed: bool = True) -> dict[str, Any]:
    assert not result.get("failed"), result["msg"]
    assert result["changed"] == changed
    return result


# -- Redis


@pytest.fixture
def connection(lab: Lab) -> Iterator[Any]:
    """A client of Redis that sends a command for each line it reads: a function that asks."""
    script = f"""
import socket, sys
s = socket.create_connection(("{lab.address}", 6379), 60)
f = s.makefile("rb")
for line in sys.stdin:
    s.sendall(line.encode().replace(b"\\n", b"\\r\\n"))
    print(f.readline().decode().strip(), flush=True)
"""
    encoded = base64.b64encode(script.encode()).decode()
    loader = f"import base64; exec(base64.b64decode('{encoded}'))"
    client = lab.popen("client", f'exec python3 -u -c "{loader}"')
    assert client.stdin is not None and client.stdout is not None

    def ask(command: str) -> str:
        client.stdin.write(command + "\n")
        client.stdin.flush()
        return client.stdout.readline().strip()

    try:
        yield ask
    finally:
        client.stdin.close()
        client.terminate()
        client.wait(10)
        client.stdout.close()


@contextmanager
def unheard(lab: Lab, node: str, space: str) -> Iterator[None]:
    """Nothing gets in or out of the namespace: what a hold at the switch is for migrations."""
    rules = "; ".join(
        f"add chain inet hold {hook} {{ type filter hook {hook} priority 0; policy drop; }}"
        for hook in ("input", "output")
    )
    nft = f"ip netns exec {space} nft"
    with until_done(
        lab, node, f"{nft} 'add table inet hold; {rules}'", f"{nft} delete table inet hold"
    ):
        yield


def test_redis_goes_through_an_archive_with_its_connection(
    lab: Lab, archives: str, connection: Any
) -> None:
    node, path = lab.location(), f"{archives}/redis.tar.zst"
    run_id = lab.run_id()
    assert connection("SET through archive") == "+OK"
    arguments = {"name": "redis", "path": path}
    planned = done(lab.module(node, "checkpoint", "--check", **arguments))
    assert planned["checkpoint"] == {"path": path}
    with unheard(lab, node, "ff-redis"):
        made = done(lab.module(node, "checkpoint", **arguments))
        assert made["checkpoint"]["compression"] == "zstd"
        assert lab.run(node, f"stat -c %a {path}") == "600"
        assert lab.holders() == []
        done(lab.module(node, "checkpoint", **arguments), changed=False)
        refused = lab.module(node, "restore", path=path)
        assert refused["failure"]["code"] == "name_taken"
        planned = done(lab.module(node, "restore", "--check", path=path, replace=True))
        assert lab.holders() == []
        restored = done(lab.module(node, "restore", path=path, replace=True))
    assert restored["container"]["id"] == made["checkpoint"]["container"]["id"]
    assert connection("GET through") == "$7"
    assert connection("PING") == "archive"
    assert lab.run_id() == run_id
    done(lab.module(node, "restore", path=path, replace=True), changed=False)

    about = done(lab.module(node, "checkpoint_info", path=path), changed=False)["checkpoint"]
    assert (about["kind"], about["container"]["name"]) == ("podman", "redis")
    assert about["network_external"] is True
    (process,) = about["processes"]
    assert process["command"] == "redis-server"
    mine = [found for found in about["sockets"] if found["state"] == "established"]
    assert {found["local"] for found in mine} == {f"{lab.address}:6379"}


# -- another address


def network(addresses: tuple[str, str]) -> str:
    """Commands for a namespace that has these addresses, and reaches nothing else."""
    four, six = addresses
    return (
        f"ip netns add {SPACE} && ip -n {SPACE} link set lo up && "
        f"ip -n {SPACE} address add {four}/32 dev lo && "
        f"ip -n {SPACE} address add {six}/128 dev lo nodad"
    )


@pytest.fixture
def pairs(lab: Lab, archives: str) -> Iterator[str]:
    """The node on which the workload that talks to itself runs, at its first addresses.

    Its Python is the node's, at the same path on both, as the lab's image has none.
    """
    node = lab.location()
    text = base64.b64encode(PROGRAM.read_bytes()).decode()
    four, six = FIRST
    run = (
        f"podman run --detach --name pairs --network ns:/run/netns/{SPACE} "
        f"--volume /usr:/usr:ro --volume {archives}:{archives} localhost/redis:lab "
        f"python3 -S -E {archives}/pairs.py {four} {six} {archives}/counts"
    )
    remove = f"podman rm --force --ignore --time 0 pairs; ip netns delete {SPACE}"
    with until_done(
        lab,
        node,
        f"echo {text} | base64 -d > {archives}/pairs.py && {network(FIRST)} && {run}",
        remove,
    ):
        wait_for(lambda: counts(lab, node).get("tcp4", 0) > 3, "the pairs talk")
        yield node


def counts(lab: Lab, node: str) -> dict[str, int]:
    text = lab.run(node, f"cat {ARCHIVES}/counts 2>/dev/null || echo '{{}}'")
    found: dict[str, int] = json.loads(text)
    return found


def in_use(lab: Lab, node: str) -> set[str]:
    """Local addresses of sockets in the namespace."""
    listed = lab.run(node, f"ip netns exec {SPACE} ss -HtuanO state all")
    ends = (line.split()[4] for line in listed.splitlines() if "TIME-WAIT" not in line)
    return {end.rpartition(":")[0].strip("[]").removeprefix("::ffff:") for end in ends}


def is_lasting(ends: dict[str, str]) -> bool:
    """Whether a socket is one of the pairs' or a listening one: the ports of others are high."""
    return all(int(end.rpartition(":")[2]) < 3000 for end in ends.values() if end)


@pytest.mark.parametrize("form", ["archive", "images"])
def test_every_kind_of_socket_comes_back_at_another_address(
    lab: Lab, pairs: str, archives: str, form: str
) -> None:
    node, path = pairs, f"{archives}/pairs.tar"
    done(lab.module(node, "checkpoint", name="pairs", path=path, compression="none"))
    before = counts(lab, node)
    assert set(before) == KINDS
    rewritten = path
    if form == "images":
        rewritten = f"{archives}/unpacked"
        lab.run(node, f"mkdir {rewritten} && tar -xf {path} -C {rewritten}")
    arguments = {"path": rewritten, "addresses": dict(zip(FIRST, SECOND, strict=True))}
    planned = done(lab.module(node, "checkpoint_address", "--check", **arguments))
    changed = done(lab.module(node, "checkpoint_address", **arguments))
    assert changed["sockets"] == planned["sockets"]
    # The checkpoint may have caught one of the short connections, which have two sockets more.
    assert len([change for change in changed["sockets"] if is_lasting(change["before"])]) == 13
    done(lab.module(node, "checkpoint_address", **arguments), changed=False)
    if form == "images":
        lab.run(node, f"tar -cf {path} -C {rewritten} .")

    lab.run(node, f"ip netns delete {SPACE} && {network(SECOND)}")
    done(lab.module(node, "restore", path=path, replace=True))
    assert in_use(lab, node) == set(SECOND)
    wait_for(
        lambda: all(counts(lab, node)[kind] > before[kind] + 20 for kind in KINDS),
        f"every pair goes on from {before}",
    )


def test_without_another_address_it_does_not_come_back(lab: Lab, pairs: str, archives: str) -> None:
    """CRIU cannot bind to an address that is not there: this is what rewriting is for."""
    node, path = pairs, f"{archives}/pairs.tar"
    done(lab.module(node, "checkpoint", name="pairs", path=path))
    lab.run(node, f"ip netns delete {SPACE} && {network(SECOND)}")
    refused = lab.module(node, "restore", path=path, replace=True)
    assert refused["failure"]["code"] == "restore_failed"
