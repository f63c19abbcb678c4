# SPDX-License-Identifier: Apache-2.0
"""The test bed: a Redis of the benchmark's own in the running lab, with clients and memory."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowferry_p4.client import P4Error

from demo.lab_control import NODES, Lab, LabError
from demo.traffic import RemoteClient, TrafficClient

from . import switch
from .methods import NAME, NAMESPACE, Runtime, endpoint

_CROWD = Path(__file__).with_name("crowd_client.py")
_FILL = Path(__file__).with_name("fill_client.py")


class Bed:
    """Redis of one runtime, at an address beside the demo's."""

    def __init__(self, lab: Lab, runtime: Runtime) -> None:
        self.lab = lab
        self.runtime = runtime

    def location(self) -> str:
        """The one node where it runs."""
        found = [node for node in NODES if self.lab.run(node, self.runtime.listing)]
        if len(found) != 1:
            raise LabError(f"{NAME} should run on one node, it runs on {found or 'none'}")
        return found[0]

    def start(self) -> None:
        """Afresh, on node1."""
        self.remove()
        self.lab.playbook(
            "demo_workload.yml",
            demo_name=NAME,
            demo_address=self.lab.address,
            demo_runtime=self.runtime.started_as,
        ).must_succeed()

    def recover(self) -> None:
        """After a move that failed: the next one finishes it, or takes it back."""
        told = {"workload": self.runtime.workload, **dict(self.runtime.options)}
        self.lab.migrate("node1", **told)

    def remove(self) -> None:
        """From wherever it is, with its address."""
        for node in NODES:
            self.lab.run(node, self.runtime.removal)
            if self.lab.run(node, f"ls -d /run/netns/{NAMESPACE}", check=False):
                endpoint(self.lab, node, "absent")
        switch.forget(self.lab)

    def fill(self, megabytes: int) -> None:
        """Incompressible values, and nothing else."""
        self.lab.redis("FLUSHALL")
        arguments = [self.lab.address, "6379", str(megabytes)]
        self.lab.run("client", shlex.join(["python3", "-c", _FILL.read_text(), *arguments]))

    def end_connections(self) -> None:
        """All that Redis has; those as well whose other end knows nothing of them any more."""
        answer = self.lab.redis("CLIENT", "KILL", "TYPE", "normal")
        if not answer.startswith(":"):
            raise LabError(f"Redis does not end its connections: {answer}")

    @contextmanager
    def load(self) -> Iterator[TrafficClient]:
        """A pipelined writer, and the client whose silence is the downtime."""
        writer = TrafficClient(self.lab, "writer", "written", "reconnect")
        pingpong = TrafficClient(self.lab, "pingpong", "counted", "reconnect")
        try:
            writer.seen()
            pingpong.seen()
            yield pingpong
        finally:
            writer.end()
            pingpong.end()

    @contextmanager
    def crowd(self, count: int, idle: int = 0) -> Iterator[RemoteClient]:
        """So many connections, each with a counter of its own, and some that only wait."""
        allowed = self.lab.redis("CONFIG", "SET", "maxclients", str(count + idle + 100))
        if allowed != "+OK":
            raise LabError(f"Redis does not take {count} connections: {allowed}")
        arguments = [str(count), self.lab.address, "6379", str(idle)]
        crowd = RemoteClient(self.lab, _CROWD, *arguments)
        try:
            crowd.seen()
            yield crowd
        finally:
            crowd.end()


def open_lab() -> Lab:
    """The chosen lab, which has to run; its Redis is the benchmark's."""
    lab = Lab.chosen()
    lab.require_running()
    try:
        with lab.session() as session:
            session.read("route")
    except P4Error as error:
        remedy = f"correct it with `FLOWFERRY_LAB_ID={lab.number} make lab`"
        raise LabError(f"lab {lab.number}: {error}; {remedy}") from error
    lab.address = f"{lab.data_network}.101"
    return lab
