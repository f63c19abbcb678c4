#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_host

short_description: Start and stop a host of the embedded lab

version_added: 0.1.0

description:
  - Starts a host made of namespaces on the machine that runs the task. It has a cached Debian root
    under an overlay in memory, an init, an sshd, and virtual cables to other hosts.
  - It looks like a machine of its own to everything that logs in to it, but shares the kernel.
  - A host that runs as described stays as it is. One that was started with another description is
    restarted; a missing or wrong cable is put right without a restart.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.declarative

options:
  name:
    description:
      - Name of the host, its host name too.
    type: str
    required: true

  state:
    description:
      - V(stopped) ends all processes of the host and removes everything it left. The last host
        of a lab takes the management bridge with it.
    type: str
    choices:
      - started
      - stopped
    default: started

  lab:
    description:
      - Name of the lab, part of the names of its cgroups, C(flowferry-LAB-NAME).
    type: str
    required: true

  state_directory:
    description:
      - Directory for the state of this lab, the same for all its hosts.
    type: path
    required: true

  layers:
    description:
      - Directories that make the root of the host, the uppermost first. They are never written to.
      - Required for O(state=started).
    type: list
    elements: path
    default: []

  management:
    description:
      - The host's place in the management network, from where it is logged in to.
    type: dict
    suboptions:
      bridge:
        description:
          - Bridge on this machine, made when it is missing.
        type: str
        required: true
      bridge_address:
        description:
          - Address of this machine on the bridge, with prefix length.
        type: str
        required: true
      address:
        description:
          - Address of the host, with prefix length.
        type: str
        required: true
      interface:
        description:
          - Name of the interface in the host.
        type: str
        default: mgmt0

  interfaces:
    description:
      - Cables to other hosts of the lab, which must run.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the interface in this host.
        type: str
        required: true
      peer_host:
        description:
          - Name of the host at the other end.
        type: str
        required: true
      peer_interface:
        description:
          - Name of the interface there.
        type: str
        required: true
      mac:
        description:
          - MAC address of this end. Left out, the kernel picks one.
        type: str
        default: ""
      address:
        description:
          - Addresses of this end, with prefix length; IPv4, IPv6 or both.
        type: list
        elements: str
        default: []
      gateway:
        description:
          - Where the default routes lead, one for each IP version.
        type: list
        elements: str
        default: []
      mtu:
        description:
          - The largest packet of both ends.
        type: int
        default: 1500

  sysctls:
    description:
      - Kernel settings of the host's namespaces.
    type: dict
    default: {}

  host_key:
    description:
      - File with the private ssh key that the host shows. Required for O(state=started).
    type: path
    default: ""

  authorized_keys:
    description:
      - File with the public keys that may log in as root. Required for O(state=started).
    type: path
    default: ""

  storage_size:
    description:
      - Size of C(/var/lib/containers), which is in memory.
    type: str
    default: 4g

  systemd:
    description:
      - Run systemd as the host's init. Otherwise it has one that starts an sshd and nothing else.
      - Of the units that packages of the root have brought, only sshd's is started.
    type: bool
    default: false

  timeout:
    description:
      - Seconds to wait until sshd answers, or until everything has ended.
    type: float
    default: 20.0

requirements:
  - root
  - iproute2 and util-linux on this machine
  - openssh-server and catatonit in the host's root
"""

EXAMPLES = r"""
- name: Start a node of the lab
  flowferry.core.lab_host:
    name: node1
    lab: lab0
    state_directory: /run/flowferry/lab0
    layers:
      - /root/.cache/flowferry/root-2f1c
    management:
      bridge: ffm0
      bridge_address: 198.18.0.1/24
      address: 198.18.0.11/24
    interfaces:
      - name: data0
        peer_host: switch
        peer_interface: port1
        mac: "02:ff:00:00:00:0b"
        address: [198.19.0.11/24, "2001:2::11/64"]
        gateway: [198.19.0.1, "fe80::1"]
    host_key: /run/flowferry/lab0/keys/node1
    authorized_keys: /run/flowferry/lab0/keys/controller.pub
  delegate_to: localhost

