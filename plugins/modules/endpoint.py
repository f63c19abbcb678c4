#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint
short_description: Network namespace with the address of a workload
version_added: 0.1.0
description:
  - Makes a named network namespace on a node, with one interface that has the workload's address,
    and routes the address to it.
  - A container that is started with C(--network ns:/run/netns/NAME) can be moved to another node
    with its connections, as its network exists there before it comes.
options:
  name:
    description: Name of the namespace, in C(/run/netns).
    type: str
    required: true
  address:
    description:
      - IPv4 address of the workload, the one that clients use. Needed for O(state=present).
    type: str
  mac:
    description:
      - MAC address of the workload's interface. By default one that follows from O(address).
    type: str
  state:
    description: Whether the namespace should exist.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says what would change and changes nothing.
    support: full
  diff_mode:
    description: Shows the endpoint before and after.
    support: full
  idempotent:
    description: An endpoint that is as asked for is left alone.
    support: full
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: An address for Redis
  flowferry.core.endpoint:
    name: ff-redis
    address: 198.19.0.100

- name: Take it away
  flowferry.core.endpoint:
    name: ff-redis
    state: absent
"""

RETURN = r"""
endpoint:
  description: The endpoint as it is now; null when there is none.
  returned: success
  type: dict
  sample: {namespace: ff-redis, address: 198.19.0.100, mac: "02:fe:c6:13:00:64"}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import endpoint as endpoints
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "address": {"type": "str"},
            "mac": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["address"])],
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        before = endpoints.find(parameters["name"])
        after = None
        if parameters["state"] == "present":
            mac = parameters["mac"] or endpoints.mac_for(parameters["address"])
            after = endpoints.Endpoint(parameters["name"], parameters["address"], mac)
        changed = before != after
        if changed and not module.check_mode:
            if after is not None:
                endpoints.create(after)
            elif before is not None:
                endpoints.remove(before)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    shown = {
        "before": before.as_dict() if before else {},
        "after": after.as_dict() if after else {},
    }
    module.exit_json(changed=changed, endpoint=shown["after"] or None, diff=shown)


if __name__ == "__main__":
    main()
