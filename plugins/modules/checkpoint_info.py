#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint_info

short_description: What is in a checkpoint

version_added: 0.1.0

description:
  - Reads a checkpoint and returns its processes, sockets, mounts, sizes and versions, as data and
    as a tree of text.
  - Understands archives of Podman and of kubelets (CRI-O, containerd), unpacked archives, and
    directories of CRIU's images. Archives can be packed by gzip, zstd or not at all.
  - Everything is verified on the way. A checkpoint that is damaged or forged is refused; see the
    C(code) in RV(failure).

author:
  - The Flowferry authors (@flowferry)

options:
  path:
    description:
      - The archive, or the directory.
    type: path
    required: true

extends_documentation_fragment:
  - flowferry.core.looking
  - flowferry.core.checkpoint
"""

EXAMPLES = r"""
- name: Read a checkpoint
  flowferry.core.checkpoint_info:
    path: /var/lib/kubelet/checkpoints/checkpoint-web_default-web-2026-11-24T20:00:00Z.tar
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.tree }}"

- name: Refuse one that is bound to an address which the destination does not have
  ansible.builtin.assert:
    that: found.checkpoint.sockets | selectattr('local', 'match', '192\.0\.2\.1:') | length == 0
"""

RETURN = r"""
checkpoint:
  description: What was found. What a checkpoint does not say is null.
  returned: success
  type: dict
  contains:
    kind:
      description: V(podman), V(kubelet), or V(criu) for a directory of images.
      type: str
    container:
      description: Id, name, image, image_id, and the times it was created and checkpointed at; null
        for V(criu).
      type: dict
    versions:
      description: Of engine, runtime, runtime_specification, criu, images (their format), kernel;
        and the architecture. CRI-O's archives have CRIU's log with the versions of CRIU and kernel,
        Podman's do not.
      type: dict
    host_name:
      description: In the container.
      type: str
    processes:
      description: pid and parent as inside the container, command, executable, threads,
        address_space_bytes, the number of descriptors, and sockets.
      type: list
      elements: dict
    sockets:
      description: Inet sockets, with id, protocol, state, local, and remote, which is empty for a
        socket that is not connected.
      type: list
      elements: dict
    mounts:
      description: mountpoint, type, source, and whether it is external, which means that the
        restore has to provide it.
      type: list
      elements: dict
    network_external:
      description: Whether the network namespace has to be there before the restore; else it is
        part of the checkpoint. Null when nothing is said of it.
      type: bool
    sizes:
      description: Bytes stored on disk, content when unpacked, memory, and root_changes.
      type: dict
    timings_us:
      description: Microseconds that CRIU measured for freezing, frozen, memdump and memwrite.
      type: dict
  sample:
    kind: podman
    sockets:
      - {id: 24, protocol: tcp, state: listening, local: "0.0.0.0:6379", remote: ""}
    sizes: {stored: 337939, content: 3137734, memory: 3055616, root_changes: 0}

tree:
  description: The same for people, as lines.
  returned: success
  type: list
  elements: str
  sample:
    - redis (podman)
    - "├─ image: localhost/redis:lab"
    - "├─ processes"
    - "│  └─ 1 redis-server (/usr/bin/redis-check-rdb), threads: 6, descriptors: 12"

failure:
  description: Why it was refused.
  returned: failure
  type: dict
  sample:
    code: bad_archive
    message: "x.tar: member '../x' leads out of the archive; a checkpoint has no such thing"
    details: ""
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.describe import describe
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.modules import (
    MAX_SIZE,
    byte_limit,
    need_pycriu,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.tree import tree
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.verify import verify
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

ARGUMENTS = {"path": {"type": "path", "required": True}, "max_size": MAX_SIZE}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        limit = byte_limit(module.params["max_size"])
        need_pycriu()
        checkpoint = read_checkpoint(Path(module.params["path"]), limit)
        verify(checkpoint)
        about = describe(checkpoint)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    module.exit_json(changed=False, checkpoint=about, tree=tree(about))


if __name__ == "__main__":
    main()
