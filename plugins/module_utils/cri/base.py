# SPDX-License-Identifier: Apache-2.0
"""What a migration of pods needs of a node's container runtime, beyond what the kubelet asks of it.

The kubelet speaks to every runtime alike, by the CRI. How the processes of a pod are found, how one
knows that a dump is over, and how images change their names while pods run of them, is each
runtime's own.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..oci.blobs import Image
from ..oci.server import ImageServer

# The images that copies of pods are made of are in this part of a registry.
CHECKPOINT_REPOSITORY = "flowferry-checkpoint"

About = dict[str, Any]
"""What inspect() of a pod says of one container: ``image_ref`` is the image that it was made of at
first, by NAME@DIGEST; ``made_from`` is what ContainerRuntime.containers_of() called its image."""


@dataclass(frozen=True)
class Container:
    """One container of a pod, the sandbox's own included; pid 0 until it is started."""

    id: str
    name: str
    pod_uid: str
    is_sandbox: bool
    pid: int
    image: str
    # Where the runtime keeps its files.
    directory: Path

    @property
    def lives(self) -> bool:
        return self.pid != 0 and Path(f"/proc/{self.pid}").exists()


class ContainerRuntime(ABC):
    """The container runtime of this node."""

    name: ClassVar[str]
    """What messages call it."""
    program: ClassVar[str]
    """What it is run by."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        """Where it serves the CRI."""

    # -- plan

    @abstractmethod
    def require(self) -> None:
        """FlowferryError unless it dumps and restores containers."""

    @abstractmethod
    def containers_of(self, pod_uid: str) -> list[Container]:
        """The containers that it has of a pod on this node. Asked often: this must be cheap."""

    # -- source

    def prepare_checkpoint(self, containers: list[About]) -> None:
        """Before the hold: what the runtime wants for a dump of these containers."""
        return

    def pause(self, containers: list[About]) -> bool:
        """Stop them all so that they stand still before, during and after their dumps.

        False if the runtime dumps only what runs: then each is to be stopped when its dump is over.
        """
        return False

    def unpause(self, containers: list[About]) -> None:
        """Undo pause(), which may not have happened."""
        return

    @abstractmethod
    def dump_mark(self, container: Container) -> str:
        """What wait_for_dump() has to know of the container; plain text, for the journal."""

    @abstractmethod
    def wait_for_dump(self, container: About, deadline: float) -> bool:
        """True as soon as the runtime lets a dumped container go on; False at ``deadline``.

        Called before the dump begins; ``container["dumped"]`` is its dump_mark().
        """

    def is_writing(self, container: About) -> bool:
        """Whether the runtime still writes a checkpoint, perhaps for nobody any more."""
        return False

    def resume(self, container: About) -> None:
        """Before a frozen container goes on at the source: what the runtime has to know of it."""
        return

    # -- destination

    @abstractmethod
    def serve(self, certificates: dict[str, str], port: int = 0) -> ImageServer:
        """A registry on this node's loopback interface, from which the runtime pulls.

        ``certificates`` are those of this migration.
        """

    @abstractmethod
    def distrust(self, address: str) -> None:
        """Pull no more from what serve() gave, which may not have been called."""

    def prepare_base(self, container: str, reference: str, server: ImageServer) -> None:
        """Before the hold: what a restore wants of the image ``reference``, which is here."""
        return

    def base_reference(self, container: str, server: ImageServer) -> str:
        """What the checkpoint is to call the image prepared so; empty: as it does already."""
        return ""

    # -- images

    @abstractmethod
    def has_image(self, reference: str) -> bool:
        """Whether the image is here."""

    @abstractmethod
    def pull(self, reference: str) -> None:
        """Fetch and unpack an image with the settings that the kubelet's pulls have."""

    @abstractmethod
    def original(self, reference: str, mark: str) -> Image:
        """The image ``reference``, under another id, which ``mark`` makes; layers are here."""

    @abstractmethod
    def checkpoints(self, reference: str, base: str) -> set[str]:
        """What the image ``reference`` goes by here, if it is a checkpoint and not ``base``."""

    @abstractmethod
    def remove_images(self, names: list[str]) -> None:
        """Forget names of images; those that are not there are no failure."""

    @abstractmethod
    def forget(self, names: list[str]) -> None:
        """Forget what a move has left: ``names`` are the images of containers that have ended.

        Names that are not of this project stay, and so does everything that is not there.
        """


def named_by_kubelet(spec: dict[str, Any]) -> str:
    """A container's name in its pod, by the directory that the kubelet mounts into it."""
    for mount in spec.get("mounts", []):
        found = re.search(r"/pods/[^/]+/containers/([^/]+)/", mount.get("source", ""))
        if found:
            return found[1]
    return ""
