#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint_image

short_description: Make a container image of a checkpoint

version_added: 0.1.0

description:
  - Makes an OCI image of a kubelet's checkpoint archive, from which CRI-O and containerd restore
    the container, and puts it into a layout, a registry, or the image store of the node's
    containerd.
  - The archive is the image's layer as it is, uncompressed, since packing would take longer than
    it saves. The same archive gives the same digest.
  - What a registry has after the push is read back, as some drop the annotations by which runtimes
    know a checkpoint.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.declarative
  - flowferry.core.registry

options:
  archive:
    description:
      - The checkpoint archive, as the kubelet wrote it.
    type: path
    required: true

  name:
    description:
      - Name of the image. For O(to=registry) with its registry, such as
        V(registry.example.com/team/redis:checkpoint).
    type: str
    required: true

  to:
    description:
      - Where the image goes. V(layout) is the directory O(layout), V(registry) that of O(name),
        V(store) the image store of the containerd on this host.
    type: str
    choices:
      - layout
      - registry
      - store
    required: true

  layout:
    description:
      - Directory of the OCI layout. Required for O(to=layout).
    type: path
    default: ""

  container:
    description:
      - Name of the container. Left out, the one that the archive says.
    type: str
    default: ""

  base_reference:
    description:
      - Where the runtime takes the container's own image from when it restores, as NAME@DIGEST.
        Left out, from where it came at the source.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Push the checkpoint
  flowferry.core.checkpoint_image:
    archive: "{{ checkpoint.archive }}"
    name: 198.18.0.4:5000/redis:checkpoint
    to: registry
    username: flowferry
    password: "{{ registry_password }}"
    ca_file: /etc/containerd/certs.d/198.18.0.4:5000/ca.crt
"""

RETURN = r"""
digest:
  description: Digest of the image's manifest.
  returned: success
  type: str
  sample: sha256:506f5e347d91711d7c1af891447f4740de000b6c204e63a0badb90718ae5c0fd

size:
  description: Size of all layers in bytes.
  returned: success
  type: int
  sample: 3421184

container:
  description: Name of the container that it is a checkpoint of.
  returned: success
  type: str
  sample: redis
"""

import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flowferry.core.plugins.module_utils.cri import containerd
from ansible_collections.flowferry.core.plugins.module_utils.cri.kubelet_process import ENDPOINT
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.oci import layout
from ansible_collections.flowferry.core.plugins.module_utils.oci.blobs import Image
from ansible_collections.flowferry.core.plugins.module_utils.oci.checkpoint import (
    CONTAINERD_ANNOTATION,
    build_image,
)
from ansible_collections.flowferry.core.plugins.module_utils.oci.reference import Reference
from ansible_collections.flowferry.core.plugins.module_utils.oci.registry import Access, Registry

TEXT = {"type": "str", "default": ""}
ARGUMENTS: dict[str, Any] = {
    "archive": {"type": "path", "required": True},
    "name": {"type": "str", "required": True},
    "to": {"type": "str", "choices": ["layout", "registry", "store"], "required": True},
    "layout": {"type": "path", "default": ""},
    "container": TEXT,
    "base_reference": TEXT,
    "username": TEXT,
    "password": {"type": "str", "default": "", "no_log": True},
    "ca_file": {"type": "path", "default": ""},
    "plain_http": {"type": "bool", "default": False},
}


def into_layout(image: Image, params: dict[str, Any], *, check_mode: bool) -> str:
    """Write it into the directory; returns the digest that was there."""
    directory = Path(params["layout"])
    before = layout.digest_in(directory)
    if before != image.digest and not check_mode:
        layout.write_layout(image, params["name"], directory)
    return before


def into_registry(image: Image, params: dict[str, Any], *, check_mode: bool) -> str:
    """Push it; returns the digest that the name had."""
    reference = Reference.parse(params["name"])
    access = Access(*(params[key] for key in ("username", "password", "ca_file", "plain_http")))
    registry = Registry(reference, access)
    try:
        found = registry.manifest(reference.tag)
        if not check_mode:
            registry.push(image)
    finally:
        registry.close()
    return found[0] if found else ""


def into_store(image: Image, params: dict[str, Any], *, check_mode: bool) -> str:
    """Import it; returns the digest that the name had."""
    containerd.Containerd(ENDPOINT).require()
    before = containerd.images().get(params["name"], "")
    if before != image.digest and not check_mode:
        with tempfile.TemporaryDirectory(prefix="flowferry-") as directory:
            archive = Path(directory) / "image.tar"
            layout.write_archive(image, params["name"], archive)
            containerd.import_archive(archive)
    return before


TARGETS = {"layout": into_layout, "registry": into_registry, "store": into_store}


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Make the image, bring it to its place, and tell what was done."""
    image = build_image(Path(params["archive"]), params["container"], params["base_reference"])
    before = TARGETS[params["to"]](image, params, check_mode=check_mode)
    return {
        "changed": before != image.digest,
        "digest": image.digest,
        "size": sum(blob.size for blob in image.blobs[1:]),
        "container": image.annotations[CONTAINERD_ANNOTATION],
        "diff": {"before": f"{before}\n" if before else "", "after": f"{image.digest}\n"},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("to", "layout", ["layout"])],
    )
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except FlowferryError as error:
        module.fail_json(msg=str(error), failure=error.as_dict())
    except OSError as error:
        module.fail_json(msg=f"{module.params['archive']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
