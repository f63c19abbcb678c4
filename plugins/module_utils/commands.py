# SPDX-License-Identifier: Apache-2.0
"""Run a program on a node, with a bound in time and an error that a person can use."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from .errors import FlowferryError

# podman 5 warns about cgroup v1 on every call; what it says is documented, and not ours to repeat.
_ENVIRONMENT = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1", "LC_ALL": "C.UTF-8"}


def run(
    command: Sequence[str], *, timeout: float = 30.0, code: str = "command_failed", cwd: str = "/"
) -> str:
    """Standard output of ``command``. A failure or a time-out (seconds) is a FlowferryError.

    The command leads a process group of its own, so that ending it ends what it started.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, complaint = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise FlowferryError(
            "timeout", f"`{' '.join(command)}` did not end within {timeout:g} s"
        ) from None
    if process.returncode != 0:
        text = complaint.strip() or output.strip()
        raise FlowferryError(
            code, f"`{' '.join(command)}` failed ({process.returncode}): {text[-600:]}", text
        )
    return output
