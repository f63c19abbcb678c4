#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint_address

short_description: Give the sockets in a checkpoint another address

version_added: 0.1.0

description:
  - Changes addresses of the inet sockets in a checkpoint, so that it can be restored where the
    workload has another address. TCP and UDP, listening, connected and bound sockets are changed,
    of IPv4, IPv6, and IPv4 in IPv6 sockets. Both ends of a socket are looked at.
  - The images are changed through CRIU's own message formats (pycriu). Everything else in the
    checkpoint stays byte for byte, and an archive stays packed as it is. The new archive takes the
    old one's place in one step.
  - What a program itself remembers of its address is in its memory and is not changed.
  - A connection goes on only if what is between its ends translates the addresses; see the strategy
    V(rewrite) of migrations.
  - The notes of Podman about the container's network stay as they are. A container in a namespace
    of its own (C(--network ns:PATH)) needs no change there. For one on a bridge network use
    O(flowferry.core.restore#module:ignore_static_ip).

author:
  - The Flowferry authors (@flowferry)

attributes:
  check_mode:
    description: Says what would change and changes nothing.
    support: full
  diff_mode:
    description: Shows the sockets before and after.
    support: full
  idempotent:
    description: A checkpoint without the old addresses is left alone.
    support: full

options:
  path:
    description:
      - An archive of Podman or of a kubelet, an unpacked one, or a directory of CRIU's images.
    type: path
    required: true

  addresses:
    description:
      - Old address to new address, of the same family. A new address must not be an old one as
        well.
    type: dict
    required: true

extends_documentation_fragment:
  - flowferry.core.checkpoint
"""

EXAMPLES = r"""
- name: Move a checkpoint to another address
  flowferry.core.checkpoint_address:
    path: /var/lib/checkpoints/redis.tar.zst
    addresses:
      198.19.0.100: 198.19.0.200
      2001:db8::100: 2001:db8::200

- name: See what would change
  flowferry.core.checkpoint_address:
    path: /var/lib/checkpoints/redis.tar.zst
    addresses:
      198.19.0.100: 198.19.0.200
  check_mode: true
  diff: true
"""

RETURN = r"""
sockets:
  description: The sockets that were changed, or would be.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 28
      protocol: tcp
      state: established
      before: {local: "198.19.0.100:6379", remote: "198.18.0.3:57284"}
      after: {local: "198.19.0.200:6379", remote: "198.18.0.3:57284"}

failure:
  description: Why it was refused.
  returned: failure
  type: dict
  sample:
    code: bad_address
    message: "192.0.2.1 cannot become 2001:db8::1: a socket keeps its address family"
    details: ""
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.addresses import (
    rewrite_addresses,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.archive import (
    rewrite_archive,
    rewritten_in,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.modules import (
    MAX_SIZE,
    byte_limit,
    need_pycriu,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.sockets import inet_sockets
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.verify import verify
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "addresses": {"type": "dict", "required": True},
    "max_size": MAX_SIZE,
}


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Rewrite what has an old address."""
    path, limit = Path(params["path"]), byte_limit(params["max_size"])
    addresses = {str(old): str(new) for old, new in params["addresses"].items()}
    need_pycriu()
    checkpoint = read_checkpoint(path, limit)
    verify(checkpoint)
    before = checkpoint.image("files.img")
    after, changes = rewritten_in(checkpoint, addresses)
    if changes and not check_mode:
        if path.is_dir():
            rewrite_addresses(path / checkpoint.prefix, addresses)
        else:
            rewrite_archive(path, addresses, limit=limit)
    shown = {
        when: "".join(f"{socket}\n" for socket in inet_sockets(data, path))
        for when, data in (("before", before), ("after", after))
    }
    header = {f"{when}_header": f"sockets in {path}" for when in shown}
    return {"changed": bool(changes), "sockets": changes, "diff": {**header, **shown}}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
