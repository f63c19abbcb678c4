# SPDX-License-Identifier: Apache-2.0
"""A helper's part in moving volumes: what the keeper asks for, and what goes with other requests.

A workload whose description has no volumes is none of its business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, ClassVar

from ..errors import FlowferryError
from ..runtimes.base import PATIENCE, About, Workload
from ..transfer import JsonLines, connect, tls_context
from . import source
from .destination import copied
from .model import Place, Volume, volumes_of
from .receiver import VolumeReceiver

# The destination may take a long look at what it has, before it says anything (seconds).
_SILENCE = 900.0


class VolumeOperations:
    """The volumes of one workload, on either node."""

    names: ClassVar[tuple[str, ...]] = (
        "choose_volumes",
        "measure_volumes",
        "check_volume_space",
        "copy_volumes",
        "volume_state",
        "settle_volumes",
    )

    def __init__(self, workload: Workload, certificates: dict[str, str]) -> None:
        self._workload = workload
        self._certificates = certificates
        self._copying: source.Copying | None = None
        self._said: dict[str, int] | None = None
        self._expected: list[Volume] = []
        self._receiver: VolumeReceiver | None = None
        self._stream: tuple[JsonLines, threading.Thread] | None = None
        self._failure: FlowferryError | None = None

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """What the keeper can ask for."""
        return {name: getattr(self, name) for name in self.names}

    @cached_property
    def _destination(self) -> Place:
        return self._workload.volume_place()

    # -- plan

    def choose_volumes(self, volumes: list[dict[str, Any]], copies: bool) -> list[dict[str, Any]]:
        """At the destination: how each gets there."""
        chosen = self._destination.choose([Volume(**one) for one in volumes], copies)
        return [volume.as_dict() for volume in chosen]

    def measure_volumes(self, volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """At the source: how large the copies will be."""
        measured = source.measure([Volume(**one) for one in volumes])
        return [volume.as_dict() for volume in measured]

    def check_volume_space(self, volumes: list[dict[str, Any]]) -> None:
        """At the destination: refuse if they do not fit."""
        self._destination.check_space([Volume(**one) for one in volumes])

    # -- source

    def name_lineage(self, about: About) -> None:
        """Before anything is copied."""
        source.name_lineage(volumes_of(about))

    def copy_volumes(self, about: About, host: str, port: int) -> None:
        """Begin to copy; volume_state() tells how it goes."""

        def open_stream() -> JsonLines:
            context = tls_context(self._certificates, server=False)
            lines = connect(host, port, context, "volumes")
            lines.connection.settimeout(_SILENCE)
            return lines

        def mapped() -> set[int]:
            return source.mapped_inodes(self._workload.pids(about))

        self._copying = source.Copying(volumes_of(about), open_stream, mapped)

    def volume_state(self) -> dict[str, Any]:
        """How the copying goes, on either node; its failure is raised here."""
        if self._failure is not None:
            raise self._failure
        if self._copying is not None:
            return self._copying.state()
        return {"bytes": self._receiver.received if self._receiver else 0}

    @contextmanager
    def last_pass(self) -> Iterator[dict[str, int]]:
        """Beside the dump: what has changed since the last pass, unless that is sent already."""
        if self._copying is None or self._said is not None:
            yield self._said or {"volume_bytes": 0}
            return
        with self._copying.last_pass(PATIENCE) as said:
            yield said
        self._said = said

    def leave(self, about: About) -> None:
        """The workload has left this node."""
        source.leave(volumes_of(about))

    # -- destination

    def prepare(self, about: About) -> None:
        """Make room for what will come."""
        self._expected = copied(volumes_of(about))
        if self._expected:
            self._destination.prepare(self._expected)

    def receive(self, lines: JsonLines) -> None:
        """What the source's copy_volumes() sends."""
        self._stream = (lines, threading.current_thread())
        try:
            self._receiver = VolumeReceiver(lines, self._destination.roots(self._expected))
            self._receiver.serve()
        except Exception as error:
            self._failure = source.as_failure(error)
            with suppress(OSError):
                lines.send({"error": str(self._failure)})
            raise
        finally:
            if self._receiver is not None:
                self._receiver.close()

    @contextmanager
    def ready(self, about: About) -> Iterator[None]:
        """While the copy is restored."""
        if not copied(volumes_of(about)):
            yield
            return
        with self._destination.ready(volumes_of(about)):
            yield

    def settle_volumes(self, about: About) -> None:
        """The copy serves; its volumes are safe from now on."""
        self._destination.settle(volumes_of(about))

    def discard(self, about: About) -> None:
        """The copy is given up."""
        if not copied(volumes_of(about)):
            return
        if self._stream is not None:
            lines, thread = self._stream
            lines.shut_down()
            thread.join(10.0)
        self._destination.discard(volumes_of(about))

    # -- either

    def close(self) -> None:
        """Nothing more will be asked."""
        if self._copying is not None:
            self._copying.close()
