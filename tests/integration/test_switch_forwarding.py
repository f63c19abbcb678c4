# SPDX-License-Identifier: Apache-2.0
"""Routing, ARP, services and checksums of the project's program on the embedded switch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from finsy.proto import p4r

from tests.integration.switch_bench import (
    DEADLINE,
    GATEWAY_MAC,
    Bench,
    Controller,
    Host,
    bench,
    wait_until,
)
from tests.integration.switch_traffic import UDP_CLIENT, UDP_ECHO, line, ping, transfer

VIRTUAL = "198.19.9.100"
TCP, UDP = 6, 17

# Sends raw frames given in hex and prints the first frame that comes back with the wanted type.
EXCHANGE = r"""
import socket, sys
kind = int(sys.argv[1], 16)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
s.bind(("data0", kind))
s.settimeout(5)
s.send(bytes.fromhex(sys.argv[2]))
while True:
    frame, source = s.recvfrom(65536)
    if source[2] != 4:  # not our own
        print(frame.hex())
        break
"""

# Receives packets as frames and prints for each whether its checksums are complete and right.
SNIFF = r"""
import socket, sys
def ones_sum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i:i+2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
s.bind(("data0", 0x0800))
s.settimeout(10)
print("listening")
while True:
    frame, source = s.recvfrom(1 << 17)
    packet = frame[14:]
    if source[2] == 4 or packet[9] != int(sys.argv[1]):
        continue
    length = int.from_bytes(packet[2:4], "big")
    segment = packet[20:length]
    pseudo = packet[12:20] + bytes([0, packet[9]]) + len(segment).to_bytes(2, "big")
    print(ones_sum(packet[:20]) == 0xffff, ones_sum(pseudo + segment) == 0xffff)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[Bench, Controller]]:
    with bench(tmp_path) as made, made.controller() as controller:
        controller.answer()
        controller.set_pipeline()
        made.add_routes(controller)
        yield made, controller


def add_service(
    controller: Controller, protocol: int, port: int, server: Host, to_port: int, buckets: int = 1
) -> None:
    """A virtual address with one backend, and its way back."""
    controller.insert(
        "service",
        {"address": VIRTUAL, "protocol": protocol, "port": port},
        "select_bucket",
        protocol,
        buckets,
    )
    for bucket in range(buckets):
        match: dict[str, int | str] = {"service_id": protocol, "bucket": bucket}
        controller.insert("bucket", match, "to_backend", protocol)
    controller.insert("backend", {"backend_id": protocol}, "translate", server.address, to_port)
    controller.insert(
        "reply",
        {"address": server.address, "protocol": protocol, "port": to_port},
        "restore_virtual",
        VIRTUAL,
        port,
    )


def test_hosts_reach_each_other(lab: tuple[Bench, Controller]) -> None:
    made, controller = lab
    first, second = made.hosts
    assert ping(first, second.address, 5) == 5
    assert controller.direct_packets("route") == 10
    assert GATEWAY_MAC in first.run("ip", "neigh")


def test_tcp_passes_whole(lab: tuple[Bench, Controller]) -> None:
    """With fewer packets on the receiver's interface than segments: GSO packets stay whole."""
    made, controller = lab
    first, second = made.hosts
    transfer(first, second, 100)
    text = second.run("cat", "/sys/class/net/data0/statistics/rx_packets")
    assert int(text) < 0.5 * controller.direct_packets("route")


def test_tcp_service_translates_both_ways(lab: tuple[Bench, Controller]) -> None:
    """The server sees its own address, the client the virtual one, and every byte arrives."""
    made, controller = lab
    client, server = made.hosts
    add_service(controller, TCP, 80, server, 7000, buckets=3)
    transfer(client, server, 50, address=VIRTUAL, port=80)
    assert controller.direct_packets("backend") > 1000


