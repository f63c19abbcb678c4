#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_certificates
short_description: One-time certificates of a migration
version_added: 0.1.0
description:
  - Makes the key and certificates with which the controller and the two nodes of one migration
    know each other. They are valid for an hour and are written nowhere, but for a
    directory on the destination of a pod in CRI-O that only root reads, while the pod moves.
  - Runs on the controller and needs the Python package C(cryptography) there.
  - Use C(no_log) on the task, since the result holds a private key.
attributes:
  check_mode:
    description: Makes nothing that stays.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
  idempotent:
    description: Every call returns new certificates.
    support: none
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: Certificates of this migration
  flowferry.core.migration_certificates:
  delegate_to: localhost
  register: migration_certificates
  no_log: true
"""

RETURN = r"""
certificates:
  description: PEM texts C(ca), C(certificate) and C(key).
  returned: success
  type: dict
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.flowferry.core.plugins.module_utils.certificates import (
        one_time_certificates,
    )
except ImportError:
    IMPORT_ERROR = traceback.format_exc()
else:
    IMPORT_ERROR = ""


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=IMPORT_ERROR)
    module.exit_json(changed=False, certificates=one_time_certificates())


if __name__ == "__main__":
    main()
