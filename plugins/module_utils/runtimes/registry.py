# SPDX-License-Identifier: Apache-2.0
"""The runtimes by name, and the workload that a text such as ``podman:redis`` means."""

from __future__ import annotations

from ..errors import FlowferryError
from .base import Workload
from .docker import DockerContainer
from .kubernetes import KubernetesPod
from .podman import PodmanContainer
from .podman_pod import PodmanPod
from .process import ProcessTree

# A plain list of imports, since Ansible ships to a node what it finds imported here.
RUNTIMES: dict[str, type[Workload]] = {
    kind.runtime: kind
    for kind in (DockerContainer, KubernetesPod, PodmanContainer, PodmanPod, ProcessTree)
}
DEFAULT = PodmanContainer.runtime


def open_workload(text: str) -> Workload:
    """The workload that ``text`` names: RUNTIME:NAME, or NAME for a Podman container."""
    runtime, colon, name = text.partition(":")
    if not colon:
        runtime, name = DEFAULT, text
    if runtime not in RUNTIMES:
        raise FlowferryError(
            "unknown_runtime",
            f'there is no runtime "{runtime}" (in "{text}"); a workload is RUNTIME:NAME with one '
            f"of {', '.join(sorted(RUNTIMES))}, or the NAME of a Podman container",
        )
    return RUNTIMES[runtime](name)
