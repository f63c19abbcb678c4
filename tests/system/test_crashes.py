# SPDX-License-Identifier: Apache-2.0
"""Whoever dies, and whenever: one Redis serves in the end, and a connection from before goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from demo.lab_control import NODES, Lab

PHASES = ["prepare", "hold", "checkpoint", "transfer", "restore", "redirect", "release", "clean"]
COMMITTED = {"redirect", "release", "clean"}

# One connection for good: a request a line in, its answer a line out.
_CLIENT = """
import socket, sys
s = socket.create_connection(("%s", 6379), 5)
s.settimeout(40)
f = s.makefile("rb")
for line in sys.stdin:
    s.sendall(line.strip().encode() + b"\\r\\n")
    print(f.readline().decode().strip(), flush=True)
"""


class Connection:
    """A client's connection to Redis that stays open."""

    def __init__(self, lab: Lab) -> None:
        script = _CLIENT % lab.address
        self.process: subprocess.Popen[str] = lab.popen("client", f"python3 -u -c '{script}'")
        self.count = int(self.ask("INCR crashes")[1:])

    def ask(self, request: str) -> str:
        """Send a request and wait for its answer."""
        self.send(request)
        return self.answer()

    def send(self, request: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the connection from before the migration broke"
        return line

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def connection(lab: Lab) -> Iterator[Connection]:
    opened = Connection(lab)
    yield opened
    opened.close()


def _crash_and_rerun(lab: Lab, connection: Connection, fault: str) -> None:
    before, destination = lab.run_id(), lab.elsewhere()
    broken = lab.migrate_with_fault(destination, fault)
    phase, party = fault.split(":")
    if party == "keeper":
        assert broken.returncode != 0
        assert broken.failure["code"] == "keeper_lost", broken.outcome
        assert "run the playbook again: it finishes or rolls back" in broken.outcome["msg"]
    assert lab.journals(), "the journal must remain until the migration is finished"

    connection.send("INCR crashes")  # may be held until the rerun
    rerun = lab.migrate(destination).must_succeed()
    wanted = "finished" if phase in COMMITTED else "rolled back"
    assert rerun.outcome["recovered"] == wanted, rerun.outcome
    assert connection.answer() == f":{connection.count + 1}", "a request was lost or done twice"
    assert lab.location() == destination
    assert lab.run_id() == before
    assert lab.traces() == []
    assert lab.journals() == []


@pytest.mark.parametrize("phase", PHASES)
def test_the_keeper_dies(lab: Lab, connection: Connection, phase: str) -> None:
    _crash_and_rerun(lab, connection, f"{phase}:keeper")


@pytest.mark.parametrize("phase", ["hold", "checkpoint", "redirect"])
def test_the_source_helper_dies(lab: Lab, connection: Connection, phase: str) -> None:
    _crash_and_rerun(lab, connection, f"{phase}:source")


@pytest.mark.parametrize("phase", ["prepare", "transfer"])
def test_the_destination_helper_dies(lab: Lab, connection: Connection, phase: str) -> None:
    _crash_and_rerun(lab, connection, f"{phase}:destination")


def test_redis_serves_on_while_the_destination_is_lost(lab: Lab, connection: Connection) -> None:
    """Nobody knows what became of the copy; the guard keeps it unheard, and the source goes on."""
    source, destination = lab.location(), lab.elsewhere()
    broken = lab.migrate_with_fault(destination, "transfer:destination")
    assert broken.failure["code"] == "helper_lost", broken.outcome
    assert f"the helper on {destination} is gone" in broken.outcome["msg"]
    assert connection.ask("INCR crashes") == f":{connection.count + 1}"
    assert [(entry.table, entry.match["ingress_port"]) for entry in lab.traces()] == [
        ("guard", NODES[destination])
    ]
    assert lab.migrate(source).must_succeed().outcome["recovered"] == "rolled back"
    assert lab.location() == source
    assert lab.traces() == []
    assert lab.journals() == []


def test_after_the_commit_a_lost_destination_changes_nothing(
    lab: Lab, connection: Connection
) -> None:
    destination = lab.elsewhere()
    assert not lab.migrate_with_fault(destination, "redirect:destination").must_succeed().failure
    assert connection.ask("INCR crashes") == f":{connection.count + 1}"
    assert lab.location() == destination
    assert lab.traces() == []
    assert lab.journals() == []
