# SPDX-License-Identifier: Apache-2.0
"""Connection of the P4 modules to a switch: their common options, and errors as module failures.

Note that this module util is **PRIVATE** to the collection.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

if TYPE_CHECKING:
    from flowferry_p4.client import P4Error, Session

IMPORT_ERROR: str | None
try:
    from flowferry_p4 import client
except ImportError:
    IMPORT_ERROR = traceback.format_exc()
else:
    IMPORT_ERROR = None

# One to one with plugins/doc_fragments/p4runtime.py; a test compares them.
ARG_SPEC: dict[str, dict[str, Any]] = {
    "address": {"type": "str", "required": True},
    "device_id": {"type": "int", "default": 1},
    "election_id": {"type": "int"},
    "role": {"type": "str"},
    "timeout": {"type": "float", "default": 5.0},
    "tls": {"type": "bool", "default": False},
    "ca": {"type": "path"},
    "cert": {"type": "path"},
    # A path; the key itself never is an argument.
    "key": {"type": "path", "no_log": False},
    "server_name": {"type": "str"},
    "token": {"type": "str", "no_log": True},
}

_TLS_ONLY = ("ca", "cert", "key", "server_name", "token")


def require_client(module: AnsibleModule) -> None:
    """Fail with the remedy when this Python cannot speak P4Runtime."""
    if IMPORT_ERROR is not None:
        reason = "to speak P4Runtime; it is in the collection's p4/ directory (pip install ./p4)"
        module.fail_json(
            msg=missing_required_lib("flowferry_p4", reason=reason), exception=IMPORT_ERROR
        )


def open_session(module: AnsibleModule, primary: bool) -> Session:
    """A session as the module's connection options describe it."""
    params = module.params
    return client.Session.open(
        params["address"],
        device_id=params["device_id"],
        election_id=params["election_id"],
        role=params["role"],
        tls=_tls(params),
        timeout=params["timeout"],
        primary=primary,
    )


def _tls(params: dict[str, Any]) -> client.Tls | None:
    given = {name: params[name] for name in _TLS_ONLY if params[name] is not None}
    if params["tls"]:
        return client.Tls(**given)
    if given:
        raise client.BadValue(
            f"{', '.join(given)}: only used on a secured connection; add 'tls: true'"
        )
    return None


def fail(module: AnsibleModule, error: P4Error) -> NoReturn:
    """End the module with an error that was written for people."""
    module.fail_json(msg=str(error), error_type=type(error).__name__)
    raise AssertionError("fail_json returned") from error
