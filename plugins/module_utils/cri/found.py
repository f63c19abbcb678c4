# SPDX-License-Identifier: Apache-2.0
"""Which container runtime this node's pods run in."""

from __future__ import annotations

from .base import ContainerRuntime
from .containerd import Containerd


def container_runtime() -> ContainerRuntime:
    """The runtime of this node's kubelet."""
    return Containerd()
