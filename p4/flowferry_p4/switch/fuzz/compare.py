# SPDX-License-Identifier: Apache-2.0
"""One program, round after round, through the kernel and through the interpreter."""

from __future__ import annotations

import json
import queue
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from finsy.proto import p4r

from ..interpreter import Machine
from ..pipeline import Pipeline
from ..stf.targets import EmbeddedSwitch
from .generate import Entries, Packets, Values

PORTS = tuple(range(8))
_PACKETS = 40
"""Packets of a round."""
_ARRIVAL = 2.0
"""Seconds that what should leave may take."""
_QUIET = 0.02
"""Seconds after which nothing else leaves."""
_GROUPS = 4
_CLOCK = ["standard_metadata", "ingress_global_timestamp"]
_MOMENT = "0x0123456789ab"
"""Microseconds since the switch began, 48 bits."""


@dataclass
class Round:
    """What both sides are given."""

    seed: int
    entries: list[p4r.TableEntry] = field(default_factory=list)
    replication: list[p4r.Entity] = field(default_factory=list)
    packets: list[tuple[int, bytes]] = field(default_factory=list)


class Comparison:
    """A program that runs on a switch of this process."""

    def __init__(self, config: p4r.ForwardingPipelineConfig, target: EmbeddedSwitch) -> None:
        self.document = with_stopped_clock(json.loads(config.p4_device_config))
        self.config = p4r.ForwardingPipelineConfig()
        self.config.CopyFrom(config)
        self.config.p4_device_config = json.dumps(self.document).encode()
        self.target = target
        Machine(self.document, config.p4info, PORTS)  # whether it can be interpreted
        target.switch.commit(target.switch.verify(self.config))

    @property
    def pipeline(self) -> Pipeline:
        pipeline = self.target.switch.pipeline
        assert pipeline is not None, "__init__ has committed one"
        return pipeline

    def round(self, seed: int) -> list[str]:
        """One round; what differed."""
        made = self._make(seed)
        machine = Machine(self.document, self.config.p4info, PORTS)
        fresh = self.pipeline.state()
        try:
            self._program(made, machine)
            problems = self._send(made, machine)
            return problems or self._compare_state(machine)
        finally:
            self._clear(made, fresh)

    def _make(self, seed: int) -> Round:
        values = Values(random.Random(seed), PORTS)
        made = Round(seed, list(Entries(self.config.p4info, values).make()))
        for number in range(1, _GROUPS):
            made.replication += _replication(values, number)
        packets = Packets(self.document, values)
        for _ in range(_PACKETS):
            made.packets.append((values.random.choice(PORTS), packets.make()))
        return made

    def _program(self, made: Round, machine: Machine) -> None:
        """Give both the entries that the switch takes: some are there twice."""
        entities = [p4r.Entity(table_entry=e) for e in made.entries]
        updates = [
            p4r.Update(type="MODIFY" if e.table_entry.is_default_action else "INSERT", entity=e)
            for e in entities
        ]
        results = self.pipeline.write(updates)
        made.entries = [e for e, failed in zip(made.entries, results, strict=True) if not failed]
        for entry in made.entries:
            machine.insert(entry)
        inserts = [p4r.Update(type="INSERT", entity=e) for e in made.replication]
        assert not any(self.pipeline.write(inserts)), "groups and sessions are well formed"
        for entity in made.replication:
            group = entity.packet_replication_engine_entry.multicast_group_entry
            session = entity.packet_replication_engine_entry.clone_session_entry
            pairs = [(r.egress_port, r.instance) for r in (*group.replicas, *session.replicas)]
            if group.multicast_group_id:
                machine.groups[group.multicast_group_id] = pairs
            else:
                machine.sessions[session.session_id] = pairs

    def _send(self, made: Round, machine: Machine) -> list[str]:
        for number, (port, packet) in enumerate(made.packets):
            expected = machine.process(port, packet)
            self.target.send(port, packet)
            got = self._left(len(expected))
            if _by_port(expected) != _by_port(got):
                return [
                    f"packet {number} to port {port}: {packet.hex()}",
                    f"  interpreted: {_text(expected)}",
                    f"  compiled:    {_text(got)}",
                    f"  dropped:     {self.pipeline.dataplane.dropped()}",
                ]
        time.sleep(_QUIET)
        late = self._left(0)
        return [f"packets that left late, or too many: {_text(late)}"] if late else []

    def _left(self, count: int) -> list[tuple[int, bytes]]:
        """What leaves: so many packets, or what there is in time, and what is there besides."""
        found: list[tuple[int, bytes]] = []
        end = time.monotonic() + _ARRIVAL
        while True:
            missing = count - len(found)
            try:
                wait = max(0.0, end - time.monotonic()) if missing > 0 else 0.0
                found.append(self.target.left.get(missing > 0, wait))
            except queue.Empty:
                return found

    def _compare_state(self, machine: Machine) -> list[str]:
        """Counters and registers, when all packets are through."""
        problems = []
        dataplane = self.pipeline.dataplane
        for name, cells in dataplane.registers.items():
            for index, value in enumerate(machine.storage.registers[name]):
                there = cells.read(index)
                if there != value:
                    problems.append(f"register {name}({index}): {value} against {there}")
        for name, counters in dataplane.counters.items():
            for index in range(dataplane.compiled.counters[name].size):
                packets, size = machine.storage.counters[name][index]
                counts = counters.read(index)
                if (counts.packets, counts.bytes) != (packets, size):
                    problems.append(f"counter {name}({index}): {packets} packets against {counts}")
        return problems

    def _clear(self, made: Round, fresh: Iterable[p4r.Update]) -> None:
        """Back to a program that nobody has written to."""
        deletes = [
            p4r.Update(type="DELETE", entity=p4r.Entity(table_entry=e))
            for e in made.entries
            if not e.is_default_action
        ]
        deletes += [p4r.Update(type="DELETE", entity=e) for e in made.replication]
        defaults = [
            p4r.Entity(table_entry=p4r.TableEntry(table_id=e.table_id, is_default_action=True))
            for e in made.entries
            if e.is_default_action
        ]
        self.pipeline.write([*deletes, *(p4r.Update(type="MODIFY", entity=d) for d in defaults)])
        zero = [
            p4r.Entity(counter_entry=p4r.CounterEntry(counter_id=number))
            for number in self.pipeline.schema.counters
        ]
        for entity in zero:
            entity.counter_entry.data.SetInParent()
        for number in self.pipeline.schema.registers:
            entity = p4r.Entity(register_entry=p4r.RegisterEntry(register_id=number))
            entity.register_entry.data.bitstring = b"\0"
            zero.append(entity)
        self.pipeline.write([p4r.Update(type="MODIFY", entity=e) for e in zero])


