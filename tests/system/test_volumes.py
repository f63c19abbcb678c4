# SPDX-License-Identifier: Apache-2.0
"""Workloads with volumes: their files go with them and come back, or nothing happens at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from flowferry_p4.client import Entry, Update

from demo.lab_control import NODES, Lab, Played, wait_for
from demo.traffic import TrafficClient

BIND = "/srv/flowferry/deep"
# Its log only grows: beyond 64 MB, a minute of load, Redis would write it anew.
REDIS = (
    "redis-server --protected-mode no --save '' --appendonly yes --dir /data "
    "--auto-aof-rewrite-percentage 0"
)
IMAGE = "localhost/redis:lab"
BROKEN_RUNC = """#!/bin/sh
for word; do
  case "$word" in restore) echo "out of order" >&2; exit 1;; esac
done
exec /root/runc.kept "$@"
"""


class Site:
    """One workload with volumes, at an address that the switch routes."""

    def __init__(self, lab: Lab, host: int, runtime: str) -> None:
        self.lab = lab
        self.runtime = runtime
        self.name = f"{runtime}-stored"
        self.space = f"ff-{self.name}"
        self.address = f"{lab.data_network}.{host}"
        self.engine = "docker" if runtime == "docker" else "podman"
        self.node = "node1"

    def start(self, *commands: str) -> None:
        """Run these on its first node, where its namespace is."""
        lab, number = self.lab, self.lab.number
        made = lab.module(
            "node1",
            "endpoint",
            name=self.space,
            address=self.address,
            docker=self.engine == "docker",
        )
        assert not made.get("failed"), made
        params = {
            "port": NODES["node1"],
            "source_mac": f"02:ff:00:00:{number:02x}:01",
            "destination_mac": f"02:ff:00:00:{number:02x}:0b",
        }
        route = Entry("route", {"destination": f"{self.address}/32"}, "forward", params)
        with lab.session(primary=True) as session:
            session.write([Update("INSERT", route)])
        for command in commands:
            lab.run("node1", command)
        wait_for(lambda: self.ask("ping") == "PONG", f"Redis at {self.address}", 30)

    def end(self) -> None:
        """Nothing of it remains on either node."""
        pod = "pod " if self.runtime == "podman-pod" else ""
        for node in NODES:
            self.lab.run(node, f"{self.engine} {pod}rm --force {self.name}", check=False)
            # Those that another test's container has cannot be removed, and stay.
            left = f"{self.engine} volume ls --quiet | xargs -r -n 1 {self.engine} volume rm"
            self.lab.run(node, f"{left}; rm -rf /srv/flowferry", check=False)
            self.lab.module(node, "endpoint", name=self.space, state="absent")
        with self.lab.session(primary=True) as session:
            route = session.read("route", {"destination": f"{self.address}/32"})
            session.write([Update("DELETE", entry) for entry in route])

    def move(self, *options: str, **more: Any) -> Played:
        """To the other node; the caller looks at how it ended."""
        played = self.lab.migrate(
            self.elsewhere, *options, workload=f"{self.runtime}:{self.name}", **more
        )
        if played.returncode == 0 and not options:
            self.node = self.elsewhere
        return played

    @property
    def elsewhere(self) -> str:
        return next(node for node in NODES if node != self.node)

    def ask(self, *words: str) -> str:
        command = f"timeout 20 redis-cli -h {self.address} {' '.join(words)}"
        return self.lab.run("client", command, check=False)

    def on(self, node: str, command: str) -> str:
        return self.lab.run(node, command)

    def files(self, node: str, volume: str = "data") -> str:
        """Where a named volume is on a node."""
        template = "{{.Mountpoint}}"
        return self.on(node, f"{self.engine} volume inspect {volume} --format '{template}'")

    def made(self, node: str) -> str:
        """What there is of its volumes on a node."""
        return self.on(
            node,
            f"{self.engine} volume ls --quiet; ls -d /srv/flowferry 2>/dev/null; "
            "ls /var/lib/flowferry/*.volumes 2>/dev/null || true",
        )

    def written(self) -> int:
        """How large Redis's log in its volume is."""
        return int(self.on(self.node, f"cat {self.files(self.node)}/*/*.aof | wc -c"))

    def has_written_more_than(self, size: int) -> bool:
        return self.written() > size

    def restarted(self) -> None:
        """The container ends, and starts from its files."""
        self.on(self.node, f"{self.engine} restart -t 5 {self.name}")
        wait_for(lambda: self.ask("ping") == "PONG", "Redis after a restart", 30)


