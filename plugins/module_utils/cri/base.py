# SPDX-License-Identifier: Apache-2.0
"""What a migration of pods needs of a node's container runtime, beyond what the kubelet asks of it.

The kubelet speaks to every runtime alike, by the CRI. How the processes of a pod are found, how one
knows that a dump is over, and how images change their names while pods run of them, is each
runtime's own.
"""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..cgroup import Freezer
from ..oci.blobs import Image
from ..oci.server import ImageServer

# The images that copies of pods are made of are in this part of a registry.
CHECKPOINT_REPOSITORY = "flowferry-checkpoint"
# An archive that nobody waits for any more is complete, or given up, within this time (seconds).
WRITING_LIMIT = 20.0

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

    @abstractmethod
    def bundle(self, container: Container) -> Path:
        """The directory of what its OCI runtime was told: ``config.json``."""

    def spec(self, container: Container) -> dict[str, Any]:
        """That itself, as the specification of OCI runtimes has it."""
        found: dict[str, Any] = json.loads((self.bundle(container) / "config.json").read_bytes())
        return found

    def check_restorable(self, container: Container) -> None:
        """FlowferryError if no node with this runtime could restore a dump of it."""
        return

    # -- source

    def freezer_of(self, container: Container) -> Freezer | None:
        """What the container can be frozen by; None if it is in the root group, or has ended."""
        return Freezer.of(container.pid)

    @abstractmethod
    def dump_mark(self, container: Container) -> str:
        """What is known a dump by, plain text for the journal: ``dumped`` of the container."""

    def prepare_checkpoint(self, containers: list[About]) -> None:
        """Before the hold: what the runtime wants for a dump of these containers."""
        return

    @abstractmethod
    def freeze(self, containers: list[About], steady: bool) -> None:
        """Before the runtime dumps them: have them stand still.

        If they are ``steady``, what happens between two dumps could be seen by files or by the
        containers beside it; so all stand still before the first. Others may run until they are
        dumped, and for a moment afterwards: nobody hears them, as packets are held.
        """

    @abstractmethod
    def keep_frozen(self, containers: list[About]) -> None:
        """After the dumps: they stand still, or else FlowferryError."""

    @abstractmethod
    def resume(self, containers: list[About]) -> None:
        """Undo freeze(), which may not have happened, when nothing is written of them any more."""

    def clear(self, containers: list[About]) -> None:
        """After the end of the containers: take away what freeze() has made of its own."""
        return

    @abstractmethod
    def dump_log(self, container: About) -> Path:
        """What CRIU has logged of the last dump, if that failed."""

    def wait_until_written(self, containers: list[About]) -> None:
        """A kubelet that died leaves the runtime alone, which would leave an archive behind."""
        deadline = time.monotonic() + WRITING_LIMIT
        while any(map(self.is_writing, containers)):
            if time.monotonic() > deadline:
                return  # the next move removes it
            time.sleep(0.005)

    @abstractmethod
    def is_writing(self, container: About) -> bool:
        """Whether the runtime still writes a checkpoint, perhaps for nobody any more."""

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
