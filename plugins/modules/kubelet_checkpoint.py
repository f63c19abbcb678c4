#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: kubelet_checkpoint

short_description: Have a kubelet write a checkpoint of a container

version_added: 0.1.0

description:
  - Asks the kubelet's checkpoint API for the checkpoint of a running container of a pod. Run it on
    the node itself, where the archive is.
  - The kubelet names an archive with the second that it began in, and writes a second one within
    that second into the first. So this waits for the next second if there is one already.
  - The kubelet never removes an archive. O(state=absent) removes those of the container.

author:
  - Flowferry contributors (@flowferry)

attributes:
  check_mode:
    support: full
    description: Can run in check_mode and return changed status prediction without modifying
      target.
  diff_mode:
    support: none
    description: Will return details on what has changed (or possibly needs changing in
      check_mode), when in diff mode.
  idempotent:
    support: partial
    description: When run twice in a row outside check mode, with the same arguments, the second
      invocation indicates no change.
    details:
      - Each checkpoint is a new one. Removing them is idempotent.

options:
  namespace:
    description:
      - Namespace of the pod.
    type: str
    default: default

  pod:
    description:
      - Name of the pod.
    type: str
    required: true

  container:
    description:
      - Name of the container.
    type: str
    required: true

  state:
    description:
      - V(present) makes a new checkpoint; V(absent) removes the container's archives.
    type: str
    choices:
      - present
      - absent
    default: present

  definition:
    description:
      - The pod as C(kubernetes.core.k8s_info) returns it. If given, a pod that could not be
        restored elsewhere is refused before anything is written.
    type: dict

  address:
    description:
      - Where the kubelet serves. Its certificate has to have this name or address.
    type: str
    default: 127.0.0.1

  port:
    description:
      - The kubelet's port.
    type: int
    default: 10250

  client_certificate:
    description:
      - File with the certificate of whoever asks; it needs the right to C(create) for
        C(nodes/checkpoint), and no other.
    type: path
    default: ""

  client_key:
    description:
      - File with its key, when O(client_certificate) has not both.
    type: path
    default: ""

  token:
    description:
      - A token instead of a certificate.
    type: str
    default: ""

  ca_file:
    description:
      - Authorities that the kubelet's certificate is checked against.
    type: path
    default: ""

  directory:
    description:
      - Where the kubelet writes archives. Left out, it is read off the kubelet's command line.
    type: path
    default: ""
"""

EXAMPLES = r"""
- name: Checkpoint of Redis
  flowferry.core.kubelet_checkpoint:
    pod: redis
    container: redis
    address: 198.18.0.11
    client_certificate: /etc/flowferry/migration.pem
    ca_file: /etc/flowferry/kubernetes/ca.crt
  register: checkpoint

- name: It is not needed any more
  flowferry.core.kubelet_checkpoint:
    pod: redis
    container: redis
    state: absent
"""

RETURN = r"""
archive:
  description: The archive, on the node.
  returned: when a checkpoint was made
  type: str
  sample: /var/lib/kubelet/checkpoints/checkpoint-redis_default-redis-2026-11-24T22:00:00Z.tar

size:
  description: Its size in bytes.
  returned: when a checkpoint was made
  type: int
  sample: 3421184

milliseconds:
  description: How long the kubelet took.
  returned: when a checkpoint was made
  type: float
  sample: 117.4

removed:
  description: Archives that were, or in check mode would be, removed.
  returned: with O(state=absent)
  type: list
  elements: str
  sample: []
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils import kubelet
from ansible_collections.flowferry.core.plugins.module_utils.cri.kubelet_process import (
    kubelet_root,
)
from ansible_collections.flowferry.core.plugins.module_utils.criu import check_criu
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.pods import check_movable

NEEDED = {"type": "str", "required": True}
FILE = {"type": "path", "default": ""}
ARGUMENTS: dict[str, Any] = {
    "namespace": {"type": "str", "default": "default"},
    "pod": NEEDED,
    "container": NEEDED,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "definition": {"type": "dict"},
    "address": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": kubelet.PORT},
    "client_certificate": FILE,
    "client_key": {"type": "path", "default": "", "no_log": False},
    "token": {"type": "str", "default": "", "no_log": True},
    "ca_file": FILE,
    "directory": FILE,
}


def archives(params: dict[str, Any]) -> list[Path]:
    """The container's archives, the oldest first."""
    directory = Path(params["directory"] or f"{kubelet_root()}/checkpoints")
    name = f"checkpoint-{params['pod']}_{params['namespace']}-{params['container']}-"
    return sorted(directory.glob(f"{name}*.tar"))


def remove(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Take the container's archives away."""
    found = archives(params)
    for archive in found if not check_mode else []:
        archive.unlink()
    return {"changed": bool(found), "removed": [str(archive) for archive in found]}


def wait_for_another_second(params: dict[str, Any]) -> None:
    """Until no archive can have the name that a new one would get."""
    latest = max((archive.stat().st_mtime for archive in archives(params)), default=0.0)
    while int(time.time()) <= int(latest):
        time.sleep(0.02)


def checkpoint(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have the kubelet write a new archive."""
    check_criu()
    if params["definition"]:
        check_movable(params["definition"])
    if check_mode:
        return {"changed": True}
    context = kubelet.client_context(
        params["ca_file"], params["client_certificate"], params["client_key"]
    )
    asked = kubelet.Kubelet(params["address"], params["port"], context, params["token"])
    wait_for_another_second(params)
    started = time.monotonic()
    try:
        archive = asked.checkpoint(params["namespace"], params["pod"], params["container"])
    finally:
        asked.close()
    return {
        "changed": True,
        "archive": archive,
        "size": Path(archive).stat().st_size,
        "milliseconds": round((time.monotonic() - started) * 1000, 1),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    act = checkpoint if module.params["state"] == "present" else remove
    try:
        result = act(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    except OSError as error:
        module.fail_json(msg=f"{module.params['pod']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
