# SPDX-License-Identifier: Apache-2.0
"""What CNI's commands do."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from flowferry_p4.agent import Attachment
from flowferry_p4.client import P4Error
from flowferry_p4.switch.errors import PortError, PortsAreFixed

from . import interfaces, ipam
from .protocol import (
    ATTACHED_ALREADY,
    BAD_NETWORK,
    NOT_AS_MADE,
    NOT_AVAILABLE,
    TRY_AGAIN,
    Call,
    CniError,
    result,
)
from .records import LAST_PORT, PREFIX, Record, Records, interface_name

log = logging.getLogger(__name__)


class Switch(Protocol):
    """The node's switch, as far as it concerns pods. Raises P4Error where it does not answer."""

    def ports(self) -> dict[str, int]:
        """Numbers of ports by their interfaces."""

    def add_port(self, number: int, interface: str) -> None: ...

    def remove_port(self, number: int) -> None: ...

    def attach(self, attachment: Attachment) -> None:
        """Packets find the pod when this returns."""

    def detach(self, attachment: Attachment) -> None:
        """No packets are sent to the port."""

    def missing(self, attachment: Attachment) -> list[str]:
        """Addresses of the pod that have no route."""


class Operations:
    """Commands of CNI on this node; several may run at once."""

    def __init__(self, records: Records, switch: Switch) -> None:
        self.records = records
        self._switch = switch
        self._lock = threading.Lock()

    def run(self, call: Call) -> dict[str, Any] | None:
        """The result of an ADD, None for the others. Raises CniError."""
        commands = {
            "ADD": self.add,
            "DEL": self.delete,
            "CHECK": self.check,
            "GC": self.collect_for,
            "STATUS": self.status,
        }
        try:
            return commands[call.command](call)
        except P4Error as error:
            raise CniError(TRY_AGAIN, str(error)) from error
        except PortsAreFixed as error:
            raise CniError(NOT_AVAILABLE, str(error)) from error

    # -- ADD

    def add(self, call: Call) -> dict[str, Any]:
        name = interface_name(call.container, call.interface)
        if self.records.get(name):
            text = f"{call.container} has {call.interface} already; DEL it before it is added again"
            raise CniError(ATTACHED_ALREADY, text)
        mtu = call.mtu
        with interfaces.namespace(call.namespace) as handle:
            if interfaces.look(handle, call.interface):
                text = f"there is an interface {call.interface} in {call.namespace} already"
                raise CniError(ATTACHED_ALREADY, text)
            addresses = ipam.give(call)
            try:
                record = self._claim(call, name, addresses)
                inside, mac = call.interface, record.mac
                host_mac = interfaces.make(handle, name, inside, mac, mtu, addresses)
                self._switch.add_port(record.port, name)
                self._switch.attach(record.attachment)
                interfaces.wait_until_up(handle, name, inside)
            except BaseException:
                self._undo(call, name)
                raise
        return result(call, name, host_mac, record.mac, addresses)

    def _claim(self, call: Call, name: str, addresses: list[str]) -> Record:
        """A port number of the pod's own. The record comes before what it is of."""
        with self._lock:
            port = self.records.free_port(self._switch.ports().values())
            if port is None:
                raise CniError(TRY_AGAIN, f"all ports up to {LAST_PORT} of the switch are taken")
            namespace, pod = (call.arguments.get(f"K8S_POD_{n}", "") for n in ("NAMESPACE", "NAME"))
            record = Record(
                str(call.network["name"]),
                call.container,
                call.interface,
                name,
                port,
                interfaces.mac_of(addresses),
                tuple(addresses),
                f"{namespace}/{pod}" if pod else "",
                call.arguments.get("K8S_POD_UID", ""),
            )
            self.records.put(record)
        return record

    def _undo(self, call: Call, name: str) -> None:
        """After a failed ADD nothing is left; what cannot be undone is collected later."""
        try:
            self._remove(name)
            ipam.take_back(call)
        except Exception as error:
            log.warning("%s: not everything of a failed ADD is undone: %s", name, error)

    # -- DEL

    def delete(self, call: Call) -> None:
        """As often as the runtime likes, and whatever is left of the attachment."""
        self._remove(interface_name(call.container, call.interface))
        ipam.take_back(call)

    def _remove(self, name: str) -> None:
        """The cable first: nothing that dies in the pod is heard any more."""
        record = self.records.get(name)
        interfaces.remove(name)
        try:
            if record:
                self._switch.detach(record.attachment)
            if (number := self._switch.ports().get(name)) is not None:
                self._switch.remove_port(number)
        except (P4Error, PortError) as error:
            # Without a record and a cable the port is nobody's, and the next pass removes it.
            log.warning("%s: the switch still has its port: %s", name, error)
        self.records.remove(name)

    # -- CHECK

    def check(self, call: Call) -> None:
        name = interface_name(call.container, call.interface)
        wrong = self._differences(call, name)
        if wrong:
            raise CniError(NOT_AS_MADE, f"{call.container} {call.interface}: {'; '.join(wrong)}")
        ipam.check(call)

    def _differences(self, call: Call, name: str) -> list[str]:
        before = call.network.get("prevResult")
        if not isinstance(before, dict):
            raise CniError(BAD_NETWORK, "CHECK needs prevResult, the result of the ADD")
        record = self.records.get(name)
        if record is None:
            return ["it was not added, or is deleted"]
        told = {str(one["address"]).partition("/")[0] for one in before.get("ips") or []}
        wrong = [f"{a} is not its address" for a in sorted(told - set(record.addresses))]
        with interfaces.namespace(call.namespace) as handle:
            inside = interfaces.look(handle, call.interface)
        if inside is None:
            wrong.append("the pod has no such interface")
        else:
            gone = sorted(set(record.addresses) - inside.addresses)
            wrong += [f"the pod does not have the address {address}" for address in gone]
            wrong += [] if inside.mac == record.mac else [f"its link address is {inside.mac}"]
            wrong += [] if inside.up else ["it is down"]
        if not interfaces.exists(name):
            wrong.append(f"the node has no interface {name}")
        if self._switch.ports().get(name) != record.port:
            wrong.append(f"{name} is not port {record.port} of the switch")
        missing = self._switch.missing(record.attachment)
        return wrong + [f"the switch has no route to {address}" for address in missing]

    # -- GC

    def collect_for(self, call: Call) -> None:
        """Remove what the runtime does not have in its list of valid attachments."""
        listed = call.network.get("cni.dev/valid-attachments", [])
        valid = {interface_name(one["containerID"], one["ifname"]) for one in listed}
        for record in self.records.all():
            if record.network == call.network["name"] and record.interface not in valid:
                log.info("%s of %s is collected", record.interface, record.container)
                self._remove(record.interface)
                ipam.take_back_of(call, record.container, record.inside)
        self.collect()

    def collect(self) -> None:
        """Remove cables and ports that nobody remembers; what is in the making has a record.

        A switch that was started without its ports gets back those that have their cables. One
        whose ports are fixed has nobody's.
        """
        with self._lock:
            records = {record.interface: record for record in self.records.all()}
            try:
                ports, cables = self._switch.ports(), interfaces.names()
            except PortsAreFixed:
                return
            for name, number in ports.items():
                if name.startswith(PREFIX) and name not in records:
                    with contextlib.suppress(PortError):  # a DEL has just removed it
                        self._switch.remove_port(number)
            for name in cables:
                if name not in records:
                    interfaces.remove(name)
                elif name not in ports:
                    with contextlib.suppress(PortError):  # a DEL has just removed the cable
                        self._switch.add_port(records[name].port, name)

    # -- STATUS

    def status(self, call: Call) -> None:
        ipam.find(call)
        try:
            self._switch.ports()
        except P4Error as error:
            raise CniError(NOT_AVAILABLE, f"the node's switch does not answer: {error}") from error


def answer(error: CniError, network: Mapping[str, Any]) -> dict[str, Any]:
    """An error in CNI's words."""
    version = network.get("cniVersion") or "1.1.0"
    return {"cniVersion": version, "code": error.code, "msg": f"flowferry: {error}"}
