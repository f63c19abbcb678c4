# SPDX-License-Identifier: Apache-2.0
"""The traffic of one endpoint while its workload moves: hold, redirect, release, guard.

The names of tables, fields and actions are those of p4/program/flowferry.p4: what names an IPv6
address has the suffix _ipv6. The session that sets a hold gets the held packets and keeps them in
order, within a budget, until it releases them.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .entries import Entry, Update
from .errors import P4Error, WriteError
from .session import Session

# Deliveries before a hold ends. The first takes what gathered in the hold; with each more, fewer
# packets are overtaken by those that are no longer held.
_ROUNDS = 2
# After so many packets the first delivery is the only one.
_MANY = 256
# Packets that the switch acknowledges together: few enough for one timeout of the session, and so
# that answers which come meanwhile need not wait for the rest.
_BATCH = 64
# What the switch took before a hold ended is here when nothing came for so long (seconds) ...
_QUIET = 0.02
# ... or after this time.
_SETTLED = 0.1
# Where nothing is kept: how long (seconds) packets pass so that connections get on, a round trip.
_OPEN = 0.02

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
        self._pass_on: Callable[[Held], None] | None = None

    def add(self, payload: bytes, metadata: dict[str, int]) -> None:
        """Called in the session's stream thread for each packet-in."""
        with self._lock:
            self._last_arrival = time.monotonic()
            held = Held(payload, metadata["ingress_port"], metadata["reason"], self._last_arrival)
            if self._pass_on is not None:
                # Whoever delivers waits for the stream, whose thread this is.
                threading.Thread(target=self._pass_on, args=(held,), daemon=True).start()
                return
            if self._bytes + len(payload) > self.budget:
                self.overflow += 1
                return
            self._bytes += len(payload)
            self.packets += 1
            self._held.append(held)

    def begin(self) -> None:
        """Keep what comes."""
        with self._lock:
            self._pass_on = None

    def end(self, pass_on: Callable[[Held], None]) -> list[Held]:
        """What is held; whatever still comes is passed on, each in a thread of its own."""
        with self._lock:
            self._pass_on = pass_on
            held, self._held, self._bytes = list(self._held), deque(), 0
            return held

    def take(self, wanted: Callable[[Held], bool] = lambda _: True) -> list[Held]:
        """What is held and ``wanted``; the rest stays, in its order."""
        with self._lock:
            taken = [item for item in self._held if wanted(item)]
            self._held = deque(item for item in self._held if not wanted(item))
            self._bytes = sum(len(item.payload) for item in self._held)
            return taken

    def last_arrival(self) -> float:
        """When the last packet came (seconds, monotonic); 0 if none did."""
        with self._lock:
            return self._last_arrival


class Address:
    """An IPv4 or IPv6 address, and the names of the tables that speak of it."""

    def __init__(self, text: str) -> None:
        parsed = ipaddress.ip_address(text)
        self.text = str(parsed)
        self.bits = parsed.max_prefixlen
        self._suffix = "" if parsed.version == 4 else "_ipv6"

    def name(self, name: str) -> str:
        """A table or action, as this address needs it."""
        return f"{name}{self._suffix}"


