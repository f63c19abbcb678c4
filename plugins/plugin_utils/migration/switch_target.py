# SPDX-License-Identifier: Apache-2.0
"""What the plan makes of the switch's target: how packets are held, and what that costs."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from flowferry_p4.client.targets import Target, load_target
from flowferry_p4.client.traffic import EndpointTraffic

DROPPING = (
    "held packets are dropped, as the target {name} has no CPU port to keep them by: TCP sends "
    "them again after its timer, 200 ms at first and then twice as long each time, so clients may "
    "wait for twice the hold, and at least 200 ms; datagrams that come meanwhile are lost; and "
    "while the program accepts its connections, new ones keep coming"
)
CROWDED = (
    "{rate} packets a second go to the endpoint, and {limit} pass the CPU port of the target "
    "{name}: as long as as many come while they are held, the switch drops the rest, and TCP sends "
    "it again"
)


class HoldPlan:
    """One plan's look at the switch: what it can do, and how much goes through it now."""

    def __init__(self, name: str) -> None:
        self.target = load_target(name)
        if not self.target.modifies_entries:
            raise FlowferryError(
                "target_cannot_redirect",
                f"a switch of the target {self.target.name} ({self.target.description}) does not "
                "change an entry of a table, and a redirect is one change of one entry; use "
                "another switch, or correct p4_switch_target in the inventory",
            )
        self._traffic: EndpointTraffic | None = None
        self._packets, self._since = 0, 0.0

    @property
    def way(self) -> str:
        """The action of hold entries."""
        return "buffer" if self.target.cpu_port else "drop"

    def begin_to_count(self, traffic: EndpointTraffic) -> None:
        """The rate is what comes between now and rate(), while other things are planned."""
        if _is_limited(self.target):
            self._traffic = traffic
            self._packets, self._since = traffic.packets(), time.monotonic()

    def rate(self) -> int | None:
        """Packets a second to the endpoint; None where it does not matter."""
        if self._traffic is None:
            return None
        came = self._traffic.packets() - self._packets
        return round(came / (time.monotonic() - self._since))

    def as_dict(self) -> dict[str, Any]:
        """For the plan."""
        rate = self.rate()
        return {
            "target": asdict(self.target),
            "hold": self.way,
            **({} if rate is None else {"packets_per_second": rate}),
            "costs": costs(self.target, rate),
        }


def _is_limited(target: Target) -> bool:
    return bool(target.cpu_port and target.packets_per_second and target.direct_counters)


def costs(target: Target, rate: int | None) -> list[str]:
    """What clients will notice beyond the hold itself, in words."""
    if not target.cpu_port:
        return [DROPPING.format(name=target.name)]
    limit = target.packets_per_second
    if limit is not None and rate is not None and rate > limit:
        return [CROWDED.format(name=target.name, rate=rate, limit=limit)]
    return []
