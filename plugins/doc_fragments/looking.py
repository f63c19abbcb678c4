# SPDX-License-Identifier: Apache-2.0
"""Documentation of the attributes that modules share which only look."""

from __future__ import annotations


class ModuleDocFragment:
    """For modules that change nothing in any mode."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    support: full
    description: Can run in check_mode and return changed status prediction without modifying
      target.
    details:
      - This module only reads.
  diff_mode:
    support: N/A
    description: Will return details on what has changed (or possibly needs changing in
      check_mode), when in diff mode.
  idempotent:
    support: full
    description: When run twice in a row outside check mode, with the same arguments, the second
      invocation indicates no change.
"""
