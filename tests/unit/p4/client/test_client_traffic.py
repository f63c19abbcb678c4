# SPDX-License-Identifier: Apache-2.0
"""The release of held packets: in order, in bounds, and it ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
from flowferry_p4.client import Entry, Session, Update
from flowferry_p4.client.traffic import (
    REASON_FROM,
    REASON_TO,
    EndpointTraffic,
    begins_connection,
)
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

SOURCE, DESTINATION = 1, 2


class BusySwitch:
    """Keeps hold entries, and holds a new request for each that is delivered, as clients do."""

    def __init__(self, busy: bool) -> None:
        self.busy = busy
        self.entries: list[Entry] = []
        self.sent: list[bytes] = []
        self.batches: list[int] = []
        self.callback: Any = None

    def on_packet(self, callback: Any) -> None:
        self.callback = callback

    def read(self, table: str, match: object) -> list[Entry]:
        return [entry for entry in self.entries if entry.table == table]

    def write(self, updates: Sequence[Update]) -> None:
        for update in updates:
            if update.kind == "DELETE":
                self.entries.remove(update.entry)
            else:
                self.entries.append(update.entry)

    def deliver(self, payloads: Sequence[bytes], metadata: Any) -> None:
        assert metadata == {"past_hold": 1}
        self.batches.append(len(payloads))
        for payload in payloads:
            self.sent.append(payload)
            if self.busy and self.entries:
                self.arrive(b"next " + payload, REASON_TO, 3)

    def arrive(self, payload: bytes, reason: int, port: int) -> None:
        self.callback(payload, {"reason": reason, "ingress_port": port})


def held_endpoint(busy: bool) -> tuple[BusySwitch, EndpointTraffic]:
    switch = BusySwitch(busy)
    traffic = EndpointTraffic(cast(Session, switch), "198.19.0.100")
    traffic.hold_ingress()
    traffic.hold_egress()
    return switch, traffic


@pytest.mark.timeout(30)
def test_the_hold_of_a_busy_endpoint_ends() -> None:
    switch, traffic = held_endpoint(busy=True)
    switch.arrive(b"request", REASON_TO, 3)
    traffic.release({DESTINATION: math.inf})
    assert switch.entries == []
    assert switch.sent == [b"request", b"next request", b"next next request"]


def test_answers_go_out_before_requests_come_in() -> None:
    switch, traffic = held_endpoint(busy=False)
    switch.arrive(b"request 1", REASON_TO, 3)
    switch.arrive(b"answer 1", REASON_FROM, DESTINATION)
    switch.arrive(b"request 2", REASON_TO, 3)
    switch.arrive(b"answer 2", REASON_FROM, DESTINATION)
    traffic.release({DESTINATION: math.inf})
    assert switch.sent == [b"answer 1", b"answer 2", b"request 1", b"request 2"]


def test_who_is_not_to_be_heard_is_not() -> None:
    switch, traffic = held_endpoint(busy=False)
    switch.arrive(b"of the source, late", REASON_FROM, SOURCE)
    switch.arrive(b"of a third", REASON_FROM, 7)
    traffic.release({SOURCE: 0.0, DESTINATION: math.inf})
    assert switch.sent == []


def test_many_packets_are_acknowledged_in_batches() -> None:
    switch, traffic = held_endpoint(busy=False)
    for number in range(1000):
        switch.arrive(b"%d" % number, REASON_TO, 3)
    traffic.release({DESTINATION: math.inf})
    assert switch.sent == [b"%d" % number for number in range(1000)]
    assert max(switch.batches) <= 256


def test_an_answer_that_comes_when_the_hold_has_ended_is_delivered() -> None:
    """The switch took it before, though nothing had come for a while."""
    switch, traffic = held_endpoint(busy=False)
    switch.arrive(b"request", REASON_TO, 3)
    late: list[threading.Timer] = []

    def end(updates: Sequence[Update]) -> None:
        BusySwitch.write(switch, updates)
        late.append(threading.Timer(0.006, switch.arrive, (b"answer", REASON_FROM, DESTINATION)))
        late[-1].start()

    time.sleep(0.03)  # longer than what counts as quiet
    switch.write = end
    traffic.release({DESTINATION: math.inf})
    assert switch.sent == [b"request", b"answer"]


def test_a_packet_that_comes_after_all_waiting_is_delivered() -> None:
    """On a busy machine the switch tells late of what it took before the hold ended."""
    switch, traffic = held_endpoint(busy=False)
    traffic.release({DESTINATION: math.inf})
    assert switch.sent == []
    switch.arrive(b"late request", REASON_TO, 3)
    switch.arrive(b"of a third, late", REASON_FROM, 7)
    switch.arrive(b"late answer", REASON_FROM, DESTINATION)
    deadline = time.monotonic() + 10
    while len(switch.sent) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(switch.sent) == [b"late answer", b"late request"]
    traffic.hold_ingress()
    switch.arrive(b"in the next hold", REASON_TO, 3)
    assert [held.payload for held in traffic.buffer.take()] == [b"in the next hold"]


def test_answers_do_not_wait_for_all_requests() -> None:
    """Whoever asked first is answered while the others' requests are delivered."""
    switch, traffic = held_endpoint(busy=False)
    for number in range(200):
        switch.arrive(b"request %d" % number, REASON_TO, 3)
    answers = iter([b"answer to 0", b"answer to 1"])

    def deliver(payloads: Sequence[bytes], metadata: Any) -> None:
        BusySwitch.deliver(switch, payloads, metadata)
        for answer in answers:
            switch.arrive(answer, REASON_FROM, DESTINATION)

    switch.deliver = deliver
    traffic.release({DESTINATION: math.inf})
    assert [switch.sent.index(b"answer to %d" % number) for number in (0, 1)] == [64, 65]
    assert len(switch.sent) == 202


