# SPDX-License-Identifier: Apache-2.0
"""IPv6 through the embedded switch as kernels send it: whole GSO packets, partial checksums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flowferry_p4.client import Entry, Session, Update
from flowferry_p4.client.traffic import EndpointTraffic
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.integration.switch_bench import (
    GATEWAY_MAC,
    P4INFO,
    PROGRAM,
    Bench,
    Host,
    bench,
    wait_until,
)
from tests.integration.switch_traffic import TCP_CLIENT, TCP_SERVER, UDP_CLIENT, UDP_ECHO, line

MTU = 1500
VIRTUAL = "fd00:9::100"
TCP_NUMBER, UDP_NUMBER, ICMPV6_NUMBER = 6, 17, 58

# The kernel computes the checksum of what it sends, and drops what comes with a wrong one.
ECHO = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.settimeout(15)
s.sendto(bytes([128, 0, 0, 0, 1, 2, 3, 4]) + bytes(range(101)), (sys.argv[1], 0))
while True:
    data, peer = s.recvfrom(2048)
    if data[0] == 129:
        print(peer[0], data[4:] == bytes([1, 2, 3, 4]) + bytes(range(101)))
        break
"""


def address(host: Host) -> str:
    return f"fd00:9::{host.number}"


def insert(
    session: Session, table: str, match: dict[str, object], action: str, **p: object
) -> None:
    session.write([Update("INSERT", Entry(table, match, action, p))])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[Bench, Session]]:
    """Two hosts that know nothing of each other but their gateway's link-local address."""
    with bench(tmp_path) as made, Session.open(made.switch.address, election_id=1) as session:
        session.set_pipeline(P4INFO.read_text(encoding="utf-8"), PROGRAM.read_bytes())
        insert(session, "ndp", {"target": "fe80::1/128"}, "advertise", mac=GATEWAY_MAC)
        for host in made.hosts:
            own = f"{address(host)}/128"
            host.run("ip", "address", "add", own, "dev", "data0", "nodad")
            host.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "data0")
            insert(
                session, "route_ipv6", {"destination": own}, "forward",
                port=host.number, source_mac=GATEWAY_MAC, destination_mac=host.mac,
            )  # fmt: skip
        yield made, session


def serve(session: Session, server: Host, protocol: int, virtual: int, own: int) -> None:
    """A service at a virtual address, with one backend."""
    where = {"address": VIRTUAL, "protocol": protocol, "port": virtual}
    insert(session, "service_ipv6", where, "select_bucket", service_id=1, bucket_count=1)
    insert(session, "bucket", {"service_id": 1, "bucket": 0}, "to_backend", backend_id=1)
    there = {"address": address(server), "port": own}
    insert(session, "backend_ipv6", {"backend_id": 1}, "translate_ipv6", **there)
    insert(
        session, "reply_ipv6", {**there, "protocol": protocol}, "restore_virtual_ipv6",
        address=VIRTUAL, port=virtual,
    )  # fmt: skip


def test_a_stream_is_held_and_goes_on(lab: tuple[Bench, Session]) -> None:
    made, session = lab
    client, server = made.hosts
    listener = server.python(TCP_SERVER, address(server), "7000")
    assert line(listener) == "listening"
    sender = client.python(TCP_CLIENT, address(server), "7000", "20", "pause")
    assert line(sender) == "connected"
    traffic = EndpointTraffic(session, address(server))
    traffic.hold_ingress()
    traffic.hold_egress()
    assert sender.stdin is not None
    sender.stdin.write("go on\n")
    sender.stdin.flush()
    wait_until("a burst is held", lambda: traffic.buffer.packets >= 10)

    for held in traffic.buffer.take():
        assert len(held.payload) <= 14 + MTU
        frame = Ether(held.payload)
        arrived = frame[TCP].chksum
        del frame[TCP].chksum
        assert Ether(bytes(frame))[TCP].chksum == arrived
        assert frame[IPv6].plen == len(held.payload) - 14 - 40
        session.send_packets([(held.payload, {"past_hold": 1})])
    traffic.release({server.number: float("inf")})

    assert line(sender).split()[0] == "ok"
    assert line(listener).startswith("done")


def test_datagrams_are_held_and_delivered(lab: tuple[Bench, Session]) -> None:
    made, session = lab
    client, server = made.hosts
    echo = server.python(UDP_ECHO, address(server), "7001")
    assert line(echo) == "listening"
    traffic = EndpointTraffic(session, address(server))
    traffic.hold_ingress()
    sender = client.python(UDP_CLIENT, address(server), "7001")
    wait_until("the first datagram is held", lambda: traffic.buffer.packets == 1)
    traffic.release({})
    assert line(sender).split() == ["ok", address(server)]


def test_a_stream_through_a_service(lab: tuple[Bench, Session]) -> None:
    """Translated there and back, as packets of 64 KB whose checksums are not complete yet."""
    made, session = lab
    client, server = made.hosts
    serve(session, server, TCP_NUMBER, 80, 7000)
    listener = server.python(TCP_SERVER, address(server), "7000")
    assert line(listener) == "listening"
    sender = client.python(TCP_CLIENT, VIRTUAL, "80", "20")
    assert line(sender) == "connected"
    assert line(sender).split()[0] == "ok"


def test_datagrams_through_a_service(lab: tuple[Bench, Session]) -> None:
    made, session = lab
    client, server = made.hosts
    serve(session, server, UDP_NUMBER, 53, 7001)
    echo = server.python(UDP_ECHO, address(server), "7001")
    assert line(echo) == "listening"
    sender = client.python(UDP_CLIENT, VIRTUAL, "53")
    assert line(sender).split() == ["ok", VIRTUAL]


def test_an_echo_through_a_service(lab: tuple[Bench, Session]) -> None:
    """The checksum of ICMPv6 covers the addresses that are translated."""
    made, session = lab
    client, server = made.hosts
    serve(session, server, ICMPV6_NUMBER, 0, 0)
    assert line(client.python(ECHO, VIRTUAL)) == f"{VIRTUAL} True"
