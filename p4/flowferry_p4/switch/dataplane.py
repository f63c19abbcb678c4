# SPDX-License-Identifier: Apache-2.0
"""A P4 program in the kernel: its BPF object, ports, tables and counters."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from . import libbpf
from .bmv2_json import load
from .clang import compile_c
from .compiler import DROP_REASONS, CompiledProgram, compile_program
from .entries import CounterMap, TableStore


class Dataplane:
    """One loaded program. Not attached yet: that is the ports' business."""

    def __init__(self, compiled: CompiledProgram, image: bytes) -> None:
        self.compiled = compiled
        self._object = libbpf.Object(image, "flowferry")
        self.program_fd = self._object.program_fd
        program = compiled.program
        tables = {**program.ingress.tables, **program.egress.tables}
        self.tables = {
            name: TableStore(tables[name], layout, self._object, program)
            for name, layout in compiled.tables.items()
        }
        self.counters = {
            c.name: CounterMap(self._object.map(c.map)) for c in compiled.counters.values()
        }

    @classmethod
    def build(cls, device_config: bytes, cpu_port: int, framed: bool = False) -> Dataplane:
        """BMv2 JSON to a loaded program; SwitchError tells what is wrong with it."""
        compiled = compile_program(load(device_config), cpu_port, framed)
        return cls(compiled, compile_c(compiled.source))

    def set_ports(self, interfaces: Mapping[int, int]) -> None:
        """Tell the program its ports: number to interface index."""
        port_of_interface = self._object.map("port_of_interface")
        interface_of_port = self._object.map("interface_of_port")
        for port, ifindex in interfaces.items():
            port_of_interface.update(struct.pack("=I", ifindex), struct.pack("=I", port))
            interface_of_port.update(struct.pack("=I", port), struct.pack("=I", ifindex))

    def publish(self) -> None:
        """Let the program see every change of its tables."""
        for table in self.tables.values():
            table.publish()

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
        self._object.close()