@pytest.mark.parametrize("unchecked", [False, True], ids=["summed", "no-checksum"])
def test_udp_service(lab: tuple[Bench, Controller], unchecked: bool) -> None:
    made, controller = lab
    client, server = made.hosts
    add_service(controller, UDP, 53, server, 7001)
    more = ["unchecked"] if unchecked else []
    echo = server.python(UDP_ECHO, server.address, "7001", *more)
    assert line(echo) == "listening"
    sender = client.python(UDP_CLIENT, VIRTUAL, "53", *more)
    assert line(sender) == f"ok {VIRTUAL}"


@pytest.mark.parametrize(
    ("completed", "on_the_wire"),
    [("never", "False"), ("by the sender", "True"), ("behind the switch", "True")],
)
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_translated_checksums(
    lab: tuple[Bench, Controller], protocol: int, completed: str, on_the_wire: str
) -> None:
    """Whoever completes a checksum, before or after the translation, completes it right.

    Receivers do not look at a checksum that is still partial, so the frames themselves are read.
    """
    made, controller = lab
    client, server = made.hosts
    if completed == "by the sender":
        client.offloads_off("data0")
    if completed == "behind the switch":
        made.switch_namespace.offloads_off("port2")
    add_service(controller, protocol, 53, server, 7000)
    sniffer = server.python(SNIFF, str(protocol))
    assert line(sniffer) == "listening"
    if protocol == TCP:
        transfer(client, server, 1, address=VIRTUAL, port=53)
    else:
        assert line(server.python(UDP_ECHO, server.address, "7000")) == "listening"
        assert line(client.python(UDP_CLIENT, VIRTUAL, "53")) == f"ok {VIRTUAL}"
    for _ in range(3):
        assert line(sniffer).split() == ["True", on_the_wire]


def test_one_modify_moves_the_service(lab: tuple[Bench, Controller]) -> None:
    made, controller = lab
    first, second = made.hosts
    add_service(controller, UDP, 53, second, 7001)
    echo = second.python(UDP_ECHO, second.address, "7002")
    assert line(echo) == "listening"
    translate = controller.names.entry(
        "backend", {"backend_id": UDP}, "translate", second.address, 7002
    )
    controller.write("MODIFY", translate)
    controller.insert(
        "reply",
        {"address": second.address, "protocol": UDP, "port": 7002},
        "restore_virtual",
        VIRTUAL,
        53,
    )
    assert line(first.python(UDP_CLIENT, VIRTUAL, "53")) == f"ok {VIRTUAL}"


def ethernet(destination: str, source: str, kind: str, body: bytes) -> str:
    return destination.replace(":", "") + source.replace(":", "") + kind + body.hex()


def ipv4(
    source: str, destination: str, protocol: int, payload: bytes, *, ttl: int = 64, more: str = ""
) -> bytes:
    """An IPv4 packet; its header checksum is left at zero, which the switch does not judge."""
    addresses = bytes(int(p) for a in (source, destination) for p in a.split("."))
    options = bytes.fromhex(more)
    words = 5 + len(options) // 4
    length = 4 * words + len(payload)
    head = bytes([0x40 | words, 0]) + length.to_bytes(2, "big") + bytes(4)
    return head + bytes([ttl, protocol, 0, 0]) + addresses + options + payload


def test_the_bucket_is_the_documented_hash(lab: tuple[Bench, Controller]) -> None:
    """crc32 over addresses, protocol and ports, modulo the buckets: only that bucket is filled."""
    made, controller = lab
    client, server = made.hosts
    buckets = 251
    flow = bytes(int(p) for a in (client.address, VIRTUAL) for p in a.split("."))
    flow += bytes([UDP]) + (4242).to_bytes(2, "big") + (53).to_bytes(2, "big")
    bucket = zlib.crc32(flow) % buckets
    service: dict[str, int | str] = {"address": VIRTUAL, "protocol": UDP, "port": 53}
    controller.insert("service", service, "select_bucket", 1, buckets)
    controller.insert("bucket", {"service_id": 1, "bucket": bucket}, "to_backend", 1)
    controller.insert("backend", {"backend_id": 1}, "translate", server.address, 7001)
    datagram = (4242).to_bytes(2, "big") + (53).to_bytes(2, "big") + bytes([0, 12, 0, 0]) + b"flow"
    frame = ethernet(GATEWAY_MAC, client.mac, "0800", ipv4(client.address, VIRTUAL, UDP, datagram))
    client.python(EXCHANGE, "88b5", frame)
    wait_until("the datagram meets its bucket", lambda: controller.direct_packets("backend"))
    assert controller.counter("dropped", 4) == 0


