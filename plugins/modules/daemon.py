#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon

short_description: Run a program in the background

version_added: 0.1.0

description:
  - Starts a program that serves, waits until it answers, and starts it again when its command,
    its environment or the content of one of its files has changed.
  - On a host that systemd runs it is a unit, C(flowferry-NAME.service), which starts with the host
    and again when the program fails. Hosts of the embedded lab have an init that only reaps; there
    the program runs by itself.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.declarative

options:
  name:
    description:
      - Name of the program's record in C(/run/flowferry/daemons), and of its log in
        C(/var/log/flowferry).
    type: str
    required: true

  state:
    description:
      - V(stopped) ends it, with SIGTERM first.
    type: str
    choices:
      - started
      - stopped
    default: started

  command:
    description:
      - The program and its arguments. Required for O(state=started).
    type: list
    elements: str
    default: []

  environment:
    description:
      - Variables added to its environment.
    type: dict
    default: {}

  files:
    description:
      - Files that it reads when it starts, so that a change of one starts it again.
    type: list
    elements: path
    default: []

  ready:
    description:
      - Where it answers when it serves, HOST:PORT, the path of a unix socket, or an https URL that
        has to answer with status 200. Left out, it is not waited for.
    type: str
    default: ""

  authority:
    description:
      - File that the certificate of an URL in O(ready) is checked against.
    type: path
    default: ""

  certificate:
    description:
      - File with key and certificate that an URL in O(ready) is asked with.
    type: path
    default: ""

  timeout:
    description:
      - Seconds to wait until it serves, or has ended.
    type: float
    default: 30.0
"""

EXAMPLES = r"""
- name: Serve images
  flowferry.core.daemon:
    name: registry
    command: [docker-registry, serve, /etc/docker/registry/config.yml]
    files: [/etc/docker/registry/config.yml]
    ready: 127.0.0.1:5000
"""

RETURN = r"""
pid:
  description: Its pid; null when it does not run.
  returned: success
  type: int
  sample: 4711

log:
  description: File with what it writes to standard output and standard error.
  returned: success
  type: str
  sample: /var/log/flowferry/registry.log
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import daemon as daemons
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "command": {"type": "list", "elements": "str", "default": []},
    "environment": {"type": "dict", "default": {}},
    "files": {"type": "list", "elements": "path", "default": []},
    "ready": {"type": "str", "default": ""},
    "authority": {"type": "path", "default": ""},
    "certificate": {"type": "path", "default": ""},
    "timeout": {"type": "float", "default": 30.0},
}


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Bring the program to its state and tell what was done."""
    wanted = daemons.Daemon(
        name=params["name"],
        command=params["command"],
        environment={name: str(value) for name, value in params["environment"].items()},
        files=params["files"],
        ready=params["ready"],
        authority=params["authority"],
        certificate=params["certificate"],
    )
    if params["state"] == "started":
        difference = daemons.difference(wanted)
        if difference and not check_mode:
            daemons.start(wanted, params["timeout"])
    else:
        difference = "running" if daemons.record(wanted.name) else ""
        if difference and not check_mode:
            daemons.stop(wanted.name, params["timeout"])
    return {
        "changed": bool(difference),
        "pid": daemons.record(wanted.name).get("pid"),
        "log": str(wanted.log),
        "diff": {"before": f"{difference}\n" if difference else "", "after": ""},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("state", "started", ["command"])],
    )
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    except OSError as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
