# SPDX-License-Identifier: Apache-2.0
"""The demo: Redis moves to the other node and back, with its clients connected.

python3 -m demo.run        (`make demo` builds the lab first)
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from .lab_control import Lab, LabError
from .traffic import TrafficClient

console = Console(highlight=False)
STATE = ("run_id", "uptime_in_seconds", "connected_clients")


def main() -> None:
    """Show Redis, move it there and back, and show that it is the same."""
    lab = Lab.chosen()
    console.rule("Redis on node1")
    node = next(iter(lab.holders()), "node1")
    lab.playbook("demo_workload.yml", demo_node=node).must_succeed()
    producer = TrafficClient(lab, "pingpong", "counter")
    reader = TrafficClient(lab, "reader", "counter")
    try:
        before = show_state(lab, producer, reader)
        for _ in range(2):
            destination = lab.elsewhere()
            console.rule(f"ansible-playbook playbooks/migrate.yml -e destination={destination}")
            started = time.monotonic()
            moved = lab.migrate(destination).must_succeed().outcome
            show_move(moved, time.monotonic() - started)
            after = show_state(lab, producer, reader)
    finally:
        last = producer.end(), reader.end()
    errors = [error for seen in last for error in seen["errors"]]
    same = before["run_id"] == after["run_id"]
    if errors or not same:
        raise LabError(f"connections were harmed: {errors}; same Redis: {same}")
    console.print("\n[green]Same Redis, same connections, nothing lost or repeated.[/green]")


def show_state(lab: Lab, *clients: TrafficClient) -> dict[str, str]:
    """Redis as its clients see it, and the longest silence that each client saw."""
    lines = [line.split(":", 1) for line in lab.redis("INFO").splitlines() if ":" in line]
    state = {name: value.strip() for name, value in lines if name in STATE}
    table = Table(title=f"Redis on {lab.location()}", title_justify="left")
    for column in ("client", "counter", "longest silence", "errors"):
        table.add_column(column, justify="right")
    for client in clients:
        seen = client.seen()
        name = "producer" if seen["kind"] == "pingpong" else "application"
        silence = f"{seen['longest_ms']:.0f} ms"
        table.add_row(name, str(seen["value"]), silence, str(len(seen["errors"])))
    console.print(table)
    console.print(
        f"run id {state['run_id'][:12]}  uptime {state['uptime_in_seconds']} s  "
        f"connected clients {state['connected_clients']}"
    )
    return state


def show_move(moved: dict[str, Any], total: float) -> None:
    """The phases as a timeline; the held ones are drawn solid."""
    held = {"hold", "checkpoint", "transfer", "restore", "redirect", "release"}
    scale = 60 / sum(phase["ms"] for phase in moved["phases"])
    offset = 0.0
    for phase in moved["phases"]:
        mark = "█" if phase["name"] in held else "░"
        bar = " " * int(offset) + mark * max(1, round(phase["ms"] * scale))
        console.print(f"  {phase['name']:<11}{phase['ms']:7.1f} ms  {bar}")
        offset += phase["ms"] * scale
    console.print(
        f"  held for [bold]{moved['hold_ms']:.0f} ms[/bold], {moved['held_packets']} packets kept; "
        f"checkpoint {moved['image_bytes'] / 1e6:.1f} MB; the whole playbook took {total:.1f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        raise SystemExit(f"demo: {error}") from None
