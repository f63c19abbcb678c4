# SPDX-License-Identifier: Apache-2.0
"""A whole program: from the model to one C file and the layout of its maps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import jinja2

from ..errors import BadProgram, Refused
from ..model import ActionProfile, Calculation, Counter, FieldRef, Header, Meter, Pipeline, Program
from .actions import compile_action
from .analysis import Analysis, analyse
from .checksums import CRC_POLYNOMIALS, ChecksumCompiler, crc_table
from .expressions import Scope, compile_expression
from .layouts import (
    GROUP,
    GROUP_SLOTS,
    REPLICAS,
    CounterLayout,
    DigestLayout,
    Message,
    MeterLayout,
    ProfileLayout,
    RegisterLayout,
    lay_out_counters,
    lay_out_digest,
    lay_out_meter,
    lay_out_profile,
    lay_out_register,
)
from .names import Names, ctype, identifier, write_bytes
from .parser import ParserCompiler
from .primitives import DROP_PORT, Primitives, used_calculations
from .slots import slot_count
from .tables import Kind, TableLayout, compile_table, lay_out
from .traffic import traffic
from .unroll import unroll

FRAME = 14
"""Bytes of the Ethernet header that frames packets on the CPU port's veth."""


DROP_REASONS = {
    "no_port": "the program chose a port that does not exist",
    "room": "headers could not be added or removed, or a packet not be cut",
    "vlan": "the frame has a VLAN tag",
    "frame": "the frame on the CPU port is not from the switch",
    "copy": "a copy of a copy, or a second copy that should go through again",
    "passes": "the packet was resubmitted or recirculated too often",
    "assertion": "an assertion of the program failed",
}
"""Why the target itself, not the program, drops a packet; their order is that of the counts."""


@dataclass(frozen=True)
class CompiledProgram:
    """What the data plane needs to load a program and to encode its entries."""

    program: Program
    source: str
    tables: dict[str, TableLayout]
    counters: dict[str, CounterLayout] = field(default_factory=dict)
    meters: dict[str, MeterLayout] = field(default_factory=dict)
    registers: dict[str, RegisterLayout] = field(default_factory=dict)
    profiles: dict[str, ProfileLayout] = field(default_factory=dict)
    value_sets: dict[str, TableLayout] = field(default_factory=dict)
    digests: dict[int, DigestLayout] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)

    @property
    def code(self) -> str:
        """Tells programs apart that do not share their maps."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def compile_program(program: Program, cpu_port: int, framed: bool = False) -> CompiledProgram:
    """Generate the C of a program; raise Refused where it uses what this target has not.

    With `framed` every port carries its packets as the CPU port does: behind a frame, so that
    packets shorter than an Ethernet header can pass.
    """
    unrolled = unroll(program)
    code = _Code(unrolled)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowferry_p4.switch", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = environment.get_template("program.c.j2").render(
        cpu_port=cpu_port, framed=framed, **code.context()
    )
    return CompiledProgram(
        program=program,
        source=source,
        tables=code.tables,
        counters=code.counters,
        meters=code.meters,
        registers=code.registers,
        profiles=code.profiles,
        value_sets=code.parser.value_sets,
        digests={d.id: lay_out_digest(d, program) for d in program.digests.values()},
        messages=code.primitives.externs.messages,
    )


class _Code:
    """The parts of one program, compiled, as the templates want them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = Names(program)
        self.analysis = analyse(program)
        self.primitives = Primitives(program, self.names)
        self.checksums = ChecksumCompiler(program, self.names, self.analysis)
        self.parser = ParserCompiler(program, self.names, self.analysis, self.primitives)
        self.tables = _layouts(program)
        self.counters = lay_out_counters(program)
        self.meters = {m.name: self._meter(m) for m in program.meters.values()}
        self.registers = {r.name: lay_out_register(r) for r in program.registers.values()}
        self.profiles = {p.name: lay_out_profile(p, program) for p in _profiles(program)}

    def _meter(self, meter: Meter) -> MeterLayout:
        slots = self.tables[meter.direct_table].size if meter.direct_table else 0
        return lay_out_meter(meter, slots)

    def context(self) -> dict[str, Any]:
        """Everything the templates name, but for the options of the target."""
        program, names = self.program, self.names
        metadata = _standard_metadata(program, names)
        actions = [compile_action(a, names, self.primitives) for a in program.actions.values()]
        states = self.parser.states()
        verified = self.checksums.verified()
        return {
            **self._storage(),
            **self._hashes(),
            **traffic(program, names, self.analysis, self.primitives.externs, metadata),
            "program": program,
            "states": states,
            "actions": actions,
            "pipelines": [
                _pipeline(p, program, self.tables, names) for p in (program.ingress, program.egress)
            ],
            "verified": verified,
            "payloads_verified": any(v.partial is not None for v in verified),
            "updated": self.checksums.updated(),
            "adjusted": self.checksums.adjusted(),
            "emitted": [_emit(program.header(h), names, self.analysis) for h in program.deparser],
            "reordered": self.analysis.reordered,
            "metadata": metadata,
            "no_error": self.parser.errors["NoError"],
            "label": identifier,
        }

    def _storage(self) -> dict[str, Any]:
        program, names = self.program, self.names
        tables = [*program.ingress.tables.values(), *program.egress.tables.values()]
        used = {a for t in tables for a in t.actions.values()}
        widths = [slot_count(program.actions[a].parameters) for a in used]
        tracked = self.analysis.tracked
        return {
            "frame": FRAME,
            "drop_port": DROP_PORT,
            "drop_reasons": list(DROP_REASONS),
            "ports": DROP_PORT,
            "replicas": REPLICAS,
            "group_slots": GROUP_SLOTS,
            "group_kind": GROUP,
            "structs": [_struct(h, names) for h in program.headers.values()],
            "tracked": [(names.original(r)[3:], ctype(program.width(r))) for r in tracked],
            "arrived": [names.arrived(h)[3:] for h in self.analysis.checked],
            "buffer_size": max([8, *(h.bytes for h in program.headers.values() if not h.metadata)]),
            "tables": [*self.tables.values(), *self.parser.value_sets.values()],
            "Kind": Kind,
            "counters": list(self.counters.values()),
            "meters": list(self.meters.values()),
            "registers": list(self.registers.values()),
            "profiles": list(self.profiles.values()),
            "default_slots": max([1, *widths]),
        }

    def _hashes(self) -> dict[str, Any]:
        wanted = [self.program.calculations[n] for n in used_calculations(self.program)]
        wanted += [_selection(p) for p in _profiles(self.program) if p.selector]
        hashes = [self.checksums.hash(calculation) for calculation in wanted]
        return {
            "hashes": hashes,
            "selector_hash": lambda profile: identifier(_selection_name(profile)),
            "crc_tables": [
                (name, crc_table(polynomial))
                for name, polynomial in CRC_POLYNOMIALS.items()
                if any(h.algorithm == name for h in hashes)
            ],
        }


