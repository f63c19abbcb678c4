#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: restore

short_description: Bring a container back from an archive

version_added: 0.1.0

description:
  - Has Podman and CRIU bring a container back from an archive that M(flowferry.core.checkpoint) or
    Podman has made, here or on another node, with its processes, memory and connections as they
    were.
  - The archive is verified before Podman sees it. One that is damaged or forged is refused.
  - The node needs the container's image, or Podman pulls it by its name.
  - A container in a namespace of its own (C(--network ns:PATH)) comes back into the namespace at
    that path, which must be there and have the addresses of its sockets;
    M(flowferry.core.checkpoint_address) changes those.

author:
  - The Flowferry authors (@flowferry)

attributes:
  check_mode:
    description: Verifies the archive, says whether a container would be restored, and restores
      none.
    support: full
  diff_mode:
    description: Shows the container before and after.
    support: full
  idempotent:
    description: A container that runs since it was restored from this checkpoint is left alone. A
      copy of the archive, packed otherwise, is the same checkpoint; one with other addresses is
      another.
    support: full

options:
  path:
    description:
      - The archive.
    type: path
    required: true

  name:
    description:
      - Name that the container gets, with an id of its own. By default it comes back under the name
        and the id that it had.
    type: str

  replace:
    description:
      - Remove another container of this name, running or not. Otherwise it is in the way. One that
        M(flowferry.core.checkpoint) has ended on this node is such a one.
    type: bool
    default: false

  tcp_established:
    description:
      - Whether connections come back.
    type: bool
    default: true

  file_locks:
    description:
      - Whether locks of files come back.
    type: bool
    default: true

  ignore_static_ip:
    description:
      - On a bridge network, take a new address instead of the one that the container had.
    type: bool
    default: false

  ignore_static_mac:
    description:
      - On a bridge network, take a new MAC address instead of the one that the container had.
    type: bool
    default: false

  ignore_rootfs:
    description:
      - Leave out what the container had changed in its root file system.
    type: bool
    default: false

  ignore_volumes:
    description:
      - Leave out the content of its volumes.
    type: bool
    default: false

extends_documentation_fragment:
  - flowferry.core.checkpoint

seealso:
  - module: flowferry.core.checkpoint
  - module: flowferry.core.checkpoint_address
"""

EXAMPLES = r"""
- name: Bring Redis back
  flowferry.core.restore:
    path: /var/lib/checkpoints/redis.tar.zst

- name: Go back to last night, whatever runs now
  flowferry.core.restore:
    path: /var/lib/checkpoints/redis-nightly.tar.zst
    replace: true
"""

RETURN = r"""
container:
  description: The container that runs. In check mode, the one that is there; null when there is
    none.
  returned: success
  type: dict
  sample: {id: e1b42fef48d8, name: redis, status: running, pid: 4711}

checkpoint:
  description: What it came from. C(identity) is the same for every copy of it.
  returned: success
  type: dict
  sample:
    path: /var/lib/checkpoints/redis.tar.zst
    identity: b03e07f8713d3e9da61d89f09b4d59489bdf9d2a2d2aa1e4570ee8fee32bd0c0
    container: {id: e1b42fef48d8, name: redis, image_id: 2ab795460925}

failure:
  description: Why it failed.
  returned: failure
  type: dict
  sample:
    code: name_taken
    message: 'there is a container "redis" (exited) here, which is not from this checkpoint'
    details: ""
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint import podman
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.modules import (
    MAX_SIZE,
    byte_limit,
    need_pycriu,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.verify import verify
from ansible_collections.flowferry.core.plugins.module_utils.criu import check_criu
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

ON = ["tcp_established", "file_locks"]
OFF = ["ignore_static_ip", "ignore_static_mac", "ignore_rootfs", "ignore_volumes"]
ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "name": {"type": "str"},
    "replace": {"type": "bool", "default": False},
    **{flag: {"type": "bool", "default": True} for flag in ON},
    **{flag: {"type": "bool", "default": False} for flag in OFF},
    "max_size": MAX_SIZE,
}


def find_other(name: str, *, replace: bool) -> podman.Container | None:
    """A container that has to go first; refused if nobody asked for that."""
    found = podman.find(name)
    if found is not None and not replace:
        raise FlowferryError(
            "name_taken",
            f'there is a container "{name}" ({found.status}) here, which does not run from this '
            f"checkpoint; `podman rm {name}`, or use replace: true",
        )
    return found


def flags_of(params: dict[str, Any]) -> list[str]:
    """Options for podman."""
    flags = ["--" + flag.replace("_", "-") for flag in (*ON, *OFF) if params[flag]]
    return [*flags, "--name", params["name"]] if params["name"] else flags


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Restore unless the container runs from this checkpoint."""
    path, limit = Path(params["path"]), byte_limit(params["max_size"])
    need_pycriu()
    archive = read_checkpoint(path, limit)
    verify(archive)
    origin, identity = podman.origin_of(archive), podman.identity_of(archive)
    name = params["name"] or origin["name"]
    told = {"path": str(path), "identity": identity, "container": origin}
    running = podman.find(name)
    if running is not None and podman.runs_from(running, identity):
        return {"changed": False, "container": running.as_dict(), "checkpoint": told}
    check_criu()
    other = find_other(name, replace=params["replace"])
    before = other.as_dict() if other else None
    expected = {"name": name, "status": "running"}
    result = {"changed": True, "container": before, "checkpoint": told}
    if check_mode:
        return {**result, "diff": {"before": before or {}, "after": expected}}
    if other is not None:
        podman.remove(other)
    after = podman.restore(name, path, identity, flags_of(params)).as_dict()
    return {**result, "container": after, "diff": {"before": before or {}, "after": after}}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