class EndpointTraffic:
    """What a switch does with the packets of one endpoint.

    An endpoint is one address, or several of either version: all of them are held, released and
    redirected together, through one buffer. Where it counts what the switch did last (`route`,
    `redirect`), the first address decides.

    Without ``buffers`` the switch drops what is held, as one without a CPU port has to.
    """

    def __init__(
        self,
        session: Session,
        addresses: str | Sequence[str],
        budget: int = 64 << 20,
        *,
        buffers: bool = True,
    ) -> None:
        self.session = session
        self._action = "buffer" if buffers else "drop"
        texts = [addresses] if isinstance(addresses, str) else addresses
        self.addresses = [Address(text) for text in texts]
        if not self.addresses:
            raise ValueError("an endpoint has at least one address")
        self.buffer = Buffer(budget)
        self.released_at = 0.0
        """When the last hold ended (seconds, monotonic)."""

    # -- hold

    def listen(self) -> None:
        """Have what is held come here. To begin with that takes a round trip, before the hold."""
        if self._action == "buffer":
            self.buffer.begin()
            self.session.on_packet(self.buffer.add)

    def hold_ingress(self) -> None:
        """Keep back what goes to the endpoint, from now on in this session."""
        self.listen()
        self._ensure([self._hold("hold_to", address) for address in self.addresses])

    def hold_egress(self) -> None:
        """Keep back what comes from the endpoint, whoever sends it."""
        self._ensure([self._hold("hold_from", address) for address in self.addresses])

    def _hold(self, table: str, address: Address) -> Entry:
        return Entry(address.name(table), {"address": address.text}, self._action)

    def _holds(self) -> list[Entry]:
        """Hold entries that there are, whoever set them."""
        return [
            entry
            for table in ("hold_from", "hold_to")
            for address in self.addresses
            for entry in self.session.read(address.name(table), {"address": address.text})
        ]

    def _end_hold(self) -> None:
        """Delete every hold entry, those that are not there too: asking first takes longer."""
        tables = ("hold_from", "hold_to")
        holds = [self._hold(table, address) for table in tables for address in self.addresses]
        try:
            self.session.write([Update("DELETE", entry) for entry in holds])
        except WriteError as error:
            if {code for _, code, _ in error.errors} != {"NOT_FOUND"}:
                raise

    def is_held(self) -> bool:
        """True when there is a hold entry, whoever set it."""
        return bool(self._holds())

    def let_through(self) -> None:
        """Deliver what is held, but for the beginnings of TCP connections; the hold goes on.

        By doing so again and again, those that there are go on, and no more begin. Where the switch
        drops what is held there is nothing to deliver: it lets packets pass for a moment, whatever
        they are.
        """
        if self._action == "drop":
            self._end_hold()
            time.sleep(_OPEN)
            self.hold_ingress()
            return
        held = self.buffer.take(
            lambda item: item.reason == REASON_TO and not begins_connection(item.payload)
        )
        self._deliver(held, {})

    def release(self, heard_until: dict[int, float]) -> None:
        """Deliver what is held, in order, and end the hold.

        Packets from the endpoint count only if they came by a port of ``heard_until``, and before
        the time that stands there (seconds, monotonic): a copy that was given up is not heard, nor
        is what the source's kernel sends after its processes were frozen. Such a retransmission
        carries a later TCP timestamp than the copy's clock, which goes on from the checkpoint, and
        the client would then refuse the copy's packets as old (PAWS, RFC 7323 section 5).
        Answers go out before requests come in, as they are older.
        """
        self.begin_release(heard_until)
        self.finish_release(heard_until)

    def begin_release(self, heard_until: dict[int, float]) -> None:
        """End the hold, with what has gathered by then delivered."""
        # Whoever gets an answer asks again: the buffer of a busy endpoint is never found empty.
        # And while many are delivered, as many come: then the sooner it ends the better.
        for _ in range(_ROUNDS):
            held = self.buffer.take()
            self._deliver(held, heard_until)
            if len(held) > _MANY:
                break
        self._end_hold()
        self.released_at = time.monotonic()

    def finish_release(self, heard_until: dict[int, float]) -> None:
        """Packets that the switch took before the entries went are still on their way to us.

        Perhaps the first for a long while is among them, as the copy may answer at that moment. On
        a busy machine one may come later than is waited for, and is delivered all the same.
        """
        deadline = self.released_at + _SETTLED
        while (now := time.monotonic()) < deadline:
            if now > max(self.released_at, self.buffer.last_arrival()) + _QUIET:
                break
            self._deliver(self.buffer.take(), heard_until)
            time.sleep(0.001)
        self._deliver(
            self.buffer.end(lambda late: self._deliver_late(late, heard_until)), heard_until
        )

    def _deliver_late(self, late: Held, heard_until: dict[int, float]) -> None:
        with suppress(P4Error):  # the session may be over, or the switch gone; nobody waits for it
            self._deliver([late], heard_until)

    def _deliver(self, held: list[Held], heard_until: dict[int, float]) -> None:
        """Where anybody is heard, with the answers that come while this is under way."""
        answers = _heard(held, heard_until)
        waiting = deque(answers + [item for item in held if item.reason == REASON_TO])
        while waiting:
            batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
            self.session.deliver([item.payload for item in batch], {"past_hold": 1})
            if waiting and heard_until:
                come = self.buffer.take(lambda item: item.reason == REASON_FROM)
                waiting.extendleft(reversed(_heard(come, heard_until)))

    # -- guard

    def guard(self, port: int) -> None:
        """Drop what arrives by ``port`` with one of the endpoint's addresses."""
        self._ensure(
            [
                Entry(address.name("guard"), _guard_match(address, port), "drop")
                for address in self.addresses
            ]
        )

    def unguard(self, port: int) -> None:
        """Listen to ``port`` again."""
        self._delete(
            [
                entry
                for address in self.addresses
                for entry in self.session.read(address.name("guard"), _guard_match(address, port))
            ]
        )

    # -- redirect to another port: the endpoint keeps its addresses

    def route(self) -> Entry | None:
        """The own route of the endpoint's first address, None when there is none."""
        return self._route(self.addresses[0])

    def _route(self, address: Address) -> Entry | None:
        found = self.session.read(address.name("route"), _route_match(address))
        return found[0] if found else None

    def packets(self) -> int:
        """Packets to the endpoint that the switch has counted at its own routes."""
        found = [
            entry.counter.packets if entry.counter else 0
            for address in self.addresses
            for entry in self.session.read(address.name("route"), _route_match(address), True)
        ]
        return sum(found)

    def port(self) -> int | None:
        """Where all own routes of the endpoint lead; None when one is missing or they differ."""
        routes = [self._route(address) for address in self.addresses]
        ports = {route.params.get("port") if route else None for route in routes}
        return ports.pop() if len(ports) == 1 else None

    def routes(self) -> list[Entry]:
        """The own route of each of the endpoint's addresses, in their order."""
        found = []
        for address in self.addresses:
            route = self._route(address)
            if route is None:
                raise P4Error(f"the switch has no route entry for {address.text}/{address.bits}")
            found.append(route)
        return found

    def redirect(
        self, port: int, destination_mac: str, routes: Sequence[Entry] | None = None
    ) -> None:
        """Send the endpoint's packets to another port, acknowledged and read back.

        The first address follows last, by one MODIFY of one entry: as long as its route leads where
        it led, nothing is redirected, and redirecting to there again undoes what was. ``routes`` is
        what routes() has said a moment ago, so that it need not be asked now.
        """
        changes = []
        for before in reversed(self.routes() if routes is None else routes):
            params = dict(before.params, port=port, destination_mac=destination_mac)
            changes.append((before, Entry(before.table, before.match, "forward", params)))
        self._modify(changes)
        if (now := self.port()) != port:
            raise P4Error(
                f"the routes of {', '.join(a.text for a in self.addresses)} were written to lead "
                f"to port {port} but read back as {now}"
            )

    # -- an address that the endpoint is to get

    def has_entries(self, address: str) -> bool:
        """Whether the switch knows an address already: a route of its own, a reply, a backend."""
        known = Address(address)
        return bool(self._route(known) or self._replies(known) or self.backends(address))

    def add_route(self, address: str, port: int, destination_mac: str) -> None:
        """Give an address a route of its own, from the same gateway as the endpoint's."""
        like, new = self.route(), Address(address)
        if like is None:
            raise P4Error(f"the switch has no route entry for {self.addresses[0].text}")
        match = {"destination": f"{new.text}/{new.bits}"}
        params = dict(like.params, port=port, destination_mac=destination_mac)
        self._ensure([Entry(new.name("route"), match, "forward", params)])

    def forget_route(self, address: str) -> None:
        """Delete the route that an address has of its own."""
        route = self._route(Address(address))
        self._delete([route] if route else [])

    # -- redirect to another address: clients know the endpoint by the address of a service

    def backends(self, address: str) -> list[Entry]:
        """Entries that translate to an address, in order of their backend ids."""
        wanted = Address(address)
        found = self.session.read(wanted.name("backend"))
        return sorted(
            (entry for entry in found if entry.params.get("address") == wanted.text),
            key=lambda entry: int(entry.match["backend_id"]),
        )

    def translate(self, before: str, after: str) -> None:
        """Send to ``after`` what services send to ``before``, acknowledged and read back.

        Answers of ``after`` get the virtual addresses that those of ``before`` have. One MODIFY of
        one entry for each port that is served; as with routes the first backend follows last.
        """
        old, new = Address(before), Address(after)
        replies = self._replies(old)
        self._ensure(
            [
                Entry(entry.table, {**entry.match, "address": new.text}, entry.action, entry.params)
                for entry in replies
            ]
        )
        changes = [
            (
                entry,
                Entry(entry.table, entry.match, entry.action, {**entry.params, "address": after}),
            )
            for entry in reversed(self.backends(before))
        ]
        if not changes and not self.backends(after):
            raise P4Error(f"the switch has no backend entry that translates to {before}")
        self._modify(changes)
        if left := self.backends(before):
            raise P4Error(f"{left[0].label} was written but still translates to {before}")

    def forget_replies(self, address: str) -> None:
        """Delete what gives answers of an address their virtual addresses."""
        self._delete(self._replies(Address(address)))

    def _replies(self, address: Address) -> list[Entry]:
        found = self.session.read(address.name("reply"))
        return [entry for entry in found if entry.match["address"] == address.text]

    # -- entries

    def _ensure(self, entries: list[Entry]) -> None:
        """Insert entries, or modify those that are there."""
        try:
            self.session.write([Update("INSERT", entry) for entry in entries])
        except WriteError as error:
            if {code for _, code, _ in error.errors} != {"ALREADY_EXISTS"}:
                raise
            present = [entries[index] for index, _, _ in error.errors]
            self.session.write([Update("MODIFY", entry) for entry in present])

    def _modify(self, changes: list[tuple[Entry, Entry]]) -> None:
        """Modify entries one after the other; a failure puts those before it back."""
        done: list[Entry] = []
        try:
            for before, after in changes:
                if before != after:
                    self.session.write([Update("MODIFY", after)])
                    done.append(before)
        except WriteError:
            if done:
                self.session.write([Update("MODIFY", before) for before in done])
            raise

    def _delete(self, entries: list[Entry]) -> None:
        if entries:
            self.session.write([Update("DELETE", entry) for entry in entries])


def _heard(held: list[Held], until: dict[int, float]) -> list[Held]:
    """Answers that count: of these ports, and before the time that stands there."""
    return [
        item
        for item in held
        if item.reason == REASON_FROM and item.arrived < until.get(item.port, 0.0)
    ]


def _route_match(address: Address) -> dict[str, object]:
    return {"destination": f"{address.text}/{address.bits}"}


def _guard_match(address: Address, port: int) -> dict[str, object]:
    return {"ingress_port": port, "source": address.text}


def begins_connection(frame: bytes) -> bool:
    """Whether an Ethernet frame has a TCP segment with SYN and without ACK."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and frame[23:24] == b"\x06":
        if int.from_bytes(frame[20:22], "big") & 0x1FFF:  # a later fragment
            return False
        tcp = 14 + 4 * (frame[14] & 0x0F)
    elif kind == b"\x86\xdd" and frame[20:21] == b"\x06":
        tcp = 54
    else:
        return False
    return bool(frame[tcp + 13 : tcp + 14]) and frame[tcp + 13] & 0x12 == 0x02