def with_stopped_clock(node: Any) -> Any:
    """The program with one moment in the place of the time of arrival, which nobody can predict."""
    if isinstance(node, dict):
        if node.get("type") == "field" and node.get("value") == _CLOCK:
            return {"type": "hexstr", "value": _MOMENT}
        return {name: with_stopped_clock(inner) for name, inner in node.items()}
    return [with_stopped_clock(inner) for inner in node] if isinstance(node, list) else node


def _replication(values: Values, number: int) -> Iterable[p4r.Entity]:
    """A group and a session of the same number."""
    group, session = p4r.Entity(), p4r.Entity()
    to_group = group.packet_replication_engine_entry.multicast_group_entry
    to_session = session.packet_replication_engine_entry.clone_session_entry
    to_group.multicast_group_id = to_session.session_id = number
    for entry in (to_group, to_session):
        for instance in range(values.random.randrange(4)):
            entry.replicas.add(egress_port=values.random.choice(PORTS), instance=instance)
    return group, session


def _by_port(packets: Iterable[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    """What left each port: the order between ports is nobody's business."""
    result: defaultdict[int, list[bytes]] = defaultdict(list)
    for port, packet in packets:
        result[port].append(packet)
    return dict(result)


def _text(packets: Iterable[tuple[int, bytes]]) -> str:
    return ", ".join(f"{port}: {packet.hex() or 'empty'}" for port, packet in packets) or "nothing"
