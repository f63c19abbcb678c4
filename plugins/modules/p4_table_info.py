#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: p4_table_info

short_description: Read tables, entries and counters of a P4 switch

version_added: 0.1.0

description:
  - Describes the tables of the running program (match fields, actions, parameters, size), and
    reads their entries and counters.
  - Reads only. It never becomes the primary controller, so it may run beside any other.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.looking
  - flowferry.core.p4runtime

options:
  tables:
    description:
      - Names of the tables to read. Left out, all of them.
    type: list
    elements: str

  match:
    description:
      - Only entries whose match fields have these values. Needs exactly one table in O(tables).
    type: dict

  defaults:
    description:
      - Whether to return default entries too.
    type: bool
    default: false

  counters:
    description:
      - Whether to return the counters of entries, and all indirect counters.
    type: bool
    default: false

seealso:
  - module: flowferry.core.p4_table
"""

EXAMPLES = r"""
- name: Read everything, with counters
  flowferry.core.p4_table_info:
    address: 198.18.0.2:9559
    counters: true
  delegate_to: localhost
  register: switch

- name: Where does the traffic for this service go?
  flowferry.core.p4_table_info:
    address: 198.18.0.2:9559
    tables: [backend]
    match: {backend_id: 1}
  delegate_to: localhost
  register: backend
"""

RETURN = r"""
entries:
  description: The entries that were found. Without C(counter), each can be given to
    M(flowferry.core.p4_table).
  returned: success
  type: list
  elements: dict
  sample:
    - table: backend
      match: {backend_id: 1}
      action: translate
      params: {address: 198.19.0.11, port: 6379}
      counter: {packets: 12, bytes: 1440}

tables:
  description: The tables of the program, or those in O(tables), by name.
  returned: success
  type: dict
  sample:
    backend:
      full_name: ingress.backend
      size: 4096
      entries: 1
      constant: false
      has_counter: true
      needs_priority: false
      match_fields:
        - {name: backend_id, match_type: exact, width: 16, shown_as: integer}
      actions:
        translate:
          - {name: address, width: 32, shown_as: IPv4 address}
          - {name: port, width: 16, shown_as: integer}

indirect_counters:
  description: Cells of the indirect counters that have counted something, by name and index.
  returned: when O(counters=true)
  type: dict
  sample:
    dropped:
      "2": {packets: 3, bytes: 180}

error_type:
  description: Kind of the failure, such as V(NoPipeline), V(UnknownName) or V(SwitchUnreachable).
  returned: failure
  type: str
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import p4_plan, p4runtime

with suppress(ImportError):  # require_client() reports it
    from flowferry_p4.client import P4Error, Session, Table

if TYPE_CHECKING:
    from flowferry_p4.client import Field, Value

ARGUMENTS: dict[str, dict[str, Any]] = {
    **p4runtime.ARG_SPEC,
    "tables": {"type": "list", "elements": "str"},
    "match": {"type": "dict"},
    "defaults": {"type": "bool", "default": False},
    "counters": {"type": "bool", "default": False},
}


def describe(table: Table, used: int) -> dict[str, Any]:
    """A table in plain words."""
    return {
        "full_name": table.full_name,
        "size": table.size,
        "entries": used,
        "constant": table.is_const,
        "has_counter": table.has_counter,
        "needs_priority": table.needs_priority,
        "match_fields": [
            {"match_type": field.match_type, **describe_value(field)}
            for field in table.fields.values()
        ],
        "actions": {
            action.name: [describe_value(param) for param in action.params.values()]
            for action in table.actions.values()
        },
    }


def describe_value(value: Value | Field) -> dict[str, Any]:
    return {"name": value.name, "width": value.type.width, "shown_as": value.type.kind.value}


def indirect_counters(session: Session) -> dict[str, Any]:
    """Every cell that has counted something."""
    return {
        name: {
            str(index): {"packets": cell.packets, "bytes": cell.bytes}
            for index, cell in session.read_counter(name).items()
            if cell.packets or cell.bytes
        }
        for name in session.schema.counters
    }


def gather(params: dict[str, Any], session: Session) -> dict[str, Any]:
    names = params["tables"]
    tables = (
        session.schema.tables.values()
        if names is None
        else [session.schema.table(name) for name in names]
    )
    entries = session.read(names, params["match"], params["counters"], defaults=True)
    used = [entry.table for entry in entries if not entry.is_default]
    result: dict[str, Any] = {
        "entries": [
            p4_plan.entry_dict(entry)
            for entry in entries
            if params["defaults"] or not entry.is_default
        ],
        "tables": {table.name: describe(table, used.count(table.name)) for table in tables},
    }
    if params["counters"]:
        result["indirect_counters"] = indirect_counters(session)
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    p4runtime.require_client(module)
    try:
        with p4runtime.open_session(module, primary=False) as session:
            result = gather(module.params, session)
    except P4Error as error:
        p4runtime.fail(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
