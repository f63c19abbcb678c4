# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the embedded switch, told to people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A place in the P4 program, as p4c recorded it."""

    file: str
    line: int
    fragment: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SwitchError(Exception):
    """Base of every error the switch reports; its text is complete for a person."""


class BadProgram(SwitchError):
    """The BMv2 JSON is not what it claims to be (broken, or of an unknown version)."""


class Refused(SwitchError):
    """The program uses something this target does not run."""

    def __init__(self, construct: str, source: Source | None = None, hint: str = "") -> None:
        self.construct = construct
        self.source = source
        where = f"{source}: " if source else ""
        fragment = f" in '{source.fragment}'" if source and source.fragment else ""
        more = f"; {hint}" if hint else ""
        super().__init__(f"{where}the embedded switch does not support {construct}{fragment}{more}")


class ToolMissing(SwitchError):
    """A program or library the switch needs is not on this host."""


class CompileFailed(SwitchError):
    """clang or the kernel's verifier rejected the generated program."""


class PortError(SwitchError):
    """A port's interface cannot be used."""


class PortsAreFixed(PortError):
    """The switch neither tells nor changes its ports at run time."""


class PinError(SwitchError):
    """What a process before this one left cannot be taken over, or nothing can be left."""
