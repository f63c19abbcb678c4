# SPDX-License-Identifier: Apache-2.0
"""Documentation of the connection options that all P4 modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """One to one with ``ARG_SPEC`` in plugins/module_utils/p4runtime.py."""

    DOCUMENTATION = r"""
options:
  address:
    description:
      - Where the switch serves P4Runtime, as C(host:port).
    type: str
    required: true

  device_id:
    description:
      - P4Runtime's number of the device behind the address.
    type: int
    default: 1

  election_id:
    description:
      - The election id with which the task claims to be the primary controller, for as long as it
        writes.
      - Without it the task becomes primary only when nobody is, and fails naming the other's
        election id otherwise. A task that has nothing to change never claims anything.
      - A value above that of the present primary controller takes its role away. Do this only when
        that controller is known to be gone or in the wrong.
    type: int

  role:
    description:
      - P4Runtime role of the controller. Left out, it is the role with full access.
    type: str

  timeout:
    description:
      - Seconds to wait for each answer of the switch.
    type: float
    default: 5.0

  tls:
    description:
      - Whether the connection is secured. The other options for it need this one to be V(true).
    type: bool
    default: false

  ca:
    description:
      - Path of the CA certificates (PEM) that the switch's certificate is checked against.
      - Left out, gRPC's own list of public authorities is used.
    type: path

  cert:
    description:
      - Path of the controller's certificate (PEM). Needs O(key).
    type: path

  key:
    description:
      - Path of the key (PEM) of O(cert).
    type: path

  server_name:
    description:
      - The name in the switch's certificate, where it is not the host of O(address).
    type: str

  token:
    description:
      - Bearer token that is sent with every call.
    type: str

requirements:
  - flowferry_p4 (in the collection's C(p4/) directory) with its requirements grpcio and finsy, on
    the host that runs the task; usually the controller, by C(delegate_to=localhost)

notes:
  - Run these modules on the controller (C(delegate_to=localhost), C(run_once=true)); switches need
    no Python.
  - Quote MAC addresses. YAML reads an unquoted one of digits only, such as V(52:54:00:12:34:56),
    as a number to the base of 60.
"""