def _profiles(program: Program) -> list[ActionProfile]:
    return [*program.ingress.profiles.values(), *program.egress.profiles.values()]


def _selection_name(profile: str) -> str:
    return f"selection of {profile}"


def _selection(profile: ActionProfile) -> Calculation:
    """The hash by which a selector picks a member."""
    fields = tuple(f for f in profile.inputs if isinstance(f, FieldRef))
    if len(fields) != len(profile.inputs):
        raise Refused(
            f"the validity of a header as input of selector {profile.name}", profile.source
        )
    return Calculation(
        _selection_name(profile.name), profile.algorithm or "", fields, False, profile.source
    )


def _layouts(program: Program) -> dict[str, TableLayout]:
    tables = [*program.ingress.tables.values(), *program.egress.tables.values()]
    return {t.name: lay_out(t, number, program) for number, t in enumerate(tables)}


def _struct(header: Header, names: Names) -> dict[str, Any]:
    return {
        "name": names.headers[header.name],
        "metadata": header.metadata,
        "fields": [(ctype(f.width), names.fields[header.name][f.name]) for f in header.fields],
    }


def _pipeline(
    pipeline: Pipeline, program: Program, layouts: dict[str, TableLayout], names: Names
) -> dict[str, Any]:
    conditionals = [
        {
            "name": c.name,
            "where": str(c.source) if c.source else "generated by p4c",
            "condition": compile_expression(c.condition, Scope(names, c.source)),
            "true_next": c.true_next,
            "false_next": c.false_next,
        }
        for c in pipeline.conditionals.values()
    ]
    tables = [compile_table(t, layouts[t.name], names, program) for t in pipeline.tables.values()]
    return {
        "name": pipeline.name,
        "first": pipeline.first,
        "tables": tables,
        "conditionals": conditionals,
    }


def _emit(header: Header, names: Names, analysis: Analysis) -> dict[str, Any]:
    values = [(names.field(FieldRef(header.name, f.name)), f.width) for f in header.fields]
    return {
        "name": names.headers[header.name],
        "valid": names.valid(header.name),
        "size": header.bytes,
        "changed": names.changed(header.name)
        if any(ref.header == header.name for ref in analysis.modified)
        else None,
        "statements": write_bytes("buffer", values),
    }


def _standard_metadata(program: Program, names: Names) -> dict[str, str]:
    """C names of the fields the target itself reads and writes, where the program has them."""
    header = program.headers.get("standard_metadata")
    if header is None:
        raise BadProgram("the program has no standard_metadata; compile it for v1model")
    present = {f.name: names.field(FieldRef(header.name, f.name)) for f in header.fields}
    for needed in ("ingress_port", "egress_spec", "egress_port"):
        if needed not in present:
            raise BadProgram(f"standard_metadata lacks {needed}; compile the program for v1model")
    return present


def direct_counters(program: Program) -> dict[str, Counter]:
    """Direct counters by the table they belong to."""
    return {c.direct_table: c for c in program.counters.values() if c.direct_table}
