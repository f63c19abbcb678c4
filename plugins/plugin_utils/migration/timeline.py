# SPDX-License-Identifier: Apache-2.0
"""A migration as lines of text: its phases one after the other, drawn to scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_NAME = 11
_NARROWEST = 10
_HELD = "█"
_FREE = "░"


@dataclass
class _Phase:
    name: str
    held: bool
    began: float
    ms: float | None = None
    """None while it lasts."""


class Timeline:
    """One migration, told by its events; see Move.phase() and the keeper for what they are."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._workload = self._destination = "?"
        self._phases: list[_Phase] = []
        self._held = False
        self._notes: list[str] = []
        self._outcome: dict[str, Any] | None = None

    def note(self, event: dict[str, Any]) -> None:
        """One event of the migration."""
        kind = event["event"]
        if kind == "order":
            self._workload, self._destination = event["workload"], event["destination"]
        elif kind == "begin":
            self._begin(event["name"])
        elif kind == "phase" and self._phases:
            self._phases[-1].ms = event["ms"]
            self._held = self._held and event["name"] != "release"
        elif kind == "rollback":
            self._begin("rollback")
        elif kind == "recover":
            self._notes.append(f"  an earlier migration ended in phase {event['phase']}")
        elif kind in ("result", "failure"):
            self._end()
            self._outcome = event

    def _begin(self, name: str) -> None:
        self._end()
        self._held = self._held or name == "hold"
        self._phases.append(_Phase(name, self._held, self._clock()))

    def _end(self) -> None:
        """A phase that failed has no event of its own at its end."""
        if self._phases and self._phases[-1].ms is None:
            self._phases[-1].ms = (self._clock() - self._phases[-1].began) * 1000

    def lines(self, width: int) -> list[str]:
        """As much of it as there is, in lines that are not wider."""
        return [self._head(), *self._notes, *self._bars(width), *self._summary()]

    def _head(self) -> str:
        outcome = self._outcome or {}
        if "failure" in outcome:
            return f"{self._workload} -> {self._destination}: {outcome['failure']['code']}"
        result = outcome.get("result", {})
        source = result.get("source", "")
        if source == self._destination:
            recovered = result.get("recovered")
            what = f"the earlier migration is {recovered}" if recovered else "nothing to do"
            return f"{self._workload} is on {self._destination}: {what}"
        head = f"{self._workload}: {source} -> {self._destination}".replace(":  ->", " ->")
        return head if "phases" in result or not result else f"{head}, planned and not done"

    def _summary(self) -> list[str]:
        result = (self._outcome or {}).get("result", {})
        if "phases" not in result:
            return []
        overflow = result["overflow_packets"]
        lost = f", {overflow} dropped" if overflow else ""
        return [
            f"  held for {result['hold_ms']:.1f} ms ({_HELD}; own code {result['own_ms']:.1f}), "
            f"{result['held_packets']} packets kept{lost}; "
            f"checkpoint {result['image_bytes'] / 1e6:.1f} MB",
            *_volumes(result),
            *_memory(result),
        ]

    def _bars(self, width: int) -> list[str]:
        """Each phase with its time and a bar, which begins where the one before ends."""
        now = self._clock()
        times = [(now - p.began) * 1000 if p.ms is None else p.ms for p in self._phases]
        room = max(width - len(_label("", 0.0)), _NARROWEST)
        scale = room / max(sum(times), 1.0)
        lines, passed = [], 0.0
        for phase, ms in zip(self._phases, times):
            start = min(int(passed * scale), room - 1)
            end = max(start + 1, min(round((passed + ms) * scale), room))
            bar = " " * start + (_HELD if phase.held else _FREE) * (end - start)
            lines.append(_label(phase.name, ms) + bar)
            passed += ms
        return lines


def _memory(result: dict[str, Any]) -> list[str]:
    """What followed the copy, if something did."""
    if "memory_bytes" not in result:
        return []
    total, longest = result["memory_bytes"] / 1e6, result["memory_longest_ms"]
    return [f"  memory {total:.1f} MB followed; the copy waited for it {longest:.1f} ms at most"]


def _volumes(result: dict[str, Any]) -> list[str]:
    if "volume_bytes" not in result:
        return []
    total, held = (result[name] / 1e6 for name in ("volume_bytes", "volume_bytes_held"))
    return [f"  volumes {total:.1f} MB, {held:.1f} MB of them while held"]


def _label(name: str, ms: float) -> str:
    return f"  {name:<{_NAME}}{ms:9.1f} ms  "
