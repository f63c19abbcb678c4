# SPDX-License-Identifier: Apache-2.0
"""Options of modules that speak to an image registry."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation that those modules share."""

    DOCUMENTATION = r"""
options:
  username:
    description:
      - Who pushes. Left out, the registry is asked without credentials.
    type: str
    default: ""

  password:
    description:
      - The password, or a token that the registry takes for one.
    type: str
    default: ""

  ca_file:
    description:
      - Authorities that the registry's certificate is checked against. Left out, the system's.
    type: path
    default: ""

  plain_http:
    description:
      - Speak without TLS. For a registry on the same host only.
    type: bool
    default: false
"""
