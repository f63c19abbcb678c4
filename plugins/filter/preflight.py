# SPDX-License-Identifier: Apache-2.0
"""Filters of the role preflight; what they say is made in plugin_utils/preflight.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.flowferry.core.plugins.plugin_utils import preflight


def preflight_problems(
    nodes: Mapping[str, Any],
    runtimes: Sequence[str],
    brought: Sequence[str] = (),
    compared: Mapping[str, Any] | None = None,
) -> list[dict[str, str]]:
    """Problems of all nodes, {name: node_info}; ``compared`` is {name: {other: node_info}}."""
    found = [
        problem
        for name, node in nodes.items()
        for problem in preflight.problems(name, node, runtimes, brought)
    ]
    for name, others in (compared or {}).items():
        for other, result in others.items():
            if not result["cpu_compatible"]:
                found.append(preflight.processor_problem(name, other, result["cpu_message"]))
    return found


class FilterModule:
    """Names them for Ansible."""

    def filters(self) -> dict[str, Any]:
        """By their names."""
        return {"preflight_problems": preflight_problems, "preflight_table": preflight.table}