def way_of(played: Played) -> dict[str, str]:
    """How each volume of a plan goes over, by the place where it is mounted."""
    volumes = played.must_succeed().outcome["plan"]["about"]["volumes"]
    return {place: volume["way"] for volume in volumes for place in volume["mounted_at"]}


@pytest.fixture(scope="module")
def redis(lab: Lab) -> Iterator[Site]:
    """Redis in Podman: a named volume, one without a name, bind mounts of every sort."""
    site = Site(lab, 150, "podman")
    volumes = f"-v data:/data -v {BIND}:/bound -v /anonymous -v /etc/debian_version:/version:ro"
    try:
        site.start(
            f"mkdir -p {BIND} && echo bound >{BIND}/file && ln {BIND}/file {BIND}/link && "
            f"podman volume create --label purpose=test data && "
            f"podman run -d --name {site.name} --network ns:/run/netns/{site.space} {volumes} "
            f"{IMAGE} {REDIS} --unixsocket /data/redis.sock",
        )
        yield site
    finally:
        site.end()


def test_a_volume_that_the_destination_lacks_is_refused(redis: Site) -> None:
    played = redis.move()
    assert played.failure.get("code") == "has_mounts", played.outcome
    assert "the destination has none of that name" in played.failure["message"]
    assert "volumes=copy" in played.failure["message"]
    assert redis.made("node2") == ""


def test_the_plan_shows_what_becomes_of_volumes(redis: Site) -> None:
    played = redis.move("--check", volumes="copy")
    copies = {"/data": "copy", "/bound": "copy", "/anonymous": "copy"}
    assert way_of(played) == {**copies, "/version": "identical"}
    assert redis.made("node2") == ""


@contextmanager
def broken_runc(site: Site, node: str) -> Iterator[None]:
    """The node restores nothing."""
    path = site.on(node, "command -v runc")
    site.on(node, f"mv {path} /root/runc.kept")
    try:
        site.on(node, f"cat >{path} <<'EOF'\n{BROKEN_RUNC}EOF\nchmod 755 {path}")
        yield
    finally:
        site.on(node, f"mv /root/runc.kept {path}")


def test_a_failed_restore_removes_the_copies(redis: Site) -> None:
    with TrafficClientOf(redis) as client:
        with broken_runc(redis, "node2"):
            played = redis.move(volumes="copy")
        assert played.failure.get("code") == "restore_failed", played.outcome
        assert client.seen()["errors"] == []
    assert redis.made("node2") == ""
    assert redis.lab.traces() == [] and redis.lab.journals() == []


