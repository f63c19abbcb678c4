# SPDX-License-Identifier: Apache-2.0
"""The interface that everything which can be moved has, whatever runs it.

A workload is one thing with one name, one endpoint and one hold; it may have several containers,
which are frozen, dumped and restored together. An object of a runtime's class stands for the
workload on *this* node, whether it is there or not, and keeps no state: after a crash the next
helper is given the source's description, from the journal, and has to do with that.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from .. import endpoint as endpoints
from ..checkpoint.addresses import rewrite_addresses
from ..commands import run
from ..criu import check_criu, check_memory, check_space
from ..errors import FlowferryError
from ..memory.post_copy_destination import PostCopyReceiver
from ..memory.stream import WORTH_IT, Receiver, Sender
from ..volumes.destination import Destination
from ..volumes.model import Place, Store, collect
from ..volumes.source import look

About = dict[str, Any]
"""What describe() says of a workload. It goes into the journal, so it is plain JSON.

Every runtime gives ``id`` (another one when a namesake is started afresh), ``status`` ("running" is
the only one that can be moved), ``endpoint`` (as Endpoint.as_dict(), or None) and ``memory_bytes``
(the checkpoint will hardly be larger); beyond that whatever its own methods need.
"""


PATIENCE = 55.0
"""Seconds for a command while the endpoint is held: the keeper waits for an answer for a minute."""


class Workload(ABC):
    """One workload on this node, by the name that its runtime knows it by."""

    runtime: ClassVar[str]
    """The word before the colon: ``podman`` in ``podman:redis``."""
    program: ClassVar[str] = "criu"
    """What it is run by; ``PROGRAM --version`` says the version."""
    noun: ClassVar[str]
    """What messages call it."""
    listing: ClassVar[str]
    """The command that lists what there is on a node, for messages."""
    removal: ClassVar[str]
    """The command that removes {name}, for messages."""
    start: ClassVar[str]
    """The command that starts {name}, for messages."""
    operations: ClassVar[tuple[str, ...]] = ()
    """Methods that the keeper asks for beyond those of this class."""
    is_given_address: ClassVar[bool] = False
    """Whether the destination itself chooses an address for a copy that is to get another one."""
    volume_store: ClassVar[Store | None] = None
    """Where its volumes are made; without one it has none that could move."""
    growing_files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files that checkpoint() only ever appends to: they are sent meanwhile."""
    name_pattern: ClassVar[str] = r"[A-Za-z0-9][A-Za-z0-9_.-]*"

    def __init__(self, name: str) -> None:
        if not re.fullmatch(self.name_pattern, name):
            raise FlowferryError(
                "bad_workload",
                f'"{name}" cannot be the name of a {self.noun}; a workload is written '
                f"{self.runtime}:NAME, and `{self.listing}` on a node lists what there is",
            )
        self.name = name
        self.certificates: dict[str, str] = {}
        """Of this migration; whoever runs it gives them."""
        self.memory_sender: Sender | None = None
        self.memory_receiver: Receiver | PostCopyReceiver | None = None
        """Given before prepare_source() and prepare_destination() if has_much_memory()."""

    @property
    def title(self) -> str:
        """How messages call it."""
        return f'{self.noun} "{self.name}"'

    @property
    def file_name(self) -> str:
        """Its name in files and directories, unlike that of any other workload."""
        return f"{self.runtime}.{self.name}"

    def __str__(self) -> str:
        return f"{self.runtime}:{self.name}"

    def streams_memory(self, about: About) -> bool:
        """Whether large memory can go apart from its checkpoint, by the sender and receiver."""
        return False

    def has_much_memory(self, about: About) -> bool:
        """Whether so much of it can go apart that it does; ``apart_bytes`` says how much."""
        return self.streams_memory(about) and bool(about.get("apart_bytes", 0) >= WORTH_IT)

    # -- plan: look, and touch nothing

    @classmethod
    def check_node(cls) -> None:
        """Refuse, by a FlowferryError, a node that cannot dump or restore such workloads."""
        check_criu()

    @classmethod
    def ability(cls) -> dict[str, Any]:
        """For node_info: the version, whether this node restores such workloads, or why not."""
        if shutil.which(cls.program) is None:
            reason = f"{cls.program} is not installed"
            return {"version": None, "restores": False, "reason": reason}
        version = run([cls.program, "--version"]).splitlines()[0]
        try:
            cls.check_node()
        except FlowferryError as error:
            return {"version": version, "restores": False, "reason": str(error)}
        return {"version": version, "restores": True, "reason": ""}

    @abstractmethod
    def describe(self) -> About | None:
        """What is known of it on this node; None when it is not here."""

    @abstractmethod
    def check_source(self) -> About:
        """Its description, or a FlowferryError that says why it cannot leave this node."""

    @abstractmethod
    def check_destination(self, about: About, directory: Path) -> None:
        """Refuse, by a FlowferryError, a node that cannot take it.

        ``about`` is what the source's check_source() gave; the checkpoint will come to
        ``directory``.
        """

    def require_running(self) -> About:
        """For check_source(): the description of a workload that is here, runs, has an endpoint."""
        about = self.describe()
        if about is None:
            raise FlowferryError(
                "unknown_workload", f"there is no {self.title} here; `{self.listing}` lists them"
            )
        if about["status"] != "running":
            raise FlowferryError(
                "not_running",
                f"{self.title} is {about['status']}; only a running one can be moved: "
                f"`{self.start.format(name=self.name)}`",
            )
        if about["endpoint"] is None:
            raise FlowferryError("no_endpoint", self.without_endpoint(about))
        return about

    def without_endpoint(self, about: About) -> str:
        """The message for a workload whose address cannot move."""
        return (
            f"{self.title} has no endpoint of its own; its address can move only from a namespace "
            "made by flowferry.core.endpoint"
        )

    def network(self, about: About) -> Path:
        """Where the kernel shows the network namespace of the source."""
        return endpoints.NAMESPACES / str(about["endpoint"]["namespace"])

    def find_volumes(self, mounts: list[About], own: list[str]) -> list[About]:
        """For check_source(): ``volumes`` of the description, behind these mounts of an engine.

        ``own`` are the names of the workload's containers.
        """
        if self.volume_store is None:
            return []
        found = look(collect(self.title, mounts, self.volume_store, own))
        return [volume.as_dict() for volume in found]

    def volume_place(self) -> Place:
        """Where copies of its volumes come to on this node."""
        if self.volume_store is None:
            raise FlowferryError("has_mounts", f"volumes of a {self.noun} cannot be moved")
        return Destination(self.title, self.file_name, self.volume_store)

    def pids(self, about: About) -> list[int]:
        """Its processes on the source, of a workload that has volumes."""
        return []

    def check_room(self, about: About, directory: Path, *places: Path | str) -> None:
        """For check_destination(): room for the checkpoint, which comes to the directory.

        Of memory that goes apart nothing comes there; the copy has it at once.
        """
        apart = int(about["apart_bytes"]) if self.has_much_memory(about) else 0
        if apart:
            check_memory(int(about["memory_bytes"]))
        check_space(max(0, about["memory_bytes"] - apart), directory, *places)

    # -- prepare: before anything is held

    @abstractmethod
    def prepare_source(self, about: About) -> None:
        """On the source: whatever would cost time later. It serves on, and must not notice."""

    def prepare_destination(self, about: About, endpoint: endpoints.Endpoint) -> None:
        """On the destination: make the network of the copy, unless it is there."""
        if endpoints.find(endpoint.namespace) != endpoint:
            endpoints.create(endpoint)

    # -- source, from the hold on; each can be called again, by another helper

    @abstractmethod
    def freeze(self, about: About) -> None:
        """Stop every process; returns when the kernel says that all stand still."""

    @abstractmethod
    def checkpoint(self, about: About, directory: Path) -> None:
        """Write the checkpoint of the frozen workload into ``directory``, which is empty.

        The source stays as it is: frozen, its sockets unharmed. Every file is sent to the
        destination under the same relative name.
        """

    @abstractmethod
    def resume(self, about: About) -> None:
        """Let the source go on where it was; nothing is to be done when it does already."""

    # -- destination

    def rewrite(self, about: About, directory: Path, addresses: dict[str, str]) -> None:
        """Give the sockets of the checkpoint other addresses, {old: new}; before restore().

        As it is here it serves a checkpoint whose images of CRIU are files of their own.
        """
        for files in directory.rglob("files.img"):
            rewrite_addresses(files.parent, addresses)

    @abstractmethod
    def restore(self, about: About, directory: Path) -> None:
        """Bring the copy to life from what checkpoint() wrote.

        Must fail unless it is the old workload that runs, with its sockets established. Clients
        wait meanwhile, so this is to be proven cheaply.
        """

    # -- either: the end of a source that was moved, or of a copy that was given up

    @abstractmethod
    def remove(self, about: About, endpoint: endpoints.Endpoint) -> None:
        """End it unheard, with its network: endpoints.remove() first, which cuts the cable.

        What is not there any more, or only half there, is no failure.
        """
