# SPDX-License-Identifier: Apache-2.0
"""What the modules that read checkpoints share: an option, and a Python that has pycriu."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.respawn import (
    has_respawned,
    probe_interpreters_for_module,
    respawn_module,
)
from ansible.module_utils.common.text.formatters import human_to_bytes

from ..errors import FlowferryError
from . import images

# Documented in the doc fragment "checkpoint".
MAX_SIZE: dict[str, Any] = {"type": "str", "default": "64G"}
# Where distributions have the Python that their packages are for.
_INTERPRETERS = ["/usr/bin/python3", "/usr/libexec/platform-python"]


def byte_limit(text: str) -> int:
    """The option max_size in bytes."""
    try:
        return int(human_to_bytes(text))
    except ValueError as error:
        raise FlowferryError(
            "bad_size", f"max_size: {text!r} is not a size; write it as 500M or 64G"
        ) from error


def need_pycriu() -> None:
    """Go on in the system's Python when this one has no pycriu, or refuse."""
    try:
        images.pycriu()
    except FlowferryError:
        if not has_respawned():
            interpreter = probe_interpreters_for_module(_INTERPRETERS, "pycriu.images")
            if interpreter:
                respawn_module(interpreter)  # does not return
        raise
