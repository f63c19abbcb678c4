# SPDX-License-Identifier: Apache-2.0
"""What keeps nodes from moving workloads, and what to do, from what node_info says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Who brings an engine that is missing.
_ROLES = {"podman": "podman", "podman-pod": "podman", "docker": "docker"}
_COLUMNS = ("node", "kernel", "cgroup", "CRIU")

Problem = dict[str, str]


def problems(
    name: str, node: Mapping[str, Any], runtimes: Sequence[str], brought: Sequence[str] = ()
) -> list[Problem]:
    """Why workloads of these runtimes cannot come to the node, each with what to do.

    CRIU and engines are no problem where a role of ``brought`` sees to them afterwards, whatever
    they lack: it installs, sets up and starts them, and tries them then.
    """
    found = [*_of_the_kernel(name, node), *_of_criu(name, node["criu"], brought)]
    # A process needs no engine: what is said of CRIU is said of it.
    for runtime in [one for one in runtimes if one != "process"]:
        role = _ROLES.get(runtime, "containerd or crio")
        ability = node["runtimes"].get(runtime)
        if ability is None:
            known = ", ".join(sorted(node["runtimes"]))
            found.append(_problem(name, f'there is no runtime "{runtime}"', f"use one of {known}"))
        elif not ability["restores"] and role not in brought:
            found.append(
                _problem(name, f"{runtime}: {ability['reason']}", f"apply the role {role}")
            )
    return found


def _of_the_kernel(name: str, node: Mapping[str, Any]) -> list[Problem]:
    if node["cgroup"]["freezer"]:
        return []
    what = f"no freezer hierarchy (cgroup version {node['cgroup']['version']} alone)"
    do = "mount it: mount -t cgroup -o freezer freezer /sys/fs/cgroup/freezer"
    return [_problem(name, what, do)]


def _of_criu(name: str, criu: Mapping[str, Any], brought: Sequence[str]) -> list[Problem]:
    if criu["ok"] or "criu" in brought:
        return []
    if criu["version"] is None:
        return [_problem(name, "CRIU is not installed", "apply the role criu")]
    return [
        _problem(
            name,
            f"CRIU {criu['version']} says of the kernel: {criu['message']}",
            "apply the role criu, which takes a newer one, or use another kernel",
        )
    ]


def _problem(node: str, what: str, do: str) -> Problem:
    return {"node": node, "what": what, "do": do}


def processor_problem(name: str, other: str, said: str) -> Problem:
    """What is dumped on the other node cannot be restored on this one."""
    return _problem(
        name,
        f"it cannot restore what is dumped on {other}: {said}",
        f"move workloads between nodes with like processors, or leave {name} or {other} out",
    )


def table(nodes: Mapping[str, Mapping[str, Any]], runtimes: Sequence[str]) -> list[str]:
    """Nodes by name, as lines that a person reads."""
    rows = [[*_COLUMNS, *runtimes, "processor"]]
    for name, node in nodes.items():
        criu = node["criu"]
        rows.append(
            [
                name,
                node["kernel"]["release"],
                f"v{node['cgroup']['version']}"
                + ("" if node["cgroup"]["freezer"] else ", no freezer"),
                "missing" if criu["version"] is None else _mark(criu["version"], criu["ok"]),
                *(_ability(node["runtimes"].get(runtime)) for runtime in runtimes),
                str(node["cpu"].get("name", "")),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]


def _ability(ability: Mapping[str, Any] | None) -> str:
    if ability is None:
        return "unknown"
    if ability["version"] is None:
        return "missing"
    return "restores" if ability["restores"] else "does not restore"


def _mark(version: str, works: bool) -> str:
    return version if works else f"{version}, fails"
