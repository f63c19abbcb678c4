#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: p4_pipeline

short_description: Load a compiled P4 program into a switch

version_added: 0.1.0

description:
  - Makes a switch run a compiled P4 program, through P4Runtime.
  - Nothing is done when the switch runs this program already; its table entries stay then.
  - Loading a program empties all tables, unless O(method=reconcile).

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
      - The program on the switch is read and compared. Whether the switch would accept the new one
        is not asked.
  diff_mode:
    support: full
    description: Will return details on what has changed (or possibly needs changing in
      check_mode), when in diff mode.
    details:
      - Tables, actions and hashes, not the text of the programs.
  idempotent:
    support: partial
    description: When run twice in a row outside check mode, with the same arguments, the second
      invocation indicates no change.
    details:
      - Not with O(force=true), which always loads.

options:
  p4info:
    description:
      - Path of the program's p4info, in text form.
    type: path
    required: true

  device_config:
    description:
      - Path of the program for the target. For BMv2 and the embedded switch, the JSON file of the
        compiler.
    type: path
    required: true

  method:
    description:
      - V(commit) replaces the program and empties all tables.
      - V(reconcile) keeps the entries of tables that both programs have. Not every switch can do
        it.
    type: str
    choices:
      - commit
      - reconcile
    default: commit

  force:
    description:
      - Whether to load the program even though it is the one that runs.
    type: bool
    default: false

seealso:
  - module: flowferry.core.p4_table
  - module: flowferry.core.p4_table_info
"""

EXAMPLES = r"""
- name: Run the Flowferry program on the switch
  flowferry.core.p4_pipeline:
    address: 198.18.0.2:9559
    p4info: p4/compiled/flowferry.p4info.txtpb
    device_config: p4/compiled/flowferry.json
  delegate_to: localhost

- name: Upgrade the program of a switch in use, keeping the entries
  flowferry.core.p4_pipeline:
    address: switch.example.com:9559
    tls: true
    ca: /etc/p4/ca.pem
    p4info: p4/compiled/flowferry.p4info.txtpb
    device_config: p4/compiled/flowferry.json
    method: reconcile
  delegate_to: localhost
"""

RETURN = r"""
before:
  description: The program the switch ran; null when it ran none.
  returned: success
  type: dict
  sample:
    cookie: 6163211424170893526
    p4info_sha256: 2b0f4d7c
    tables: [arp, backend, route]
    actions: [answer, drop, forward, translate]

after:
  description: The program it runs now; in check mode, the one it would run.
  returned: success
  type: dict
  contains:
    cookie:
      description: The number that tells the program from others, made from its content.
      type: int
    p4info_sha256:
      description: Hash of the p4info.
      type: str
    tables:
      description: Names of its tables.
      type: list
      elements: str
    actions:
      description: Names of its actions.
      type: list
      elements: str

error_type:
  description: Kind of the failure, such as V(NotPrimary), V(BadValue) or V(SwitchUnreachable).
  returned: failure
  type: str
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import p4runtime

with suppress(ImportError):  # require_client() reports it
    from flowferry_p4.client import BadValue, P4Error, Pipeline, Schema, Session, cookie_of

ARGUMENTS: dict[str, dict[str, Any]] = {
    **p4runtime.ARG_SPEC,
    "p4info": {"type": "path", "required": True},
    "device_config": {"type": "path", "required": True},
    "method": {"type": "str", "choices": ["commit", "reconcile"], "default": "commit"},
    "force": {"type": "bool", "default": False},
}

ACTIONS = {"commit": "VERIFY_AND_COMMIT", "reconcile": "RECONCILE_AND_COMMIT"}


def wanted_pipeline(params: dict[str, Any]) -> Pipeline:
    """The program of the task's files."""
    config = _read("device_config", params["device_config"])
    text = _read("p4info", params["p4info"])
    try:
        schema = Schema(text.decode())
    except (UnicodeDecodeError, BadValue) as error:
        raise BadValue(f"{params['p4info']}: {error}") from None
    return Pipeline(schema.p4info, cookie_of(schema.p4info, config), config)


def _read(what: str, path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadValue(f"cannot read the {what} {path}: {error.strerror}") from None
    if not content.strip():
        raise BadValue(f"the {what} {path} is empty; compile the program again")
    return content


def is_running(session: Session, found: Pipeline | None, wanted: Pipeline) -> bool:
    """Whether the switch runs the wanted program."""
    if found is None or found.p4info != wanted.p4info:
        return False
    if found.cookie == wanted.cookie:
        return True
    # Loaded by somebody who does not compute cookies as we do: the content decides.
    whole = session.pipeline(device_config=True)
    return whole is not None and whole.device_config == wanted.device_config


def summary(pipeline: Pipeline | None) -> dict[str, Any] | None:
    if pipeline is None:
        return None
    content = pipeline.p4info.SerializeToString(deterministic=True)
    return {
        "cookie": pipeline.cookie,
        "p4info_sha256": hashlib.sha256(content).hexdigest(),
        "tables": sorted(table.preamble.alias for table in pipeline.p4info.tables),
        "actions": sorted(action.preamble.alias for action in pipeline.p4info.actions),
    }


def apply(module: AnsibleModule) -> dict[str, Any]:
    wanted = wanted_pipeline(module.params)
    with p4runtime.open_session(module, primary=False) as session:
        found = session.pipeline()
        same = is_running(session, found, wanted)
    changed = module.params["force"] or not same
    if changed and not module.check_mode:
        with p4runtime.open_session(module, primary=True) as session:
            session.set_pipeline(
                wanted.p4info,
                wanted.device_config or b"",
                wanted.cookie,
                action=ACTIONS[module.params["method"]],
            )
    before, after = summary(found), summary(wanted if changed else found)
    result: dict[str, Any] = {"changed": changed, "before": before, "after": after}
    if module._diff:
        result["diff"] = {"before": before or {}, "after": after}
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    p4runtime.require_client(module)
    try:
        module.exit_json(**apply(module))
    except P4Error as error:
        p4runtime.fail(module, error)


if __name__ == "__main__":
    main()
