#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_image

short_description: Push an OCI archive to an image registry

version_added: 0.1.0

description:
  - Pushes the image of an OCI archive, such as M(flowferry.core.oci_archive) writes, under a name,
    and reads it back.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.declarative
  - flowferry.core.registry

options:
  archive:
    description:
      - The OCI archive.
    type: path
    required: true

  name:
    description:
      - Name of the image, with its registry, such as V(registry.example.com/team/redis:lab).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Give the cluster an image
  flowferry.core.registry_image:
    archive: /root/.cache/flowferry/image-5b1f.tar
    name: 198.18.0.4:5000/redis:lab
    username: lab
    password: "{{ registry_password }}"
    ca_file: /run/flowferry/lab0/pki/ca.crt
  delegate_to: localhost
"""

RETURN = r"""
reference:
  description: The image by its digest.
  returned: success
  type: str
  sample: 198.18.0.4:5000/redis@sha256:9f86d08188...
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.oci.blobs import read_archive
from ansible_collections.flowferry.core.plugins.module_utils.oci.reference import Reference
from ansible_collections.flowferry.core.plugins.module_utils.oci.registry import Access, Registry

ARGUMENTS: dict[str, Any] = {
    "archive": {"type": "path", "required": True},
    "name": {"type": "str", "required": True},
    "username": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "ca_file": {"type": "path", "default": ""},
    "plain_http": {"type": "bool", "default": False},
}


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Push the image unless the registry has it, and tell what was done."""
    reference = Reference.parse(params["name"])
    image = read_archive(Path(params["archive"]))
    access = Access(*(params[key] for key in ("username", "password", "ca_file", "plain_http")))
    registry = Registry(reference, access)
    try:
        found = registry.manifest(reference.tag)
        changed = found is None or found[1] != image.manifest
        if changed and not check_mode:
            registry.push(image)
    finally:
        registry.close()
    before = f"{found[0]}\n" if found else ""
    return {
        "changed": changed,
        "reference": f"{reference.registry}/{reference.repository}@{image.digest}",
        "diff": {"before": before, "after": f"{image.digest}\n" if changed else before},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    except (OSError, KeyError, ValueError) as error:
        module.fail_json(msg=f"{module.params['archive']} is no OCI archive: {error!r}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
