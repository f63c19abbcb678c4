#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: p4_table

short_description: Manage table entries of a P4 switch

version_added: 0.1.0

description:
  - Adds, changes and removes entries of the tables of a running P4 program through P4Runtime, by
    the names of tables, match fields, actions and parameters.
  - Reads the tables first and sends only what differs, all of it in one batch.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.p4runtime

attributes:
  check_mode:
    support: full
    description: Can run in check_mode and return changed status prediction without modifying
      target.
    details:
      - The tables are read, nothing is written, and the task does not become the primary
        controller.
  diff_mode:
    support: full
    description: Will return details on what has changed (or possibly needs changing in
      check_mode), when in diff mode.
    details:
      - One line an entry, values in their normal form.
  idempotent:
    support: full
    description: When run twice in a row outside check mode, with the same arguments, the second
      invocation indicates no change.

options:
  address:
    description:
      - Where the switch serves P4Runtime, as C(host:port).
      - Required unless O(state=rendered).
    type: str
    required: false

  state:
    description:
      - V(merged) adds the entries that are missing and changes those that differ. Parameters, or
        the action, that an entry leaves out are taken from the entry on the switch. Other entries
        stay.
      - V(replaced) makes every table that is named, in O(entries) or in O(tables), hold exactly
        the given entries. Default entries stay unless they are given. Other tables stay.
      - V(overridden) makes all tables of the program hold exactly the given entries, and sets
        default entries that are not given back to those of the program, where the p4info tells
        what these are.
      - V(deleted) removes the given entries, and all entries of the tables in O(tables). A default
        entry goes back to that of the program.
      - V(gathered) reads the entries, of all tables or of those in O(tables), and changes nothing.
      - V(rendered) shows the normal form of the entries and the P4Runtime request that would
        insert them. It needs O(p4info) and no switch.
      - Constant tables and constant entries are part of the program and always stay.
    type: str
    choices:
      - merged
      - replaced
      - overridden
      - deleted
      - gathered
      - rendered
    default: merged

  entries:
    description:
      - The table entries. Required for V(merged), V(overridden) and V(rendered); V(replaced) and
        V(deleted) need it or O(tables).
    type: list
    elements: dict
    suboptions:
      table:
        description:
          - Name of the table, such as V(route), or in full V(ingress.route).
        type: str
        required: true
      match:
        description:
          - Values by match field. Addresses may be written as such, MAC addresses too (quoted),
            and every value as an integer or as V(0x) hexadecimal.
          - Longest prefix matches are written V(198.19.0.0/24), ternary ones V(value&&&mask),
            ranges V(low..high).
        type: dict
      action:
        description:
          - Name of the action.
        type: str
      params:
        description:
          - Values by parameter of the action, written like those of O(entries[].match).
        type: dict
      priority:
        description:
          - Needed in tables with ternary, range or optional fields, and only there. The highest
            wins.
        type: int
      default:
        description:
          - Whether this is the table's default entry. It has no match, and always exists, so it is
            changed by C(MODIFY) only.
        type: bool
        default: false

  tables:
    description:
      - Names of further tables that O(state=replaced) and O(state=deleted) empty, or the only
        tables that O(state=gathered) reads.
    type: list
    elements: str

  p4info:
    description:
      - Path of the program's p4info in text form, for O(state=rendered).
    type: path

seealso:
  - module: flowferry.core.p4_table_info
  - module: flowferry.core.p4_pipeline
"""

EXAMPLES = r"""
# Before: the table "backend" has
#   backend backend_id=1 -> translate(address=198.19.0.11, port=6379)

- name: Point backend 1 at another node and add a second one
  flowferry.core.p4_table:
    address: 198.18.0.2:9559
    state: merged
    entries:
      - table: backend
        match: {backend_id: 1}
        params: {address: 198.19.0.12}     # the action and the port stay as they are
      - table: backend
        match: {backend_id: 2}
        action: translate
        params: {address: 198.19.0.11, port: 6380}
  delegate_to: localhost

# After:
#   backend backend_id=1 -> translate(address=198.19.0.12, port=6379)
#   backend backend_id=2 -> translate(address=198.19.0.11, port=6380)

