#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: oci_archive

short_description: Pack root filesystems as a container image

version_added: 0.1.0

description:
  - Writes an OCI archive, which C(podman load), C(docker load) and others read,
    without a registry or a container engine.
  - The same root and options give the same image id wherever the archive is made.

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
      - An archive that exists stays as it is, even when the root has changed since. Name the
        archive after what goes into it, or remove it.

options:
  path:
    description:
      - The archive.
    type: path
    required: true

  root:
    description:
      - A tar file of the root filesystem, plain or compressed by gzip. Not read when the archive
        exists.
    type: path
    required: true

  layers:
    description:
      - More of such tar files, each of which is a layer above those before.
    type: list
    elements: path
    default: []

  name:
    description:
      - Name and tag of the image, such as V(localhost/redis:lab).
    type: str
    required: true

  entrypoint:
    description:
      - What a container runs.
    type: list
    elements: str
    default: []

  command:
    description:
      - Arguments for it that can be replaced when the container is created.
    type: list
    elements: str
    default: []

  environment:
    description:
      - Environment of the container.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Pack Redis
  flowferry.core.oci_archive:
    path: /var/cache/redis.tar
    root: /var/cache/redis-root.tar
    name: localhost/redis:lab
    entrypoint: [/usr/bin/redis-server]
"""

RETURN = r"""
path:
  description: The archive.
  returned: success
  type: str
  sample: /var/cache/redis.tar

image_id:
  description: Id of the image, the same on every node that loads it. Null in check mode when the
    archive is not there yet.
  returned: success
  type: str
  sample: a76b51441c829d5c471609d523f1da721805126f053df2062f8d04f848a7d25e
"""

import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.oci_archive import (
    Image,
    read_archive_id,
    write_archive,
)

STRINGS = {"type": "list", "elements": "str", "default": []}
ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "root": {"type": "path", "required": True},
    "layers": {"type": "list", "elements": "path", "default": []},
    "name": {"type": "str", "required": True},
    "entrypoint": STRINGS,
    "command": STRINGS,
    "environment": {"type": "dict", "default": {}},
}


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Write the archive unless it is there."""
    path = Path(params["path"])
    if path.exists():
        return {"changed": False, "path": str(path), "image_id": read_archive_id(path)}
    if check_mode:
        return {"changed": True, "path": str(path), "image_id": None}
    image = Image(
        roots=[Path(one) for one in (params["root"], *params["layers"])],
        name=params["name"],
        entrypoint=params["entrypoint"],
        command=params["command"],
        environment=params["environment"],
    )
    return {"changed": True, "path": str(path), "image_id": write_archive(image, path)}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        module.fail_json(msg=f"Cannot pack {module.params['path']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
