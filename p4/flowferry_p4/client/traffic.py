# SPDX-License-Identifier: Apache-2.0
"""The traffic of one endpoint while its workload moves: hold, redirect, release, guard.

The names of tables, fields and actions are those of p4/program/flowferry.p4. The session that sets
a hold gets the held packets and keeps them in order, within a budget, until it releases them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from .entries import Entry, Update
from .errors import P4Error, WriteError
from .session import Session

REASON_TO, REASON_FROM = 1, 2
"""Why a packet was held: on its way to the endpoint, or from it (packet_in.reason)."""


@dataclass(frozen=True)
class Held:
    """A buffered packet, as it arrived."""

    payload: bytes
    port: int
    reason: int
    arrived: float
    """Seconds of the monotonic clock."""


class Buffer:
    """Held packets in order of arrival, within a budget of bytes; what does not fit is counted."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.packets = 0
        self.overflow = 0
        self._bytes = 0
        self._held: deque[Held] = deque()
        self._lock = threading.Lock()
        self._last_arrival = 0.0

    def add(self, payload: bytes, metadata: dict[str, int]) -> None:
        """Called in the session's stream thread for each packet-in."""
        with self._lock:
            self._last_arrival = time.monotonic()
            if self._bytes + len(payload) > self.budget:
                self.overflow += 1
                return
            self._bytes += len(payload)
            self.packets += 1
            self._held.append(
                Held(payload, metadata["ingress_port"], metadata["reason"], self._last_arrival)
            )

    def take(self) -> list[Held]:
        """Everything that is held; the buffer is empty afterwards."""
        with self._lock:
            taken = list(self._held)
            self._held.clear()
            self._bytes = 0
            return taken

    def quiet_for(self) -> float:
        """Seconds since the last packet came."""
        with self._lock:
            return time.monotonic() - self._last_arrival


class EndpointTraffic:
    """What a switch does with the packets of one endpoint (an IPv4 address)."""

    def __init__(self, session: Session, address: str, budget: int = 64 << 20) -> None:
        self.session = session
        self.address = address
        self.buffer = Buffer(budget)
        self.released_at = 0.0
        """When the last hold ended (seconds, monotonic)."""

    # -- hold

    def hold_ingress(self) -> None:
        """Buffer what goes to the endpoint, from now on in this session."""
        self.session.on_packet(self.buffer.add)
        self._ensure(Entry("hold_to", {"address": self.address}, "buffer"))

    def hold_egress(self) -> None:
        """Buffer what comes from the endpoint, whoever sends it."""
        self._ensure(Entry("hold_from", {"address": self.address}, "buffer"))

    def is_held(self) -> bool:
        """True when there is a hold entry, whoever set it."""
        match = {"address": self.address}
        return any(self.session.read(table, match) for table in ("hold_to", "hold_from"))

    def release(self, heard_until: dict[int, float]) -> None:
        """Deliver what is held, in order, and end the hold.

        Packets from the endpoint count only if they came by a port of ``heard_until``, and before
        the time that stands there (seconds, monotonic): a copy that was given up is not heard, nor
        is what the source's kernel sends after its processes were frozen. Such a retransmission
        carries a later TCP timestamp than the copy's clock, which goes on from the checkpoint, and
        the client would then refuse the copy's packets as old (PAWS, RFC 7323 section 5).
        Answers go out before requests come in, as they are older.
        """
        while held := self.buffer.take():
            self._deliver(held, heard_until)
        self._delete("hold_from", "hold_to")
        self.released_at = time.monotonic()
        # Packets that the switch took before the entries went are still on their way to us.
        deadline = time.monotonic() + 0.1
        while self.buffer.quiet_for() < 0.01 and time.monotonic() < deadline:
            self._deliver(self.buffer.take(), heard_until)
            time.sleep(0.001)
        self._deliver(self.buffer.take(), heard_until)

    def _deliver(self, held: list[Held], heard_until: dict[int, float]) -> None:
        answers = [
            item
            for item in held
            if item.reason == REASON_FROM and item.arrived < heard_until.get(item.port, 0.0)
        ]
        requests = [item for item in held if item.reason == REASON_TO]
        if answers or requests:
            packets = [(item.payload, {"past_hold": 1}) for item in answers + requests]
            self.session.send_packets(packets)
            self.session.flush()

    def _delete(self, *tables: str) -> None:
        match = {"address": self.address}
        present = [entry for table in tables for entry in self.session.read(table, match)]
        if present:
            self.session.write([Update("DELETE", entry) for entry in present])

    # -- guard

    def guard(self, port: int) -> None:
        """Drop what arrives by ``port`` with the endpoint's address."""
        self._ensure(Entry("guard", self._guard_match(port), "drop"))

    def unguard(self, port: int) -> None:
        """Listen to ``port`` again."""
        present = self.session.read("guard", self._guard_match(port))
        if present:
            self.session.write([Update("DELETE", entry) for entry in present])

    def _guard_match(self, port: int) -> dict[str, object]:
        return {"ingress_port": port, "source": self.address}

    # -- redirect

    def route(self) -> Entry | None:
        """The endpoint's own route, None when there is none."""
        found = self.session.read("route", {"destination": f"{self.address}/32"})
        return found[0] if found else None

    def redirect(self, port: int, destination_mac: str) -> None:
        """Send the endpoint's packets to another port: one MODIFY, acknowledged and read back."""
        before = self.route()
        if before is None:
            raise P4Error(f"the switch has no route entry for {self.address}/32")
        params = dict(before.params, port=port, destination_mac=destination_mac)
        after = Entry("route", before.match, "forward", params)
        self.session.write([Update("MODIFY", after)])
        now = self.route()
        if now is None or now.params["port"] != port:
            raise P4Error(f"the route of {self.address} was written but reads back as {now}")

    def _ensure(self, entry: Entry) -> None:
        try:
            self.session.write([Update("INSERT", entry)])
        except WriteError as error:
            if [code for _, code, _ in error.errors] != ["ALREADY_EXISTS"]:
                raise
            self.session.write([Update("MODIFY", entry)])
