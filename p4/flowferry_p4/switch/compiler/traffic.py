# SPDX-License-Identifier: Apache-2.0
"""What a program asks of the traffic manager: copies, further passes, reports.

The generated C has only what the program uses, so that others do not pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import BadProgram
from ..model import Const, FieldList, FieldRef, Program, Valid
from .analysis import Analysis
from .externs import Externs
from .names import Names, ctype

PASSES = 64
"""How often a packet may go through the program before it is taken for a loop and dropped."""

SESSIONS = 1024
"""Multicast groups, and clone sessions."""

ASSERTIONS = {"assert", "assume"}
_NOW = "bpf_ktime_get_ns() / 1000"
_CARRIED = ("ingress_port", "instance_type")


@dataclass(frozen=True)
class Features:
    """What of it a program uses."""

    clones_ingress: bool
    clones_egress: bool
    resubmits: bool
    recirculates: bool
    multicasts: bool
    truncates: bool
    asserts: bool

    @classmethod
    def of(cls, analysis: Analysis) -> Features:
        called = analysis.primitives
        return cls(
            clones_ingress="clone_ingress_pkt_to_egress" in called,
            clones_egress="clone_egress_pkt_to_egress" in called,
            resubmits="resubmit" in called,
            recirculates="recirculate" in called,
            multicasts=analysis.multicasts,
            truncates="truncate" in called,
            asserts=bool(ASSERTIONS & called),
        )

    @property
    def clones(self) -> bool:
        return self.clones_ingress or self.clones_egress

    @property
    def copies(self) -> bool:
        return self.clones or self.multicasts

    @property
    def passes(self) -> bool:
        return self.resubmits or self.recirculates

    def requests(self, digests: bool) -> list[str]:
        """What the program's primitives leave in the packet for the traffic manager."""
        wanted = {
            "clone": self.clones,
            "clone_session": self.clones,
            "clone_fields": self.clones,
            "resubmit": self.resubmits,
            "recirculate": self.recirculates,
            "kept_fields": self.passes,
            "limit": self.truncates or self.copies,
            "digest": digests,
            "failed": self.asserts,
        }
        return [name for name, used in wanted.items() if used]


def traffic(
    program: Program, names: Names, analysis: Analysis, externs: Externs, metadata: dict[str, str]
) -> dict[str, Any]:
    """What the template traffic.c.j2 is filled with."""
    features = Features.of(analysis)
    carries = features.clones or features.passes
    if carries:
        for name in _CARRIED:
            if name not in metadata:
                raise BadProgram(f"standard_metadata lacks {name}, which copies of packets need")
    return {
        "requests": features.requests(bool(program.digests)),
        "carries": carries,
        "copies": features.copies,
        "passes": features.passes,
        "passes_limit": PASSES,
        "sessions": SESSIONS,
        "multicasts": features.multicasts,
        "clones_ingress": features.clones_ingress,
        "clones_egress": features.clones_egress,
        "metadata_structs": [names.headers[h.name] for h in _headers(program, metadata=True)],
        "header_structs": [names.headers[h.name] for h in _headers(program, metadata=False)],
        "field_lists": [_kept(fields, names) for fields in program.field_lists.values()],
        "digests": [
            {"number": d.id, "statements": externs.digest(d)} for d in program.digests.values()
        ],
        "events": bool(program.digests or externs.messages),
        "ingress_timestamp": _used("ingress_global_timestamp", metadata, analysis),
        "at_egress": _at_egress(metadata, analysis, carries),
    }


def _headers(program: Program, metadata: bool) -> list[Any]:
    return [h for h in program.headers.values() if h.metadata is metadata]


def _kept(fields: FieldList, names: Names) -> dict[str, Any]:
    """Type and place of each field that survives."""
    kept = []
    for value in fields.values:
        if isinstance(value, (Const, Valid)):
            raise BadProgram(f"the list of fields {fields.name} has something that is no field")
        kept.append((ctype(names.width(value)), names.field(value)[len("p->") :]))
    return {"id": fields.id, "fields": kept}


def _used(name: str, metadata: dict[str, str], analysis: Analysis) -> str | None:
    """The C of a field of the standard metadata, where the program uses it: a clock costs time."""
    return metadata[name] if FieldRef("standard_metadata", name) in analysis.used else None


def _at_egress(
    metadata: dict[str, str], analysis: Analysis, carries: bool
) -> list[tuple[str, str]]:
    """There are no queues: a packet is taken from one when it is put there, and none waits."""
    values = {"egress_global_timestamp": f"({_NOW}) & 0xffffffffffffULL", "enq_timestamp": _NOW}
    if carries:
        values["packet_length"] = "p->length"
    found = ((_used(name, metadata, analysis), value) for name, value in values.items())
    return [(name, value) for name, value in found if name]
