#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_authority

short_description: An authority in a directory, and the certificates that it signs

version_added: 0.1.0

description:
  - Makes C(ca.crt) and C(ca.key) in a directory, and for each certificate a C(NAME.pem) with its
    key followed by the certificate, good for servers and clients.
  - One task makes what a cluster needs. With the modules of community.crypto it would take three
    for each certificate.
  - What has less than a third of its life left, or other names than asked for, is made again.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.declarative

options:
  directory:
    description:
      - Where the files are. It is made with mode 0700.
    type: path
    required: true

  days:
    description:
      - How long everything is valid.
    type: int
    default: 365

  certificates:
    description:
      - What the authority signs.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the file, without C(.pem).
        type: str
        required: true
      common_name:
        description:
          - Whose certificate it is; the user, to Kubernetes.
        type: str
        required: true
      organizations:
        description:
          - The groups, to Kubernetes.
        type: list
        elements: str
        default: []
      hosts:
        description:
          - Names and addresses that a server is reached by.
        type: list
        elements: str
        default: []

requirements:
  - cryptography
"""

EXAMPLES = r"""
- name: Certificates of a cluster
  flowferry.core.certificate_authority:
    directory: /run/flowferry/lab0/pki
    certificates:
      - name: apiserver
        common_name: kube-apiserver
        hosts: [kubernetes.default.svc, 10.96.0.1, 198.18.0.4]
      - name: admin
        common_name: admin
        organizations: ["system:masters"]
  delegate_to: localhost
"""

RETURN = r"""
made:
  description: What was, or in check mode would be, made.
  returned: success
  type: list
  elements: str
  sample: [ca, apiserver]
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.flowferry.core.plugins.module_utils import pki
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

TEXTS = {"type": "list", "elements": "str", "default": []}
NEEDED = {"type": "str", "required": True}
ARGUMENTS: dict[str, Any] = {
    "directory": {"type": "path", "required": True},
    "days": {"type": "int", "default": 365},
    "certificates": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": NEEDED,
            "common_name": NEEDED,
            "organizations": TEXTS,
            "hosts": TEXTS,
        },
    },
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=str(IMPORT_ERROR))
    params = module.params
    authority = pki.Authority(Path(params["directory"]), timedelta(days=params["days"]))
    wanted = [pki.Wanted(**one) for one in params["certificates"]]
    try:
        missing = authority.missing(wanted)
        if not module.check_mode:
            authority.make(wanted)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{params['directory']}: {error}")
    words = "".join(f"{name}\n" for name in missing)
    module.exit_json(changed=bool(missing), made=missing, diff={"before": "", "after": words})


if __name__ == "__main__":
    main()