- name: Stop it
  flowferry.core.lab_host:
    name: node1
    state: stopped
    lab: lab0
    state_directory: /run/flowferry/lab0
    management:
      bridge: ffm0
      bridge_address: 198.18.0.1/24
      address: 198.18.0.11/24
  delegate_to: localhost
"""

RETURN = r"""
pid:
  description: Pid of the host's init, as this machine sees it. Null when the host does not run.
  returned: success
  type: int
  sample: 4711

cgroup:
  description: Name of the host's cgroup in every hierarchy.
  returned: success
  type: str
  sample: flowferry-lab0-node1

log:
  description: File with what the host said while it started.
  returned: success
  type: str
  sample: /run/flowferry/lab0/hosts/node1/boot.log

differences:
  description: What was, or in check mode would be, put right; empty when nothing was.
  returned: success
  type: list
  elements: str
  sample: [not running]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.lab import (
    Host,
    HostSpec,
    Interface,
    LabError,
    Management,
)

TEXT = {"type": "str", "default": ""}
TEXTS = {"type": "list", "elements": "str", "default": []}
NEEDED = {"type": "str", "required": True}
ARGUMENTS: dict[str, Any] = {
    "name": NEEDED,
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "lab": NEEDED,
    "state_directory": {"type": "path", "required": True},
    "layers": {"type": "list", "elements": "path", "default": []},
    "management": {
        "type": "dict",
        "options": {
            "bridge": NEEDED,
            "bridge_address": NEEDED,
            "address": NEEDED,
            "interface": {"type": "str", "default": "mgmt0"},
        },
    },
    "interfaces": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": NEEDED,
            "peer_host": NEEDED,
            "peer_interface": NEEDED,
            "mac": TEXT,
            "address": TEXTS,
            "gateway": TEXTS,
            "mtu": {"type": "int", "default": 1500},
        },
    },
    "sysctls": {"type": "dict", "default": {}},
    "host_key": {"type": "path", "default": "", "no_log": False},
    "authorized_keys": {"type": "path", "default": "", "no_log": False},
    "storage_size": {"type": "str", "default": "4g"},
    "systemd": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 20.0},
}


def host_of(params: dict[str, Any]) -> Host:
    """The host that the task's arguments describe."""
    management = params["management"]
    return Host(
        HostSpec(
            name=params["name"],
            lab=params["lab"],
            state_directory=params["state_directory"],
            layers=params["layers"],
            management=Management(**management) if management else None,
            interfaces=[Interface(**interface) for interface in params["interfaces"]],
            sysctls={name: str(value) for name, value in params["sysctls"].items()},
            host_key=params["host_key"],
            authorized_keys=params["authorized_keys"],
            storage_size=params["storage_size"],
            systemd=params["systemd"],
        )
    )


def ensure(host: Host, state: str, *, check_mode: bool, timeout: float) -> dict[str, Any]:
    """Bring the host to its state and tell what was done."""
    starting = state == "started"
    before = host.differences() if starting else host.remains()
    if before and not check_mode:
        if starting:
            host.start(timeout)
        else:
            host.stop(timeout)
    words = {"before": "\n".join(before) + "\n", "after": "\n"}
    return {
        "changed": bool(before),
        "differences": before,
        "pid": host.pid,
        "cgroup": host.spec.cgroup,
        "log": str(host.spec.log),
        "diff": words if before else {"before": "", "after": ""},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("state", "started", ["layers", "host_key", "authorized_keys"])],
    )
    params = module.params
    try:
        result = ensure(
            host_of(params),
            params["state"],
            check_mode=module.check_mode,
            timeout=params["timeout"],
        )
    except (LabError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
