#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_commands
short_description: What containers of pods were started with
version_added: 0.1.0
description:
  - Says of the pods that run on a node by which words their containers were started. The manifest
    of a pod does not tell that where the command is the image's.
  - The role prepared_workload needs it.
options:
  uids:
    description:
      - The C(metadata.uid) of pods. Those that are on other nodes are left out.
    type: list
    elements: str
    required: true
extends_documentation_fragment:
  - flowferry.core.looking
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: By what was it started?
  flowferry.core.pod_commands:
    uids: ["{{ pod.metadata.uid }}"]
  register: started
"""

RETURN = r"""
commands:
  description: The words, by the names of containers. Of pods that have the same the last counts.
  returned: success
  type: dict
  sample: {redis: [redis-server, --port, "6379"]}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.cri.found import container_runtime
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


def commands_of(uids: list[str]) -> dict[str, list[str]]:
    """By the names of containers, as the runtime of this node has started them."""
    runtime = container_runtime()
    found: dict[str, list[str]] = {}
    for container in [one for uid in uids for one in runtime.containers_of(uid)]:
        if container.lives and not container.is_sandbox:
            found[container.name] = runtime.spec(container)["process"]["args"]
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={"uids": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, commands=commands_of(module.params["uids"]))
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())


if __name__ == "__main__":
    main()
