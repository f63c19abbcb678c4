# SPDX-License-Identifier: Apache-2.0
"""Runs the statements of a test against a switch, and says what differed."""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from finsy.proto import p4r

from ..errors import SwitchError
from . import script
from .control import Control
from .script import BadScript, Expect, Line, Packet
from .targets import Target

ARRIVAL_LIMIT = 5.0
"""Seconds that an expected packet may take."""
_ETHERNET = 14
_VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")
T = TypeVar("T")


def ports(lines: Iterable[Line]) -> set[int]:
    """Every port that a test names."""
    found: set[int] = set()
    for line in lines:
        match line.statement:
            case Packet(port, _) | Expect(port, _, _) | script.MirrorToPort(_, port):
                found.add(port)
            case script.NodeCreate(_, several):
                found.update(several)
    return found


def needs_frames(lines: Iterable[Line]) -> bool:
    """Whether a packet could not pass an Ethernet device as it is: too short, or with a tag, which
    the kernel takes out of the packet's bytes."""
    for line in lines:
        match line.statement:
            case Packet(_, data):
                kind = data[12:14]
                short = len(data) < _ETHERNET
            case Expect(_, digits, whole) if digits is not None:
                kind = bytes.fromhex(digits[24:28].replace("*", "0")[: len(digits[24:28]) & ~1])
                short = whole and len(digits) < 2 * _ETHERNET
            case _:
                continue
        if short or kind in _VLAN_TYPES:
            return True
    return False


@dataclass
class Traffic:
    """What should leave a port, and what did."""

    expected: list[Line] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)


