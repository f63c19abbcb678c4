# SPDX-License-Identifier: Apache-2.0
"""Documentation that the modules which read checkpoints share."""

from __future__ import annotations


class ModuleDocFragment:
    """``MAX_SIZE`` in plugins/module_utils/checkpoint/modules.py."""

    DOCUMENTATION = r"""
options:
  max_size:
    description:
      - What an archive may unpack to, such as V(500M) or V(64G). A larger one is refused. Nothing
        of an archive is written anywhere before all of it has been checked.
    type: str
    default: 64G

requirements:
  - pycriu (Debian's C(python3-pycriu)), for the system's Python. Ansible may use another one.
"""