@pytest.mark.timeout(30)
def test_after_many_packets_the_hold_ends_at_once() -> None:
    switch, traffic = held_endpoint(busy=True)
    for number in range(1000):
        switch.arrive(b"%d" % number, REASON_TO, 3)
    traffic.release({DESTINATION: math.inf})
    assert len(switch.sent) == 2000


def frame(network: Any, transport: Any) -> bytes:
    return bytes(Ether() / network / transport)


NETWORKS = [IP(), IP(options=[b"\x01\x01\x01\x00"]), IPv6()]


@pytest.mark.parametrize("network", NETWORKS, ids=["IPv4", "IPv4 with options", "IPv6"])
def test_a_connection_begins_with_syn_alone(network: Any) -> None:
    begins = {flags: begins_connection(frame(network, TCP(flags=flags))) for flags in ("S", "SEC")}
    assert all(begins.values()), begins
    for flags in ("SA", "A", "PA", "FA", "R"):
        assert not begins_connection(frame(network, TCP(flags=flags) / b"data")), flags
    assert not begins_connection(frame(network, UDP() / (b"\x02" * 20)))


def test_what_is_no_whole_segment_begins_nothing() -> None:
    syn = frame(IP(), TCP(flags="S"))
    assert not begins_connection(frame(IP(frag=1, proto=6), bytes(TCP(flags="S"))))
    assert [n for n in range(len(syn)) if begins_connection(syn[:n])] == list(range(48, len(syn)))


def test_all_but_new_connections_is_let_through() -> None:
    switch, traffic = held_endpoint(busy=False)
    syn, rest = (frame(IP(), TCP(flags=flags)) for flags in ("S", "A"))
    for packet in (b"1", syn, rest, b"2"):
        switch.arrive(packet, REASON_TO, 3)
    switch.arrive(b"answer", REASON_FROM, SOURCE)
    traffic.let_through()
    assert switch.sent == [b"1", rest, b"2"] and traffic.is_held()
    traffic.release({SOURCE: math.inf})
    assert switch.sent[3:] == [b"answer", syn]
    assert traffic.buffer.packets == 5