@pytest.mark.parametrize(
    ("reason", "kind", "body"),
    [
        (0, "88b5", bytes(46)),
        (1, "0800", bytes(46)),
        (2, "0800", ipv4("198.19.9.11", "198.19.9.12", 1, bytes(26), more="01010101")),
        (5, "0800", ipv4("198.19.9.11", "198.19.9.12", 1, bytes(26), ttl=1)),
        (6, "0800", ipv4("198.19.9.11", "203.0.113.1", 1, bytes(26))),
        (9, "0806", bytes(46)),
    ],
    ids=["ethertype", "malformed", "options", "ttl", "no-route", "arp"],
)
def test_what_is_not_forwarded_is_counted(
    lab: tuple[Bench, Controller], reason: int, kind: str, body: bytes
) -> None:
    made, controller = lab
    client, _ = made.hosts
    client.python(EXCHANGE, "88b5", ethernet(GATEWAY_MAC, client.mac, kind, body))
    wait_until(f"drop reason {reason}", lambda: controller.counter("dropped", reason) == 1)


def test_arp_is_answered_on_its_port(lab: tuple[Bench, Controller]) -> None:
    made, _ = lab
    client, _ = made.hosts
    mac = bytes.fromhex(client.mac.replace(":", ""))
    sender = bytes(int(p) for p in client.address.split("."))
    target = bytes([198, 19, 9, 77])
    request = bytes.fromhex("0001080006040001") + mac + sender + bytes(6) + target
    process = client.python(
        EXCHANGE, "0806", ethernet("ff:ff:ff:ff:ff:ff", client.mac, "0806", request)
    )
    reply = bytes.fromhex(line(process))
    process.wait(DEADLINE)
    gateway = bytes.fromhex(GATEWAY_MAC.replace(":", ""))
    assert reply[:14] == mac + gateway + b"\x08\x06"
    assert reply[20:42] == b"\0\2" + gateway + target + mac + sender


def test_tagged_frames_are_counted_by_the_target(lab: tuple[Bench, Controller]) -> None:
    """A VLAN tag is not in the bytes a program sees, so the target refuses it."""
    made, controller = lab
    client, server = made.hosts
    body = ipv4(client.address, server.address, 1, bytes(26))
    tagged = ethernet(GATEWAY_MAC, client.mac, "8100", b"\0\x05\x08\0" + body)
    client.python(EXCHANGE, "88b5", tagged)
    assert ping(client, server.address, 1) == 1  # behind it on the same wire
    assert controller.direct_packets("route") == 2
    _, log = made.switch.end()
    assert "1 packets dropped: the frame has a VLAN tag" in log


def test_default_action_can_be_changed(lab: tuple[Bench, Controller]) -> None:
    made, controller = lab
    client, server = made.hosts
    controller.write(
        "DELETE", controller.names.entry("route", {"destination": f"{server.address}/32"})
    )
    assert ping(client, server.address, 1, seconds=0.3) == 0
    entry = p4r.TableEntry(
        table_id=controller.names.tables["route"].preamble.id, is_default_action=True
    )
    forward = controller.names.entry("route", {}, "forward", server.number, GATEWAY_MAC, server.mac)
    entry.action.CopyFrom(forward.action)
    controller.write("MODIFY", entry)
    assert ping(client, server.address, 1) == 1
    entry.ClearField("action")
    controller.write("MODIFY", entry)
    assert ping(client, server.address, 1, seconds=0.3) == 0
