#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_check
short_description: Try whether a container runtime restores what it has checkpointed
version_added: 0.1.0
description:
  - Runs a container in a pod on the host's network, checkpoints it, removes it, and restores it
    from the checkpoint, all through the CRI. Whether that works the settings alone do not tell, as
    CRIU, the kernel and runc have their say, too.
  - The restored process is known by a limit that the one before it was given, so that one that was
    started afresh is not taken for it.
  - Nothing of it is left on the host but the image.
  - C(crictl) is needed on the host. No kubelet may run there, since it ends every pod that it does
    not know; the failure's code is C(kubelet_runs) then.
options:
  socket:
    description:
      - The runtime's socket.
    type: path
    required: true
  image:
    description:
      - An image that runs without arguments until it is ended. It is pulled if it is not there.
        Left out, that of the runtime's sandboxes, without which it runs no pod.
    type: str
    default: ""
extends_documentation_fragment:
  - flowferry.core.looking
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: Check that CRI-O restores
  flowferry.core.restore_check:
    socket: /run/crio/crio.sock
"""

RETURN = r"""
runtime:
  description: What the runtime calls itself.
  returned: success, unless in check mode
  type: str
  sample: cri-o
checkpoint_ms:
  description: How long the checkpoint took, in milliseconds.
  returned: success, unless in check mode
  type: float
  sample: 143.2
restore_ms:
  description: How long it took to make and start the restored container, in milliseconds.
  returned: success, unless in check mode
  type: float
  sample: 301.7
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.cri.restore_check import RestoreCheck
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "image": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False)
    try:
        found = RestoreCheck(module.params["socket"], module.params["image"]).run()
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
