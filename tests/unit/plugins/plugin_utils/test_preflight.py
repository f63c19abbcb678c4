# SPDX-License-Identifier: Apache-2.0
"""What keeps a node from taking part, in words, and what is no problem."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.flowferry.core.plugins.filter.preflight import preflight_problems
from ansible_collections.flowferry.core.plugins.plugin_utils.preflight import problems, table

GOOD: dict[str, Any] = {
    "kernel": {"release": "6.18.5", "machine": "x86_64"},
    "cgroup": {"version": 1, "freezer": True},
    "criu": {"version": "4.2.1", "ok": True, "message": "Looks good."},
    "runtimes": {
        "podman": {"version": "podman version 5.4.2", "restores": True, "reason": ""},
        "docker": {"version": None, "restores": False, "reason": "docker is not installed"},
    },
    "cpu": {"name": "A processor", "image": "aW1hZ2U="},
}


def node(**differs: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **differs}


def test_a_good_node_has_none() -> None:
    assert problems("node1", GOOD, ["podman"]) == []


def test_each_problem_says_what_to_do() -> None:
    bad = node(
        cgroup={"version": 2, "freezer": False},
        criu={"version": "4.1", "ok": False, "message": "no PIDFD"},
    )
    found = problems("node1", bad, ["podman", "docker", "lxc", "process"])
    assert [problem["node"] for problem in found] == ["node1"] * 4
    assert [problem["what"] for problem in found] == [
        "no freezer hierarchy (cgroup version 2 alone)",
        "CRIU 4.1 says of the kernel: no PIDFD",
        "docker: docker is not installed",
        'there is no runtime "lxc"',
    ]
    assert [problem["do"].split()[0] for problem in found] == ["mount", "apply", "apply", "use"]


def test_what_comes_later_may_be_missing_or_stand_still() -> None:
    missing = node(criu={"version": None, "ok": False, "message": "criu is not installed"})
    assert problems("node1", missing, ["docker"], ["criu", "docker"]) == []
    assert len(problems("node1", missing, ["docker"], ["docker"])) == 1
    still = node(runtimes={"docker": {"version": "28", "restores": False, "reason": "no socket"}})
    assert problems("node1", still, ["docker"], ["docker"]) == []
    assert [one["do"] for one in problems("node1", still, ["docker"])] == ["apply the role docker"]
    frozen = node(cgroup={"version": 2, "freezer": False})
    assert len(problems("node1", frozen, ["podman"], ["criu", "podman"])) == 1


def test_processors_are_compared_both_ways() -> None:
    good, bad = ({"cpu_compatible": yes, "cpu_message": "no AVX"} for yes in (True, False))
    found = preflight_problems(
        {"a": GOOD, "b": GOOD}, ["podman"], compared={"a": {"b": good}, "b": {"a": bad}}
    )
    (problem,) = found
    assert problem["node"] == "b" and "dumped on a: no AVX" in problem["what"]


def test_the_table_has_a_line_for_each_node() -> None:
    lines = table(
        {"node1": GOOD, "second": node(cgroup={"version": 2, "freezer": False})},
        ["podman", "docker"],
    )
    assert lines == [
        "node    kernel  cgroup          CRIU   podman    docker   processor",
        "node1   6.18.5  v1              4.2.1  restores  missing  A processor",
        "second  6.18.5  v2, no freezer  4.2.1  restores  missing  A processor",
    ]
