# SPDX-License-Identifier: Apache-2.0
"""What a hold keeps: numbered packets of one flow, 64 MiB of them, delivered afterwards."""

from __future__ import annotations

import time
from typing import Any

from flowferry_p4.client import Session
from flowferry_p4.client.traffic import EndpointTraffic

from tests.integration.switch_bench import Host, wait_until
from tests.integration.switch_traffic import line

PAYLOAD = 1400
HELD = 64 << 20
"""Bytes of frames that a hold has to keep."""
BUDGET = 80 << 20
RATE = 20_000
"""Packets in a second: 220 Mbit/s, which a controller in Python keeps up with."""
SMALL_BUDGET = 1 << 20
OVERFLOWING = 2_000

SOURCE = r"""
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7002))
count, size, rate = map(int, sys.argv[2:])
start = time.monotonic()
for number in range(count):
    if number % 32 == 0:
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
    s.send(number.to_bytes(4, "big").ljust(size, b"\0"))
print("sent")
"""

SINK = r"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
s.bind((sys.argv[1], 7002))
print("listening")
count, got, reordered, last = int(sys.argv[2]), 0, 0, -1
s.settimeout(120)
try:
    while got < count:
        number = int.from_bytes(s.recv(2048)[:4], "big")
        got, reordered, last = got + 1, reordered + (number < last), max(last, number)
        s.settimeout(5)
except TimeoutError:
    pass
print(got, reordered)
"""


def measure_hold(address: str, client: Host, server: Host) -> dict[str, Any]:
    """A flow to the server is held, and released when all of it is kept."""
    count = HELD // PAYLOAD + 1  # the payload alone is 64 MiB
    sink = server.python(SINK, server.address, str(count))
    assert line(sink) == "listening"
    with Session.open(address) as session:
        traffic = EndpointTraffic(session, server.address, BUDGET)
        traffic.hold_ingress()
        _send(client, server, count)
        _settle(traffic, count)
        kept = traffic.buffer.packets
        began = time.perf_counter()
        traffic.release({})
        released = time.perf_counter() - began
        got, reordered = map(int, line(sink).split())
        overflow = _overflow(session, client, server)
    return {
        "bytes": kept * (PAYLOAD + 42),
        "sent": count,
        "kept": kept,
        "delivered": got,
        "lost": count - got,
        "reordered": reordered,
        "release_s": released,
        "overflow": overflow,
    }


def _send(client: Host, server: Host, count: int) -> None:
    source = client.python(SOURCE, server.address, str(count), str(PAYLOAD), str(RATE))
    assert line(source) == "sent"


def _settle(traffic: EndpointTraffic, count: int) -> None:
    """Until all have come, or none comes any more."""
    buffer = traffic.buffer

    def settled() -> bool:
        is_quiet = time.monotonic() - buffer.last_arrival() > 3
        return buffer.packets + buffer.overflow >= count or is_quiet

    wait_until("the held packets have come", settled, 60)


def _overflow(session: Session, client: Host, server: Host) -> dict[str, int]:
    """More than there is room for: what is kept and what is counted is all that was sent."""
    traffic = EndpointTraffic(session, server.address, SMALL_BUDGET)
    traffic.hold_ingress()
    _send(client, server, OVERFLOWING)
    _settle(traffic, OVERFLOWING)
    kept, counted = traffic.buffer.packets, traffic.buffer.overflow
    traffic.release({})
    return {"sent": OVERFLOWING, "kept": kept, "counted": counted}
