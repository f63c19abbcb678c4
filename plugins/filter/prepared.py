# SPDX-License-Identifier: Apache-2.0
"""Filters of the role prepared_workload; what they say is made in plugin_utils/prepared.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils import prepared
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import placeholder


def prepared_workload(
    manifest: Mapping[str, Any], state: str = "present", commands: Sequence[Any] = ()
) -> dict[str, Any]:
    """What there is to do to a workload."""
    return prepared.plan(dict(manifest), state, commands)


def placeholder_program(machine: str) -> str:
    """Where the controller has the program for nodes of this machine; it is compiled first."""
    try:
        return str(placeholder.file(machine))
    except FlowferryError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Names them for Ansible."""

    def filters(self) -> dict[str, Any]:
        """By their names."""
        return {
            "prepared_workload": prepared_workload,
            "placeholder_program": placeholder_program,
        }
