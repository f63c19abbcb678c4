# SPDX-License-Identifier: Apache-2.0
"""The demo: Redis moves to the other node and back, with its clients connected.

python3 -m demo.run        (`make demo` builds the lab first)
"""

from __future__ import annotations

from .lab_control import Lab, LabError
from .traffic import TrafficClient

ROLES = {"pingpong": "producer", "reader": "application"}


def main() -> None:
    """Show Redis, move it there and back, and show that it is the same."""
    lab = Lab.chosen()
    lab.require_running()
    say("Redis in Podman, a producer that counts up, an application that reads.")
    node = next(iter(lab.holders()), "node1")
    lab.playbook("demo_workload.yml", demo_node=node).must_succeed()
    clients = [TrafficClient(lab, kind, "counter") for kind in ROLES]
    try:
        runs = [show(lab, clients)]
        for _ in range(2):
            destination = lab.elsewhere()
            say(f"\n$ ansible-playbook playbooks/migrate.yml -e workload=redis -e {destination=!s}")
            lab.migrate(destination, watched=True).must_succeed()
            runs.append(show(lab, clients))
    finally:
        last = [client.end() for client in clients]
    harmed = [error for seen in last for error in seen.get("errors", ["a client ended"])]
    if harmed or len(set(runs)) != 1:
        raise LabError(f"connections were harmed: {harmed}; run ids of Redis: {runs}")
    say("\nSame Redis, same connections, nothing lost or repeated.")


def show(lab: Lab, clients: list[TrafficClient]) -> str:
    """Redis and its clients, in a few lines; returns its run id."""
    sights = [client.seen() for client in clients]
    lines = [line.split(":", 1) for line in lab.redis("INFO").splitlines() if ":" in line]
    redis = {name: value.strip() for name, value in lines}
    # The client that asks is one of those that are connected.
    connected = int(redis["connected_clients"]) - 1
    say(
        f"\nRedis on {lab.location()}: run id {redis['run_id'][:12]}, "
        f"uptime {redis['uptime_in_seconds']} s, connected clients {connected}"
    )
    for seen in sights:
        say(
            f"  {ROLES[seen['kind']]:<12} counter {seen['value']:>7}   "
            f"longest silence {seen['longest_ms']:7.1f} ms   errors {len(seen['errors'])}"
        )
    return redis["run_id"]


def say(line: str) -> None:
    """At once, so that it stands before what a playbook says after it."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        raise SystemExit(f"demo: {error}") from None
