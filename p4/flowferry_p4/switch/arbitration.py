# SPDX-License-Identifier: Apache-2.0
"""Who may write: primaries and backups, one election for each role (P4Runtime 1.5, section 5)."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import grpc
from finsy.proto import p4r

from .controller import Controller
from .rpc_errors import RpcFailure, invalid


def election_number(message: p4r.Uint128) -> int:
    return int(message.high) << 64 | int(message.low)


@dataclass
class _Role:
    highest: int | None = None
    """The highest election id ever seen; None: there has been no primary."""
    primary: Controller | None = None


class Arbitration:
    """Keeps the controllers of one device and tells them of every change of primary."""

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id
        self._lock = threading.RLock()
        self._controllers: list[Controller] = []
        self._roles: dict[str, _Role] = {}

    def update(self, controller: Controller, message: p4r.MasterArbitrationUpdate) -> None:
        """Handle an arbitration message; raise RpcFailure where it ends the stream."""
        if message.device_id != self.device_id:
            precondition, unknown = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
            raise RpcFailure(
                precondition if controller.joined else unknown,
                f"this is device {self.device_id}, not {message.device_id}",
            )
        name = message.role.name
        if message.role.HasField("config"):
            raise invalid("role configurations are not known: every role has the full pipeline")
        given = message.HasField("election_id")
        asked = election_number(message.election_id) if given else None
        with self._lock:
            if controller.joined and controller.role != name:
                raise RpcFailure(
                    grpc.StatusCode.FAILED_PRECONDITION, "the role of a stream cannot change"
                )
            self._refuse_taken(controller, name, asked)
            if not controller.joined:
                controller.joined = True
                controller.role = name
                self._controllers.append(controller)
            controller.election_id = asked
            self._elect(controller, name)

    def _refuse_taken(self, controller: Controller, role: str, asked: int | None) -> None:
        for other in self._controllers:
            same = other is not controller and other.role == role
            if same and asked is not None and other.election_id == asked:
                raise invalid(f"election id {asked} is used by another controller")

    def _elect(self, controller: Controller, name: str) -> None:
        """The highest id ever seen wins; nobody is promoted without asking."""
        role = self._roles.setdefault(name, _Role())
        before = role.primary
        asked = controller.election_id
        if asked is not None and asked >= (role.highest or 0):
            role.highest = asked
            role.primary = controller
        elif before is controller:
            role.primary = None
        if role.primary is controller or role.primary is not before:
            self._announce(name)
        else:
            controller.send(self._notice(controller, role))

    def leave(self, controller: Controller) -> None:
        controller.end_batches()
        with self._lock:
            if controller not in self._controllers:
                return
            self._controllers.remove(controller)
            role = self._roles[controller.role]
            if role.primary is controller:
                role.primary = None
                self._announce(controller.role)

    def _announce(self, name: str) -> None:
        for controller in self._controllers:
            if controller.role == name:
                controller.send(self._notice(controller, self._roles[name]))

    def _notice(self, controller: Controller, role: _Role) -> p4r.StreamMessageResponse:
        response = p4r.StreamMessageResponse()
        update = response.arbitration
        update.device_id = self.device_id
        if controller.role:
            update.role.name = controller.role
        if role.highest is not None:
            update.election_id.high = role.highest >> 64
            update.election_id.low = role.highest & (1 << 64) - 1
        if role.primary is controller:
            update.status.code = grpc.StatusCode.OK.value[0]
            update.status.message = "you are primary"
        elif role.primary:
            update.status.code = grpc.StatusCode.ALREADY_EXISTS.value[0]
            update.status.message = "another controller is primary"
        else:
            update.status.code = grpc.StatusCode.NOT_FOUND.value[0]
            update.status.message = "there is no primary"
        return response

    def check_primary(self, role: str, election: p4r.Uint128) -> Controller:
        """The primary of the role; a write that does not come from it is refused."""
        asked = election_number(election)
        with self._lock:
            self.check_role(role)
            state = self._roles.get(role)
            if state is None or state.primary is None:
                raise RpcFailure(grpc.StatusCode.PERMISSION_DENIED, "there is no primary")
            if state.primary.election_id != asked:
                raise RpcFailure(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"election id {asked} is not the primary's ({state.primary.election_id})",
                )
            return state.primary

    def check_role(self, role: str) -> None:
        """Refuse a role that nobody has ever had; the empty one always exists."""
        with self._lock:
            if role and role not in self._roles:
                raise RpcFailure(grpc.StatusCode.NOT_FOUND, f"no controller has the role {role}")

    def is_primary(self, controller: Controller) -> bool:
        with self._lock:
            role = self._roles.get(controller.role)
            return role is not None and role.primary is controller

    def primaries(self) -> list[Controller]:
        with self._lock:
            return [r.primary for r in self._roles.values() if r.primary]