- name: Have exactly this route, whatever else the table holds now, and no reply entry
  flowferry.core.p4_table:
    address: 198.18.0.2:9559
    state: replaced
    entries:
      - table: route
        match: {destination: 198.19.0.11/32}
        action: forward
        params: {port: 1, source_mac: "02:ff:00:00:00:01", destination_mac: "02:ff:00:00:00:0b"}
    tables: [reply]
  delegate_to: localhost

- name: Have nothing but this in all tables of the switch
  flowferry.core.p4_table:
    address: 198.18.0.2:9559
    state: overridden
    entries:
      - table: arp
        match: {target: 198.19.0.0/24}
        action: answer
        params: {mac: "02:ff:00:00:00:01"}
  delegate_to: localhost

- name: Remove one backend and empty a table
  flowferry.core.p4_table:
    address: 198.18.0.2:9559
    state: deleted
    entries:
      - table: backend
        match: {backend_id: 2}
    tables: [route]
  delegate_to: localhost

- name: Change the default entry of a table
  flowferry.core.p4_table:
    address: 198.18.0.2:9559
    entries:
      - table: route
        default: true
        action: drop
  delegate_to: localhost

- name: Read two tables in a form that can be given back as entries
  flowferry.core.p4_table:
    address: 198.18.0.2:9559
    state: gathered
    tables: [backend, route]
  delegate_to: localhost
  register: found

- name: See what would be sent, without a switch
  flowferry.core.p4_table:
    state: rendered
    p4info: p4/compiled/flowferry.p4info.txtpb
    entries:
      - table: backend
        match: {backend_id: 0x10}
        action: translate
        params: {address: 198.19.0.11, port: 6379}
  delegate_to: localhost
"""

RETURN = r"""
before:
  description: Entries of the tables concerned, default entries too, as they were. Each can be
    given as one of O(entries).
  returned: when O(state) is V(merged), V(replaced), V(overridden) or V(deleted)
  type: list
  elements: dict
  sample:
    - table: backend
      match: {backend_id: 1}
      action: translate
      params: {address: 198.19.0.11, port: 6379}

after:
  description: The same tables as they are now; in check mode, as they would be.
  returned: when O(state) is V(merged), V(replaced), V(overridden) or V(deleted)
  type: list
  elements: dict
  sample:
    - table: backend
      match: {backend_id: 1}
      action: translate
      params: {address: 198.19.0.12, port: 6379}

updates:
  description:
    - The updates of the batch, in order; in check mode, those that would be sent.
    - Each is an entry with the C(kind) of update, and the entry C(before) where there was one.
  returned: when O(state) is V(merged), V(replaced), V(overridden) or V(deleted)
  type: list
  elements: dict
  sample:
    - kind: MODIFY
      table: backend
      match: {backend_id: 1}
      action: translate
      params: {address: 198.19.0.12, port: 6379}
      before:
        table: backend
        match: {backend_id: 1}
        action: translate
        params: {address: 198.19.0.11, port: 6379}

gathered:
  description: The entries that were read, without default entries.
  returned: when O(state=gathered)
  type: list
  elements: dict

rendered:
  description: The normal form of the entries.
  returned: when O(state=rendered)
  type: list
  elements: dict

request:
  description: The P4Runtime WriteRequest for the entries, as protobuf text.
  returned: when O(state=rendered)
  type: str

errors:
  description:
    - One item for each entry that is wrong or that the switch refused.
    - When entries are wrong by themselves, nothing was sent. When the switch refused some,
      C(updates) lists the others, which were applied.
  returned: on failure of single entries
  type: list
  elements: dict
  contains:
    index:
      description: Position in O(entries), counted from 0; null for an entry that the task did not
        name.
      type: int
    table:
      description: The table.
      type: str
    key:
      description: What identifies the entry, in one line.
      type: str
    code:
      description: V(UNKNOWN_NAME), V(BAD_VALUE), or the canonical code of the switch such as
        V(RESOURCE_EXHAUSTED).
      type: str
    message:
      description: What is wrong.
      type: str
    remedy:
      description: What to do about it.
      type: str

error_type:
  description: Kind of the failure when it does not concern single entries, such as V(NotPrimary)
    or V(SwitchUnreachable).
  returned: on such a failure
  type: str
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import p4_plan, p4runtime

with suppress(ImportError):  # require_client() reports it
    from flowferry_p4.client import BadValue, P4Error, Schema, Session, WriteError

