#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint

short_description: Write a Podman container to an archive

version_added: 0.1.0

description:
  - Has Podman and CRIU write the processes of a running container, with their memory and their
    connections, to an archive from which M(flowferry.core.restore) brings it back, here or on
    another node.
  - The archive takes its place when it is complete. A failed checkpoint leaves none, and leaves an
    older one as it was; the container goes on.
  - It is readable by root alone, as it has the container's memory in it.
  - To move a container with its clients, use the migration instead, which keeps their packets
    meanwhile.

author:
  - The Flowferry authors (@flowferry)

attributes:
  check_mode:
    description: Checks what it can, says whether a checkpoint would be made, and makes none.
    support: full
  diff_mode:
    description: Shows the container and the archive before and after.
    support: full
  idempotent:
    description: An archive that is a checkpoint of this container (the same id; the same name if
      the container is gone) is left alone, and so is then the container. See O(force).
    support: full

options:
  name:
    description:
      - Name of the container.
    type: str
    required: true

  path:
    description:
      - The archive. Its directory must be there.
    type: path
    required: true

  force:
    description:
      - Make a new checkpoint although there is one at O(path).
    type: bool
    default: false

  leave_running:
    description:
      - Whether the container goes on afterwards. Otherwise it ends, as with Podman itself, and
        C(podman rm) or O(flowferry.core.restore#module:replace) takes away what is left of it.
    type: bool
    default: false

  compression:
    description:
      - How the archive is packed. V(none) is the fastest.
    type: str
    choices: [zstd, gzip, none]
    default: zstd

  tcp_established:
    description:
      - Whether connections are written too. If not, a container that has any is refused by CRIU.
      - The role C(flowferry.core.criu) lets runc always write them.
    type: bool
    default: true

  file_locks:
    description:
      - Whether locks of files are written too. If not, a container that holds any is refused.
    type: bool
    default: true

  ignore_rootfs:
    description:
      - Leave out what the container has changed in its root file system.
    type: bool
    default: false

  ignore_volumes:
    description:
      - Leave out the content of its volumes.
    type: bool
    default: false

seealso:
  - module: flowferry.core.restore
  - module: flowferry.core.checkpoint_info
  - module: containers.podman.podman_container
    description: Creates containers, and neither checkpoints nor restores them.
"""

EXAMPLES = r"""
- name: Write Redis to an archive and end it
  flowferry.core.checkpoint:
    name: redis
    path: /var/lib/checkpoints/redis.tar.zst

- name: Keep a copy every night while it goes on
  flowferry.core.checkpoint:
    name: redis
    path: /var/lib/checkpoints/redis-nightly.tar.zst
    leave_running: true
    force: true
"""

RETURN = r"""
checkpoint:
  description: The archive. In check mode, size and compression only if there is one already.
  returned: success
  type: dict
  contains:
    path:
      description: Where it is.
      type: str
    size:
      description: Its bytes.
      type: int
    compression:
      description: How it is packed.
      type: str
    container:
      description: Id, name and image_id of the container in it.
      type: dict
  sample:
    path: /var/lib/checkpoints/redis.tar.zst
    size: 337939
    compression: zstd
    container: {id: e1b42fef48d8, name: redis, image_id: 2ab795460925}

failure:
  description: Why it failed.
  returned: failure
  type: dict
  sample:
    code: not_running
    message: 'container "redis" is exited; only a running one has something to write'
    details: ""
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint import podman
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.compression import (
    compression_of,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.criu import check_criu
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

FLAGS = ["leave_running", "tcp_established", "file_locks", "ignore_rootfs", "ignore_volumes"]
DEFAULTS = {"tcp_established": True, "file_locks": True}
ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "force": {"type": "bool", "default": False},
    "compression": {"type": "str", "choices": ["zstd", "gzip", "none"], "default": "zstd"},
    **{flag: {"type": "bool", "default": DEFAULTS.get(flag, False)} for flag in FLAGS},
}


def existing(path: Path) -> dict[str, Any] | None:
    """The checkpoint that is there, None when nothing is."""
    if not path.exists():
        return None
    origin = podman.origin_of(read_checkpoint(path))
    about = path.stat()
    found = {"path": str(path), "size": about.st_size, "compression": compression_of(path)}
    return {**found, "container": origin}


def find_running(name: str) -> podman.Container:
    """The container, which must be one that can be written."""
    container = podman.find(name)
    if container is None:
        raise FlowferryError(
            "unknown_workload",
            f'there is no container "{name}" here; `podman ps -a` lists what there is',
        )
    if not container.is_running:
        raise FlowferryError(
            "not_running",
            f'container "{name}" is {container.status}; only a running one has something to write: '
            f"`podman start {name}`",
        )
    return container


def is_done(name: str, before: dict[str, Any] | None, *, force: bool) -> bool:
    """Is the archive a checkpoint of this container already? Refuses to replace another's."""
    if before is None or force:
        return False
    container = podman.find(name)
    # One that is not there any more can be known by its name alone.
    key, value = ("name", name) if container is None else ("id", container.id)
    if before["container"][key] != value:
        raise FlowferryError(
            "path_taken",
            f'{before["path"]} is a checkpoint of the container "{before["container"]["name"]}" '
            f'({before["container"]["id"][:12]}), not of "{name}"; choose another path, or use '
            "force: true to replace it",
        )
    return True


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Make the checkpoint unless it is there."""
    path = Path(params["path"])
    before = None if params["force"] else existing(path)
    if is_done(params["name"], before, force=params["force"]):
        return {"changed": False, "checkpoint": before}
    if not path.parent.is_dir():
        raise FlowferryError("path_taken", f"{path.parent} is no directory; make it first")
    container = find_running(params["name"])
    check_criu()
    path_was_there = path.exists()
    after: dict[str, Any] | None = {"path": str(path)}
    if not check_mode:
        flags = ["--" + flag.replace("_", "-") for flag in FLAGS if params[flag]]
        podman.checkpoint(params["name"], path, params["compression"], flags)
        after = existing(path)
    status = "running" if params["leave_running"] else "exited"
    replaced = {"path": str(path)} if path_was_there else None
    shown = {
        "before": {"container": container.status, "checkpoint": replaced},
        "after": {"container": status, "checkpoint": after},
    }
    return {"changed": True, "checkpoint": after, "diff": shown}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
