# SPDX-License-Identifier: Apache-2.0
"""The switch of this node: a session that is opened again when it breaks, and its ports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc

from flowferry_p4.client import Session, SwitchUnreachable, Tls
from flowferry_p4.client.connection import open_channel
from flowferry_p4.switch.port_service import PortClient

from .attach import attach, detach, missing
from .links import Attachment, Settings
from .memory import Memory
from .objects import Cluster
from .reconcile import Result, reconcile
from .session import open_session

Answer = TypeVar("Answer")


class NodeSwitch:
    """Safe to call from several threads: whole passes and single pods are written in turn."""

    def __init__(
        self,
        address: str,
        device_id: int,
        settings: Settings,
        cluster: Callable[[], Cluster],
        lost: Callable[[], None] = lambda: None,
        program: Path | None = None,
        resync: float = 30.0,
        tls: Tls | None = None,
    ) -> None:
        """``lost`` is called when a session ends, by whatever: the switch may begin anew.

        ``program`` is a directory with what a switch is given that has none; ``resync`` how often
        (seconds) all of the switch is read, where that is quick.
        """
        self.address = address
        self.settings = settings
        self._device_id = device_id
        self._tls = tls
        self._cluster = cluster
        self._lost = lost
        self._program = program
        self._memory = Memory(resync)
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._session: Session | None = None
        self._channel = open_channel(address, tls)
        self._ports = PortClient(self._channel)

    def session(self) -> Session:
        """An open one. A switch that was started again needs another."""
        with self._opening:
            if self._session is None or self._session.closed.is_set():
                if self._session is not None:
                    self._session.close()
                self._session = None
                self._session = open_session(self.address, device_id=self._device_id, tls=self._tls)
                self._give_program(self._session)
                threading.Thread(target=self._tell, args=(self._session,), daemon=True).start()
            return self._session

    def _give_program(self, session: Session) -> None:
        if self._program and session.pipeline() is None:
            info = (self._program / "flowferry.p4info.txtpb").read_text(encoding="utf-8")
            session.set_pipeline(info, (self._program / "flowferry.json").read_bytes())

    def _tell(self, session: Session) -> None:
        session.closed.wait()
        self._lost()

    def reconcile(self, attachments: Callable[[], Sequence[Attachment]]) -> Result:
        """A pass; pods that come and go do so before or after what it does with routes."""
        session, cluster = self.session(), self._cluster()
        return reconcile(session, cluster, attachments, self.settings, self._writing, self._memory)

    # -- for the CNI plugin

    def ports(self) -> dict[str, int]:
        listed = [text.partition("@") for text in self._ask(self._ports.list)]
        return {interface: int(number) for number, _, interface in listed}

    def add_port(self, number: int, interface: str) -> None:
        self._ask(lambda: self._ports.add(f"{number}@{interface}"))

    def remove_port(self, number: int) -> None:
        self._ask(lambda: self._ports.remove(number))

    def attach(self, attachment: Attachment) -> None:
        with self._writing:
            attach(self.session(), self._cluster(), attachment, self.settings)

    def detach(self, attachment: Attachment) -> None:
        with self._writing:
            detach(self.session(), attachment)

    def missing(self, attachment: Attachment) -> list[str]:
        return missing(self.session(), attachment)

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except grpc.RpcError as error:
            raise SwitchUnreachable(
                f"switch {self.address}: its ports cannot be asked for: {error.details()}"
            ) from None

    def close(self) -> None:
        with self._opening:
            if self._session is not None:
                self._session.close()
            self._channel.close()