ENTRY_SPEC: dict[str, dict[str, Any]] = {
    "table": {"type": "str", "required": True},
    "match": {"type": "dict"},
    "action": {"type": "str"},
    "params": {"type": "dict"},
    "priority": {"type": "int"},
    "default": {"type": "bool", "default": False},
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    **p4runtime.ARG_SPEC,
    "address": {"type": "str"},
    "state": {
        "type": "str",
        "choices": ["merged", "replaced", "overridden", "deleted", "gathered", "rendered"],
        "default": "merged",
    },
    "entries": {"type": "list", "elements": "dict", "options": ENTRY_SPEC},
    "tables": {"type": "list", "elements": "str"},
    "p4info": {"type": "path"},
}

REQUIRED_IF = [
    ("state", "merged", ["address", "entries"]),
    ("state", "replaced", ["address"]),
    ("state", "replaced", ["entries", "tables"], True),
    ("state", "overridden", ["address", "entries"]),
    ("state", "deleted", ["address"]),
    ("state", "deleted", ["entries", "tables"], True),
    ("state", "gathered", ["address"]),
    ("state", "rendered", ["entries", "p4info"]),
]


def render(module: AnsibleModule) -> dict[str, Any]:
    """The entries as they would be sent; needs no switch."""
    path = module.params["p4info"]
    try:
        schema = Schema(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadValue(f"cannot read the p4info {path}: {error.strerror}") from None
    plan = p4_plan.Planner(schema, "rendered", module.params["entries"]).plan([])
    updates = [item.update for item in plan.changes]
    return {
        "changed": False,
        "rendered": [p4_plan.entry_dict(update.entry) for update in updates],
        "request": str(schema.write_request(updates, module.params["device_id"])),
    }


def gather(module: AnsibleModule) -> dict[str, Any]:
    """The entries on the switch."""
    with p4runtime.open_session(module, primary=False) as session:
        entries = session.read(module.params["tables"])
    return {"changed": False, "gathered": [p4_plan.entry_dict(entry) for entry in entries]}


def change(module: AnsibleModule) -> dict[str, Any]:
    """Bring the tables into the wanted state."""
    tables = module.params["tables"] or []
    with p4runtime.open_session(module, primary=False) as session:
        planner = p4_plan.Planner(
            session.schema, module.params["state"], module.params["entries"] or []
        )
        have = session.read(planner.scope(tables), defaults=True)
        plan = planner.plan(have, tables)
    if plan.changes and not module.check_mode:
        # Only now: a task that changes nothing leaves the primary controller in peace.
        with p4runtime.open_session(module, primary=True) as session:
            write(module, session, plan)
    result: dict[str, Any] = {
        "changed": bool(plan.changes),
        "before": [p4_plan.entry_dict(entry) for entry in plan.before],
        "after": [p4_plan.entry_dict(entry) for entry in plan.after],
        "updates": [item.as_dict() for item in plan.changes],
    }
    if module._diff:
        result["diff"] = {
            "before": p4_plan.diff_text(plan.before),
            "after": p4_plan.diff_text(plan.after),
        }
    return result


def write(module: AnsibleModule, session: Session, plan: p4_plan.Plan) -> None:
    """Send the batch; a refused update fails the task with its entry and the remedy."""
    try:
        session.write([item.update for item in plan.changes])
    except WriteError as error:
        problems = p4_plan.refused(session.schema, plan.changes, error.errors)
        numbers = {number for number, _, _ in error.errors}
        applied = [item for number, item in enumerate(plan.changes) if number not in numbers]
        if -1 in numbers:
            applied = []
        module.fail_json(
            msg=f"the switch refused {len(problems)} of {len(plan.changes)} updates: "
            + "; ".join(str(problem) for problem in problems),
            errors=[problem.as_dict() for problem in problems],
            updates=[item.as_dict() for item in applied],
            changed=bool(applied),
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS, required_if=REQUIRED_IF, supports_check_mode=True
    )
    p4runtime.require_client(module)
    act = {"rendered": render, "gathered": gather}.get(module.params["state"], change)
    try:
        module.exit_json(**act(module))
    except p4_plan.BadEntries as error:
        module.fail_json(
            msg=f"nothing was sent: {error}",
            errors=[problem.as_dict() for problem in error.problems],
        )
    except P4Error as error:
        p4runtime.fail(module, error)


if __name__ == "__main__":
    main()
