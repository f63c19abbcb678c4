#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: What a node can do for migrations
version_added: 0.1.0
description:
  - Says of a node what decides whether workloads can leave it and come to it. Its kernel, its
    cgroups, CRIU and what that says of the kernel, its processor, and the container engines.
  - The plan of a migration makes the same checks; this module shows them before.
options:
  cpu_image:
    description:
      - C(node.cpu.image) of another node. Then C(cpu_compatible) says whether what is dumped there
        can be restored here.
    type: str
extends_documentation_fragment:
  - flowferry.core.looking
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: What can the nodes do?
  flowferry.core.node_info:
  register: nodes

- name: Could this node take over what runs on node1?
  flowferry.core.node_info:
    cpu_image: "{{ hostvars['node1'].nodes.node.cpu.image }}"
  register: compared

- name: Refuse if not
  ansible.builtin.assert:
    that:
      - compared.cpu_compatible
      - compared.node.runtimes.podman.restores
    fail_msg: "{{ compared.cpu_message }} {{ compared.node.runtimes.podman.reason }}"
"""

RETURN = r"""
node:
  description: What the node can do.
  returned: success
  type: dict
  contains:
    kernel:
      description: C(release) and C(machine).
      type: dict
      sample: {release: 6.18.5, machine: x86_64}
    cgroup:
      description: C(version), and whether there is a C(freezer) hierarchy of version 1.
      type: dict
      sample: {version: 1, freezer: true}
    criu:
      description:
        - Its C(version), null when it is not installed; whether C(criu check) is C(ok), with its
          C(message); and which C(features) of the kernel it found.
      type: dict
      sample: {version: 4.2.1, ok: true, message: Looks good., features: {uffd-noncoop: true}}
    runtimes:
      description:
        - For each runtime its C(version), null when it is not installed, whether it C(restores) on
          this node, and the C(reason) if it does not.
      type: dict
      sample: {podman: {version: podman version 5.4.2, restores: true, reason: ""}}
    cpu:
      description:
        - C(vendor), C(family), C(model), C(name) and C(features) of the processor, and an C(image)
          for O(cpu_image) on another node.
      type: dict
cpu_compatible:
  description: Whether what is dumped on the processor of O(cpu_image) can be restored here.
  returned: when O(cpu_image) is given
  type: bool
cpu_message:
  description: Why not; empty when it can.
  returned: when O(cpu_image) is given
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.node import check_cpu, node_info


def main() -> None:
    module = AnsibleModule(argument_spec={"cpu_image": {"type": "str"}}, supports_check_mode=True)
    try:
        result = {"node": node_info()}
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    if module.params["cpu_image"]:
        try:
            check_cpu(module.params["cpu_image"])
            result |= {"cpu_compatible": True, "cpu_message": ""}
        except FlowferryError as error:
            result |= {"cpu_compatible": False, "cpu_message": str(error)}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