class Runner:
    """One test on one switch."""

    def __init__(self, target: Target, control: Control) -> None:
        self.target = target
        self.control = control
        self.problems: list[str] = []
        self.shown: list[str] = []
        self._traffic: defaultdict[int, Traffic] = defaultdict(Traffic)
        self._entries: dict[str, p4r.TableEntry] = {}
        self._added: list[p4r.TableEntry] = []
        self._groups: dict[int, list[tuple[int, int]]] = {}
        self._nodes: list[script.NodeCreate] = []
        self._mirrored_groups: dict[int, int] = {}
        self._late = False
        self._moving = False

    def run(self, lines: Iterable[Line]) -> None:
        for line in lines:
            try:
                self._do(line)
            except BadScript as error:
                raise BadScript(f"line {line.number}: {error}") from None
            except SwitchError as error:
                self.problems.append(f"line {line.number}: {line.text}: {error}")
        self._settle()
        self._compare()

    def _do(self, line: Line) -> None:
        statement = line.statement
        match statement:
            case Packet(port, data):
                self.target.send(port, data)
                self._moving = True
                return
            case Expect(port, _, _):
                self._traffic[port].expected.append(line)
                self._moving = True
                return
        self._settle()
        match statement:
            case script.Add():
                self._add(statement)
            case script.SetDefault():
                entry = self.control.names.default(statement)
                self.control.write("MODIFY", p4r.Entity(table_entry=entry))
            case script.Remove(label):
                self._remove(label)
            case script.Member():
                member = self.control.names.member(statement)
                self.control.write("INSERT", p4r.Entity(action_profile_member=member))
            case script.Group():
                group = self.control.names.group(statement)
                self.control.write("INSERT", p4r.Entity(action_profile_group=group))
            case script.ValueSet():
                values = self.control.names.value_set(statement)
                self.control.write("MODIFY", p4r.Entity(value_set_entry=values))
            case script.Wait(nothing_else):
                if nothing_else:
                    self._refuse_surplus(line)
            case script.CheckCounter() | script.CheckRegister():
                self._check(line, statement)
            case script.CounterWrite():
                self.control.write_counter(statement)
            case script.RegisterWrite():
                self.control.write_register(statement)
            case script.MeterSet():
                self.control.set_meter(statement)
            case script.Show():
                self._show(line, statement)
            case _:
                self._replicate(statement)

    # entries
    def _add(self, statement: script.Add) -> None:
        entry = self.control.names.entry(statement)
        self.control.write("INSERT", p4r.Entity(table_entry=entry))
        self._added.append(entry)
        if statement.label:
            self._entries[statement.label] = entry

    def _remove(self, label: str | None) -> None:
        chosen = self._added if label is None else [self._entry(label)]
        for entry in list(chosen):
            self.control.write("DELETE", p4r.Entity(table_entry=entry))
            self._added.remove(entry)

    def _entry(self, label: str) -> p4r.TableEntry:
        if label not in self._entries:
            raise BadScript(f"no entry was added as {label}")
        return self._entries[label]

    # packet replication
    def _replicate(self, statement: script.Statement) -> None:
        match statement:
            case script.MirrorToPort(session, port):
                self.control.session("INSERT", session, [(0, port)])
            case script.MirrorToGroup(session, group):
                self._mirrored_groups[session] = group
                replicas = self._known(self._groups, group, "multicast group")
                self.control.session("INSERT", session, replicas)
            case script.MirrorDelete(session):
                self._mirrored_groups.pop(session, None)
                self.control.session("DELETE", session, [])
            case script.GroupCreate(group):
                self._groups[group] = []
                self.control.group(group, [], new=True)
            case script.NodeCreate():
                self._nodes.append(statement)
            case script.NodeAssociate(group, number):
                self._associate(group, number)

    def _associate(self, group: int, number: int) -> None:
        replicas = self._known(self._groups, group, "multicast group")
        node = self._known(dict(enumerate(self._nodes)), number, "multicast node")
        replicas += [(node.instance, port) for port in node.ports]
        self.control.group(group, replicas, new=False)
        for session, mirrored in self._mirrored_groups.items():
            if mirrored == group:
                self.control.session("MODIFY", session, replicas)

    def _known(self, objects: dict[int, T], number: int, what: str) -> T:
        if number not in objects:
            raise BadScript(f"there is no {what} {number}")
        return objects[number]

    # counters and registers
    def _check(self, line: Line, check: script.CheckCounter | script.CheckRegister) -> None:
        if isinstance(check, script.CheckRegister):
            value = self.control.register(check.name, check.index)
        else:
            label = check.index if isinstance(check.index, str) else None
            value = self.control.counter(check, self._entry(label) if label else None)
        if not check.condition.holds(value):
            self.problems.append(f"line {line.number}: {line.text}: it is {value}")

    def _show(self, line: Line, statement: script.Show) -> None:
        if statement.kind == "register":
            text = str(self.control.register(statement.name, statement.index))
        elif statement.kind == "mirroring":
            text = f"group {self._mirrored_groups.get(statement.index, 'none')}"
        else:
            found = self.control.cell(statement.kind, statement.name, statement.index)
            text = " ".join(str(found).split())
        self.shown.append(f"line {line.number}: {line.text}: {text}")

    # packets
    def _settle(self) -> None:
        """Wait until what is expected has left, and then until nothing more leaves."""
        if not self._moving:
            return
        end = time.monotonic() + (self.target.quiet if self._late else ARRIVAL_LIMIT)
        while self._missing() and time.monotonic() < end:
            self._take(end - time.monotonic())
        self._late = self._late or self._missing()
        while self._take(self.target.quiet):
            pass
        self._moving = False

    def _take(self, seconds: float) -> bool:
        try:
            port, packet = self.target.left.get(timeout=max(seconds, 0))
        except queue.Empty:
            return False
        self._traffic[port].left.append(packet)
        return True

    def _missing(self) -> bool:
        return any(len(t.left) < len(t.expected) for t in self._traffic.values())

    def _refuse_surplus(self, line: Line) -> None:
        for port, traffic in sorted(self._traffic.items()):
            surplus = len(traffic.left) - len(traffic.expected)
            if surplus > 0:
                self.problems.append(f"line {line.number}: {surplus} packets too many left {port}")

    def _compare(self) -> None:
        for port, traffic in sorted(self._traffic.items()):
            for number, line in enumerate(traffic.expected):
                packet = traffic.left[number] if number < len(traffic.left) else None
                self._compare_packet(port, line, packet)
            for packet in traffic.left[len(traffic.expected) :]:
                self.problems.append(
                    f"port {port}: a packet that nobody expects\n  + {packet.hex()}"
                )

    def _compare_packet(self, port: int, line: Line, packet: bytes | None) -> None:
        expected = line.statement
        assert isinstance(expected, Expect)
        if packet is not None and expected.matches(packet):
            return
        digits = (expected.digits or "") + ("$" if expected.whole else "")
        where = f"line {line.number}, port {port}"
        if packet is None:
            self.problems.append(f"{where}: no packet left\n  - {digits}")
            return
        got = packet.hex()
        marks = "".join(
            " " if want in ("*", have) else "^"
            for want, have in zip(expected.digits or "", got.ljust(len(digits)), strict=False)
        )
        self.problems.append(f"{where}: the packet differs\n  - {digits}\n  + {got}\n    {marks}")
