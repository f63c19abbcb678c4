# SPDX-License-Identifier: Apache-2.0
"""Ways to move Redis that are compared: each runtime of Flowferry, and the way by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from demo.lab_control import NODES, Lab, LabError

from .switch import redirect

NAME = "bench"
NAMESPACE = f"ff-{NAME}"


@dataclass(frozen=True)
class Runtime:
    """How a runtime's workload is told from others, on a node."""

    name: str
    workload: str
    """As playbooks/migrate.yml is told."""
    listing: str
    """A command that prints something on the node where the workload runs."""
    removal: str
    """A command that takes the workload away, and succeeds when there is none."""
    options: tuple[tuple[str, str], ...] = ()
    """Variables of playbooks/migrate.yml beside the workload."""

    @property
    def started_as(self) -> str:
        """The demo's name of it: how its memory moves is no matter of how it is started."""
        return self.name.removesuffix("-post-copy")

    @property
    def is_kubernetes(self) -> bool:
        return self.workload.startswith("pod:")


_PROCESS = Runtime(
    "process",
    workload=f"process:{NAMESPACE}",
    listing=f"ip netns pids {NAMESPACE} 2>/dev/null || true",
    removal=f"ip netns pids {NAMESPACE} 2>/dev/null | xargs --no-run-if-empty kill -9",
)
# In the Kubernetes lab; benchmark/pods.py asks the API server instead of the nodes.
_POD = Runtime("pod", workload=f"pod:default/{NAME}", listing="", removal="")
_DIRECT, _POST_COPY = ("migration_method", "direct"), ("memory", "post-copy")
RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "podman",
            workload=NAME,
            listing=f"podman ps --quiet --filter name=^{NAME}$",
            removal=f"podman rm --force --ignore --time 0 {NAME}",
        ),
        Runtime(
            "podman-pod",
            workload=f"podman-pod:{NAME}",
            listing=f"podman pod ps --quiet --filter name=^{NAME}$ --filter status=running",
            removal=f"podman pod rm --force --ignore --time 0 {NAME}",
        ),
        Runtime(
            "docker",
            workload=f"docker:{NAME}",
            listing=f"docker ps --quiet --filter name=^{NAME}$",
            removal=f"docker rm --force {NAME} {NAMESPACE} >/dev/null 2>&1 || true",
        ),
        _PROCESS,
        replace(_PROCESS, name="process-post-copy", options=(_POST_COPY,)),
        replace(_POD, options=(("migration_method", "kubelet"),)),
        replace(_POD, name="pod-direct", options=(_DIRECT,)),
        replace(_POD, name="pod-post-copy", options=(_DIRECT, _POST_COPY)),
    )
}
"""What the demo's playbooks can start, and playbooks/migrate.yml can move."""


@dataclass
class Moved:
    """What a move said about itself; what clients saw of it is another matter."""

    total_ms: float
    phases: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)


Mover = Callable[[Lab, Runtime, str, str], Moved]
"""Moves the workload of a runtime from one node to the other."""


def with_flowferry(lab: Lab, runtime: Runtime, source: str, destination: str) -> Moved:
    """playbooks/migrate.yml."""
    began = time.monotonic()
    wanted = {"workload": runtime.workload, **dict(runtime.options)}
    result = lab.migrate(destination, **wanted).must_succeed().outcome
    total = (time.monotonic() - began) * 1000
    known = ("hold_ms", "own_ms", "image_bytes", "held_packets", "overflow_packets")
    of_memory = ("memory_bytes", "memory_faults", "memory_longest_ms")
    more = [name for name in of_memory if name in result]
    return Moved(total, result["phases"], {name: result[name] for name in (*known, *more)})


def by_hand(lab: Lab, runtime: Runtime, source: str, destination: str) -> Moved:
    """What an operator types without Flowferry; the switch is updated last.

    Preparing the destination's address and cleaning up are not timed.
    """
    if runtime.name != "podman":
        raise LabError(f"there is no way by hand for {runtime.name}")
    archive = f"/var/tmp/{NAME}.tar.gz"
    checkpoint = (
        f"podman container checkpoint --tcp-established -e {archive} --compress gzip {NAME}"
    )
    restore = f"podman container restore --tcp-established -i {archive}"
    endpoint(lab, destination, "present")
    with _criu_defaults(lab):
        timed = Timed()
        timed("checkpoint", lambda: lab.run(source, checkpoint, log_in=True))
        timed("transfer", lambda: lab.copy(source, destination, archive))
        timed("restore", lambda: lab.run(destination, restore, log_in=True))
        timed("redirect", lambda: redirect(lab, destination))
    for node in NODES:
        lab.run(node, f"rm -f {archive}")
    lab.run(source, runtime.removal)
    endpoint(lab, source, "absent")
    return Moved(sum(phase["ms"] for phase in timed.phases), timed.phases)


class Timed:
    """Runs steps one after the other, and remembers how long each took."""

    def __init__(self) -> None:
        self.phases: list[dict[str, Any]] = []

    def __call__(self, name: str, step: Callable[[], object]) -> None:
        began = time.monotonic()
        step()
        self.phases.append({"name": name, "ms": round((time.monotonic() - began) * 1000, 2)})


@contextmanager
def _criu_defaults(lab: Lab) -> Iterator[None]:
    """Let CRIU lock the network itself while the way by hand is gone.

    Flowferry's nodes leave that to the switch's hold. Without either, every connection is reset.
    """
    file = "/etc/criu/runc.conf"
    for node in NODES:
        lab.run(node, f"cp {file} {file}.kept && sed -i /network-lock/d {file}")
    try:
        yield
    finally:
        for node in NODES:
            lab.run(node, f"mv {file}.kept {file}")


def endpoint(lab: Lab, node: str, state: str) -> None:
    """The namespace that has the workload's address."""
    address = {"address": lab.address} if state == "present" else {}
    result = lab.module(node, "endpoint", name=NAMESPACE, state=state, **address)
    if result.get("failed"):
        raise LabError(f"endpoint {NAMESPACE} on {node}: {result['msg']}")
