# SPDX-License-Identifier: Apache-2.0
"""A P4 program in the kernel: its BPF object, ports, tables and counters."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from . import libbpf
from .backing import Backing
from .bmv2_json import load
from .cells import CounterMap, MeterMap, RegisterMap
from .clang import compile_c
from .compiler import DROP_REASONS, CompiledProgram, compile_program
from .entries import TableStore
from .notebook import Notebook
from .profiles import ProfileStore
from .replication import ReplicationMap
from .value_sets import ValueSetStore

_NO_INTERFACE = struct.pack("=I", 0)


class Dataplane:
    """One loaded program. Not attached yet: that is the ports' business."""

    def __init__(self, compiled: CompiledProgram, backing: Backing) -> None:
        self.compiled = compiled
        self.backing = backing
        self._object = backing.maps
        self.program_fd = self._object.program_fd
        program = compiled.program
        tables = {**program.ingress.tables, **program.egress.tables}
        self.tables = {
            name: TableStore(tables[name], layout, backing, program)
            for name, layout in compiled.tables.items()
        }
        self.counters = {
            c.name: CounterMap(self._object.map(c.map)) for c in compiled.counters.values()
        }
        self.meters = {m.name: MeterMap(self._object.map(m.map)) for m in compiled.meters.values()}
        self.registers = {
            r.name: RegisterMap(self._object.map(r.map), r.width)
            for r in compiled.registers.values()
        }
        self.profiles = {
            p.name: ProfileStore(p, backing, program.actions) for p in compiled.profiles.values()
        }
        self.value_sets = {
            name: ValueSetStore(layout, backing) for name, layout in compiled.value_sets.items()
        }
        self.reports_events = bool(compiled.digests or compiled.messages)
        self.multicast_groups = ReplicationMap(self._object.map("multicast_groups"))
        self.clone_sessions = ReplicationMap(self._object.map("clone_sessions"))

    @classmethod
    def build(cls, device_config: bytes, cpu_port: int, framed: bool = False) -> Dataplane:
        """BMv2 JSON to a loaded program; SwitchError tells what is wrong with it."""
        compiled = compile_program(load(device_config), cpu_port, framed)
        return cls.load(compiled, compile_c(compiled.source))

    @classmethod
    def load(cls, compiled: CompiledProgram, image: bytes) -> Dataplane:
        """A program whose code is compiled as well."""
        maps = libbpf.Object(image, "flowferry")
        try:
            return cls(compiled, Backing(maps, Notebook()))
        except BaseException:
            maps.close()
            raise

    @classmethod
    def resume(cls, compiled: CompiledProgram, directory: Path, notes: Notebook) -> Dataplane:
        """The program that a process before this one left in a directory of a bpffs."""
        maps = libbpf.PinnedObject(directory)
        try:
            return cls(compiled, Backing(maps, notes, resumed=True))
        except BaseException:
            maps.close()
            raise

    def set_ports(self, interfaces: Mapping[int, int]) -> None:
        """Tell the program its ports: number to interface index."""
        port_of_interface = self._object.map("port_of_interface")
        interface_of_port = self._object.map("interface_of_port")
        for port, ifindex in interfaces.items():
            number, interface = struct.pack("=I", port), struct.pack("=I", ifindex)
            _put(port_of_interface, interface, number)
            _put(interface_of_port, number, interface)

    def forget_port(self, port: int, ifindex: int) -> None:
        """A port is gone, or has another interface from now on."""
        with contextlib.suppress(OSError):  # it may never have been told
            self._object.map("port_of_interface").delete(struct.pack("=I", ifindex))
        _put(self._object.map("interface_of_port"), struct.pack("=I", port), _NO_INTERFACE)

    def forget_other_ports(self, interfaces: Mapping[int, int]) -> None:
        """Forget ports that a process before this one had and that are no more."""
        arrivals = self._object.map("port_of_interface")
        for key, _ in list(arrivals.items(4, 4)):
            if struct.unpack("=I", key)[0] not in interfaces.values():
                arrivals.delete(key)
        departures = self._object.map("interface_of_port")
        for key, _ in list(departures.items(4, 4)):
            if struct.unpack("=I", key)[0] not in interfaces:
                _put(departures, key, _NO_INTERFACE)

    def publish(self) -> None:
        """Let the program see every change of its tables."""
        for table in self.tables.values():
            table.publish()

    def events(self, receive: Callable[[bytes], None]) -> libbpf.RingBuffer:
        """What the program reports besides packets."""
        return libbpf.RingBuffer(self._object.map("events"), receive)

    def dropped(self) -> dict[str, int]:
        """Packets the target itself dropped, by reason."""
        counts = self._object.map("dropped_by_target")
        cpus = libbpf.possible_cpus()
        result = {}
        for index, reason in enumerate(DROP_REASONS):
            raw = counts.lookup(struct.pack("=I", index), 8 * cpus)
            result[reason] = sum(struct.unpack(f"={cpus}Q", raw))
        return result

    def close(self) -> None:
        self.backing.notes.close()
        self._object.close()


def _put(numbers: libbpf.Map, key: bytes, value: bytes) -> None:
    """Set what is not set already: packets may be looking."""
    try:
        if numbers.lookup(key, len(value)) == value:
            return
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    numbers.update(key, value)
