#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_helper
short_description: Helper of a migration on a node
version_added: 0.1.0
description:
  - Starts the small server that does a node's part of a migration, and says what the node knows of
    the workload.
  - The helper listens with certificates that are made for one migration, changes nothing until it
    is asked, and ends with the migration or after two minutes without one.
  - Used by the playbook C(flowferry.core.migrate) on every node that may be source or destination.
options:
  workload:
    description:
      - What is going to be moved, written RUNTIME:NAME, or the name of a Podman container.
    type: str
    required: true
  address:
    description: Address of this node to listen on, reached by the controller and the other node.
    type: str
    required: true
  port:
    description: TCP port to listen on; 0 lets the kernel choose.
    type: int
    default: 0
  certificates:
    description:
      - One-time PEM texts C(ca), C(certificate) and C(key), from
        M(flowferry.core.migration_certificates).
    type: dict
    required: true
attributes:
  check_mode:
    description: The helper is started in check mode too, since the plan needs its answers.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
  idempotent:
    description: A helper that an interrupted migration left is ended first.
    support: full
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: A helper on each node
  flowferry.core.migration_helper:
    workload: redis
    address: "{{ ansible_host }}"
    certificates: "{{ migration_certificates }}"
"""

RETURN = r"""
helper:
  description: Where the helper listens, its pid and its log.
  returned: success
  type: dict
  sample:
    {address: 198.18.0.11, port: 40123, pid: 4711, log: /run/flowferry/helper-podman.redis.log}
workload:
  description: What this node knows of the workload; null when it is not here.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import helper
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.registry import open_workload


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "workload": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "default": 0},
            "certificates": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        started = helper.start(
            parameters["workload"],
            parameters["address"],
            parameters["port"],
            parameters["certificates"],
        )
        about = open_workload(parameters["workload"]).describe()
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    except OSError as error:
        module.fail_json(msg=f"cannot start a helper on {parameters['address']}: {error}")
    module.exit_json(
        changed=False, helper={"address": parameters["address"], **started}, workload=about
    )


if __name__ == "__main__":
    main()
