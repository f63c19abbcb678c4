#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint
short_description: Network namespace with the addresses of a workload
version_added: 0.1.0
description:
  - Makes a named network namespace on a node, with one interface that has the workload's
    addresses, and routes the addresses to it.
  - A container that is started with C(--network ns:/run/netns/NAME) can be moved to another node
    with its connections, as its network exists there before it comes.
options:
  name:
    description: Name of the namespace, in C(/run/netns).
    type: str
    required: true
  address:
    description:
      - Address of the workload that clients use, IPv4 or IPv6, or one of each.
      - Needed for O(state=present).
    type: list
    elements: str
  mac:
    description:
      - MAC address of the workload's interface. By default one that follows from O(address),
        from the IPv4 one when there are two.
    type: str
  docker:
    description:
      - Have a Docker container that does nothing keep the namespace, with the name O(name), since
        Docker joins other containers' namespaces only. A workload joins it with
        C(--network container:NAME). The role P(flowferry.core.docker#role) makes its image.
    type: bool
    default: false
    version_added: 0.2.0
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

- name: Addresses for a server that speaks IPv6 as well
  flowferry.core.endpoint:
    name: ff-web
    address: [198.19.0.101, "2001:2::101"]

- name: An address for a Docker container
  flowferry.core.endpoint:
    name: ff-web
    address: 198.19.0.101
    docker: true

- name: Take it away
  flowferry.core.endpoint:
    name: ff-redis
    state: absent
"""

RETURN = r"""
endpoint:
  description:
    - The endpoint as it is now; null when there is none.
    - With two addresses, C(address) is the IPv4 one and C(others) has the IPv6 one.
  returned: success
  type: dict
  sample:
    namespace: ff-redis
    address: 198.19.0.100
    mac: "02:fe:c6:13:00:64"
    others: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import docker_engine
from ansible_collections.flowferry.core.plugins.module_utils import endpoint as endpoints
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


def find(name: str, *, docker: bool) -> endpoints.Endpoint | None:
    """The endpoint as it is; for Docker, None when no pause container keeps it."""
    if not docker:
        return endpoints.find(name)
    pause = docker_engine.inspect(name)
    return docker_engine.endpoint_of(pause) if pause else None


def bring_about(name: str, wanted: endpoints.Endpoint | None, *, docker: bool) -> None:
    """Make the endpoint, or take away whatever there is when none is wanted."""
    if wanted is None:
        left = endpoints.find(name) or endpoints.Endpoint(name, "", "")
        if docker_engine.is_installed():
            docker_engine.remove_endpoint(left)
        else:
            endpoints.remove(left)
    elif docker:
        docker_engine.create_endpoint(wanted)
    else:
        endpoints.create(wanted)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "address": {"type": "list", "elements": "str"},
            "mac": {"type": "str"},
            "docker": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["address"])],
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        before = find(parameters["name"], docker=parameters["docker"])
        after = None
        if parameters["state"] == "present":
            after = endpoints.endpoint_with(
                parameters["name"], parameters["address"], parameters["mac"] or ""
            )
        changed = before != after
        if changed and not module.check_mode:
            bring_about(parameters["name"], after, docker=parameters["docker"])
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    shown = {
        "before": before.as_dict() if before else {},
        "after": after.as_dict() if after else {},
    }
    module.exit_json(changed=changed, endpoint=shown["after"] or None, diff=shown)


if __name__ == "__main__":
    main()