class TrafficClientOf:
    """A writer for as long as it takes, whose last value Redis has to know."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __enter__(self) -> TrafficClient:
        self.client = TrafficClient(self.site.lab, "writer", "counter", address=self.site.address)
        self.client.seen()
        return self.client

    def __exit__(self, *_: object) -> None:
        self.last = self.client.end()


def test_there_and_back(redis: Site) -> None:
    """Under load; after a restart at either end all that was written is there."""
    marks = []
    for number in range(2):
        writer = TrafficClientOf(redis)
        with writer as client:
            redis.on(redis.node, f"echo {number} >{BIND}/number-{number}; rm -f {BIND}/link")
            outcome = redis.move(volumes="copy").must_succeed().outcome
            seen = client.seen()
            assert seen["errors"] == [] and seen["answers"] > 0, seen
            written = redis.written()
            wait_for(partial(redis.has_written_more_than, written), "Redis writes to the copy")
        assert outcome["volume_bytes"] > outcome["volume_bytes_held"] >= 0
        marks.append(outcome["plan"]["about"]["volumes"][0]["lineage"])
        assert writer.last["errors"] == []
        redis.restarted()
        assert int(redis.ask("get", "counter")) >= writer.last["value"]
        bound = sorted(f"number-{before}" for before in range(number + 1))
        assert redis.on(redis.node, f"ls {BIND}").split() == ["file", *bound]
        socket = f"{redis.files(redis.node)}/redis.sock"
        assert redis.on(redis.node, f"redis-cli -s {socket} ping") == "PONG"
    assert marks[0] == marks[1], "what came back is the same volume, brought up to date"
    label = redis.on("node2", "podman volume inspect data --format '{{.Labels.purpose}}'")
    assert label == "test"
    assert redis.lab.traces() == [] and redis.lab.journals() == []


def test_what_was_changed_since_is_not_overwritten(redis: Site) -> None:
    """The copy that the last move has left is somebody's now."""
    place = redis.files(redis.elsewhere)
    redis.on(redis.elsewhere, f"echo mine >{place}/mine")
    played = redis.move("--check", volumes="copy")
    assert played.failure.get("code") == "volume_taken", played.outcome
    assert "somebody has changed since" in played.failure["message"]
    assert "podman volume rm data" in played.failure["message"]
    assert redis.on(redis.elsewhere, f"cat {place}/mine") == "mine"


def test_a_docker_container_takes_its_volumes(lab: Lab) -> None:
    """One with a name, and one that Docker named."""
    site = Site(lab, 151, "docker")
    run = f"docker run -d --name {site.name} --network container:{site.space}"
    try:
        site.start(f"{run} -v data:/data -v /anonymous {IMAGE} {REDIS}")
        site.on("node1", f"echo kept >{inside(site, site.name)}/anonymous/file")
        with TrafficClientOf(site) as client:
            played = site.move(volumes="copy").must_succeed()
            assert client.seen()["errors"] == []
        assert set(way_of(played).values()) == {"copy"}
        value = site.ask("get", "counter")
        site.restarted()
        assert site.ask("get", "counter") == value != ""
        assert site.on("node2", f"cat {inside(site, site.name)}/anonymous/file") == "kept"
        listed = "docker volume ls -q --filter label=com.docker.volume.anonymous"
        assert len(site.on("node2", listed).split()) == 1, "the copy, and none made anew"
    finally:
        site.end()


def inside(site: Site, container: str) -> str:
    """The root directory of a container, on its node."""
    template = "{{.State.Pid}}"
    pid = site.on(site.node, f"{site.engine} inspect {container} --format '{template}'")
    return f"/proc/{pid}/root"


def test_a_pod_takes_the_volume_that_its_containers_share(lab: Lab) -> None:
    """Two servers, each with a log of its own in it."""
    site = Site(lab, 152, "podman-pod")
    create = f"podman create --pod {site.name} -v shared:/data"
    second = "--port 6380 --appenddirname second"
    try:
        site.start(
            f"podman pod create --name {site.name} --network ns:/run/netns/{site.space}",
            f"{create} --name {site.name}-first {IMAGE} {REDIS}",
            f"{create} --name {site.name}-second {IMAGE} {REDIS} {second}",
            f"podman pod start {site.name}",
        )
        with TrafficClientOf(site) as client:
            played = site.move(volumes="copy").must_succeed()
            assert client.seen()["errors"] == []
        volumes = played.outcome["plan"]["about"]["volumes"]
        assert [volume["name"] for volume in volumes] == ["shared"], "copied once"
        site.ask("-p", "6380", "set", "key", "written-after-the-move")
        roots = [inside(site, f"{site.name}-{one}") for one in ("first", "second")]
        logs = f"{site.files('node2', 'shared')}/second"
        for place in (logs, *(f"{root}/data/second" for root in roots)):
            found = site.on("node2", f"grep -c written-after-the-move -r {place} | grep -c :1")
            assert found == "1", f"both containers and the node see one volume: {place}"
    finally:
        site.end()
