# SPDX-License-Identifier: Apache-2.0
"""What the P4 program does with a packet, on a real switch, byte for byte.

The switch is the embedded one. The same test proves BMv2:

    FLOWFERRY_SWITCH=simple_switch_grpc make integration
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from socket import inet_aton

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.integration.program_bench import (
    GATEWAY_MAC,
    SWITCH_VARIABLE,
    Bench,
    program_bench,
    wire_mac,
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="makes network namespaces: sudo -E python -m pytest tests/integration/test_program.py",
)

CLIENT, ENDPOINT, MOVED, VIRTUAL = "198.19.9.3", "198.19.9.100", "198.19.9.101", "198.19.9.200"
CLIENT_PORT, SOURCE_PORT, DESTINATION_PORT = 3, 1, 2
TO, FROM = 1, 2  # packet_in.reason

TCP_NUMBER, UDP_NUMBER, ICMP_NUMBER = 6, 17, 1


@pytest.fixture(scope="module")
def running() -> Iterator[Bench]:
    with program_bench() as bench:
        yield bench


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The client behind port 3, the endpoint behind port 1, where it may move behind port 2."""
    running.reset()
    running.route(CLIENT, CLIENT_PORT)
    running.route(ENDPOINT, SOURCE_PORT)
    running.route(MOVED, DESTINATION_PORT)
    return running


def arriving(port: int, ip: Packet, ttl: int = 64) -> bytes:
    """The frame a host on this wire sends to its gateway."""
    ip = ip.copy()
    ip[IP].ttl = ttl
    return bytes(Ether(src=wire_mac(port), dst=GATEWAY_MAC, type=0x0800) / ip)


def leaving(port: int, ip: Packet, ttl: int = 63) -> bytes:
    """The frame the switch sends on this wire; scapy computes the checksums afresh."""
    ip = ip.copy()
    ip[IP].ttl = ttl
    return bytes(Ether(src=GATEWAY_MAC, dst=wire_mac(port), type=0x0800) / ip)


def tcp(
    source: str, destination: str, sport: int = 40000, dport: int = 6379, data: bytes = b"x"
) -> Packet:
    options = [("MSS", 1460), ("NOP", None), ("NOP", None), ("Timestamp", (7, 9))]
    segment = TCP(sport=sport, dport=dport, flags="PA", seq=1, ack=2, options=options)
    return IP(src=source, dst=destination, tos=0x10, id=77, flags="DF") / segment / Raw(data)


def udp(
    source: str, destination: str, sport: int = 40000, dport: int = 53, data: bytes = b"x"
) -> Packet:
    return IP(src=source, dst=destination, id=78) / UDP(sport=sport, dport=dport) / Raw(data)


def arp_request(sender: str, target: str, port: int = CLIENT_PORT) -> bytes:
    body = ARP(op="who-has", hwsrc=wire_mac(port), psrc=sender, hwdst="00:" * 5 + "00", pdst=target)
    return bytes(Ether(src=wire_mac(port), dst="ff:ff:ff:ff:ff:ff") / body)


def serve(
    bench: Bench, backends: dict[int, str], protocol: int = TCP_NUMBER, port: int = 6379
) -> None:
    """A service with one bucket a backend; backends listen on port + 1."""
    where = {"address": VIRTUAL, "protocol": protocol, "port": port}
    count = len(backends)
    bench.insert("service", where, "select_bucket", service_id=5, bucket_count=count)
    for bucket, (number, address) in enumerate(backends.items()):
        key = {"service_id": 5, "bucket": bucket}
        bench.insert("bucket", key, "to_backend", backend_id=number)
        there = port + 1 if port else 0
        bench.insert("backend", {"backend_id": number}, "translate", address=address, port=there)
        back = {"address": address, "protocol": protocol, "port": there}
        bench.insert("reply", back, "restore_virtual", address=VIRTUAL, port=port)


# -- arp


def test_arp_is_answered_out_of_the_port_it_came_from(bench: Bench) -> None:
    bench.insert("arp", {"target": "198.19.9.0/24"}, "answer", mac=GATEWAY_MAC)

    outcome = bench.send(CLIENT_PORT, arp_request(CLIENT, ENDPOINT))

    mac = wire_mac(CLIENT_PORT)
    answer = ARP(op="is-at", hwsrc=GATEWAY_MAC, psrc=ENDPOINT, hwdst=mac, pdst=CLIENT)
    assert outcome.out == {CLIENT_PORT: [bytes(Ether(src=GATEWAY_MAC, dst=mac) / answer)]}
    assert outcome.drops == {}


@pytest.mark.parametrize(
    ("sender", "target"),
    [(CLIENT, "198.19.8.1"), (CLIENT, CLIENT), ("0.0.0.0", ENDPOINT)],
    ids=["not here", "announcement", "probe"],
)
def test_arp_that_is_not_for_the_switch(bench: Bench, sender: str, target: str) -> None:
    bench.insert("arp", {"target": "198.19.9.0/24"}, "answer", mac=GATEWAY_MAC)
    outcome = bench.send(CLIENT_PORT, arp_request(sender, target))
    assert (outcome.out, outcome.drops) == ({}, {"ARP": 1})


def test_arp_replies_are_dropped(bench: Bench) -> None:
    bench.insert("arp", {"target": "198.19.9.0/24"}, "answer", mac=GATEWAY_MAC)
    reply = ARP(op="is-at", hwsrc=wire_mac(3), psrc=CLIENT, hwdst=GATEWAY_MAC, pdst=ENDPOINT)
    outcome = bench.send(CLIENT_PORT, bytes(Ether(src=wire_mac(3), dst=GATEWAY_MAC) / reply))
    assert (outcome.out, outcome.drops) == ({}, {"ARP": 1})


# -- route


@pytest.mark.parametrize(
    "packet",
    [
        tcp(CLIENT, ENDPOINT),
        udp(CLIENT, ENDPOINT),
        IP(src=CLIENT, dst=ENDPOINT) / ICMP(id=3, seq=4) / Raw(b"ping"),
        IP(src=CLIENT, dst=ENDPOINT, proto=47) / Raw(b"anything else"),
    ],
    ids=["tcp", "udp", "icmp", "other"],
)
def test_a_packet_is_routed(bench: Bench, packet: Packet) -> None:
    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, packet))
    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, packet)]}
    assert (outcome.up, outcome.drops) == ([], {})
    assert bench.packets("route", {"destination": f"{ENDPOINT}/32"}) >= 1


def test_the_longest_prefix_wins(bench: Bench) -> None:
    there = {"port": 2, "source_mac": GATEWAY_MAC, "destination_mac": wire_mac(2)}
    bench.insert("route", {"destination": "198.19.9.0/24"}, "forward", **there)
    near, far = udp(CLIENT, ENDPOINT), udp(CLIENT, "198.19.9.77")

    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, near), arriving(CLIENT_PORT, far))

    assert outcome.out == {1: [leaving(1, near)], 2: [leaving(2, far)]}


def test_fragments_are_routed_when_nothing_is_translated(bench: Bench) -> None:
    whole = udp(CLIENT, ENDPOINT, data=b"f" * 1200)
    fragments = whole.fragment(600)
    assert len(fragments) == 3
    outcome = bench.send(CLIENT_PORT, *(arriving(CLIENT_PORT, each) for each in fragments))
    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, each) for each in fragments]}


def test_the_last_hop_is_dropped_and_counted(bench: Bench) -> None:
    packet = tcp(CLIENT, ENDPOINT)
    frames = [arriving(CLIENT_PORT, packet, ttl) for ttl in (0, 1, 2)]
    outcome = bench.send(CLIENT_PORT, *frames)
    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, packet, 1)]}
    assert outcome.drops == {"TTL": 2}


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(Ether(src=wire_mac(CLIENT_PORT), dst=GATEWAY_MAC, type=kind) / Raw(payload))


ROUTED = bytes(tcp(CLIENT, ENDPOINT))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ethernet(0x86DD, b"\x60" + bytes(39)), "ETHERTYPE"),
        (ethernet(0x0800, ROUTED[:19]), "MALFORMED"),
        (ethernet(0x0800, ROUTED[:30]), "MALFORMED"),
        (ethernet(0x0800, b"\x65" + ROUTED[1:]), "MALFORMED"),
        (ethernet(0x0800, b"\x44" + ROUTED[1:]), "MALFORMED"),
        (ethernet(0x0806, bytes(10)), "MALFORMED"),
        (ethernet(0x0800, b"\x46" + ROUTED[1:]), "OPTIONS"),
        (ethernet(0x0800, bytes(udp(CLIENT, "198.19.8.8"))), "NO_ROUTE"),
    ],
    ids=[
        "ipv6", "half an ip header", "half a tcp header", "version 6 as ipv4",
        "short header length", "half an arp", "ip options", "no route",
    ],
)  # fmt: skip
def test_what_is_not_forwarded_is_counted(bench: Bench, frame: bytes, reason: str) -> None:
    outcome = bench.send(CLIENT_PORT, frame)
    assert (outcome.out, outcome.up, outcome.drops) == ({}, [], {reason: 1})


# -- hold


def test_a_packet_to_a_held_endpoint_goes_up_as_it_arrived(bench: Bench) -> None:
    bench.insert("hold_to", {"address": ENDPOINT}, "buffer")
    frame = arriving(CLIENT_PORT, tcp(CLIENT, ENDPOINT, data=b"held" * 100), ttl=1)

    outcome = bench.send(CLIENT_PORT, frame)

    assert outcome.up == [(frame, {"ingress_port": CLIENT_PORT, "reason": TO})]
    assert (outcome.out, outcome.drops) == ({}, {})
    assert bench.packets("hold_to", {"address": ENDPOINT}) == 1


def test_a_packet_from_a_held_endpoint_goes_up_as_it_arrived(bench: Bench) -> None:
    """Under its own address, although the client knows it by the virtual one."""
    serve(bench, {1: ENDPOINT})
    bench.insert("hold_from", {"address": ENDPOINT}, "buffer")
    frame = arriving(SOURCE_PORT, tcp(ENDPOINT, CLIENT, sport=6380, dport=40000))

    outcome = bench.send(SOURCE_PORT, frame)

    assert outcome.up == [(frame, {"ingress_port": SOURCE_PORT, "reason": FROM})]
    assert (outcome.out, outcome.drops) == ({}, {})
    assert bench.packets("hold_from", {"address": ENDPOINT}) == 1


def test_a_packet_between_two_held_endpoints_goes_up_once(bench: Bench) -> None:
    for table in ("hold_to", "hold_from"):
        for address in (ENDPOINT, MOVED):
            bench.insert(table, {"address": address}, "buffer")
    frame = arriving(SOURCE_PORT, tcp(ENDPOINT, MOVED))
    outcome = bench.send(SOURCE_PORT, frame)
    assert outcome.up == [(frame, {"ingress_port": SOURCE_PORT, "reason": TO})]


@pytest.mark.parametrize("table", ["hold_to", "hold_from"])
def test_a_hold_may_drop_instead(bench: Bench, table: str) -> None:
    bench.insert(table, {"address": ENDPOINT}, "drop")
    packet = tcp(CLIENT, ENDPOINT) if table == "hold_to" else tcp(ENDPOINT, CLIENT)
    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, packet))
    assert (outcome.out, outcome.up, outcome.drops) == ({}, [], {"HELD": 1})
    assert bench.packets(table, {"address": ENDPOINT}) == 1


def test_a_hold_concerns_nobody_else(bench: Bench) -> None:
    bench.insert("hold_to", {"address": MOVED}, "buffer")
    bench.insert("hold_from", {"address": MOVED}, "buffer")
    packet = tcp(CLIENT, ENDPOINT)
    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, packet))
    assert (outcome.out, outcome.up) == ({SOURCE_PORT: [leaving(SOURCE_PORT, packet)]}, [])


# -- packet-out


def test_a_packet_out_leaves_as_it_is(bench: Bench) -> None:
    """Not routed, not held, not repaired: whoever sends it knows what he does."""
    bench.insert("hold_to", {"address": ENDPOINT}, "buffer")
    frames = [arriving(CLIENT_PORT, tcp(CLIENT, ENDPOINT), ttl=1), ethernet(0x86DD, bytes(40))]
    outcome = bench.send_out([(frame, {"egress_port": 2, "past_hold": 0}) for frame in frames])
    assert (outcome.out, outcome.up, outcome.drops) == ({2: frames}, [], {})


def test_past_the_hold_and_the_guard(bench: Bench) -> None:
    for table in ("hold_to", "hold_from"):
        for address in (CLIENT, ENDPOINT):
            bench.insert(table, {"address": address}, "buffer")
    bench.insert("guard", {"ingress_port": 510, "source": CLIENT}, "drop")
    packet = tcp(CLIENT, ENDPOINT)

    outcome = bench.send_out([(arriving(CLIENT_PORT, packet), {"past_hold": 1, "egress_port": 2})])

    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, packet)]}
    assert (outcome.up, outcome.drops) == ([], {})


def test_past_the_hold_the_pipeline_is_the_same(bench: Bench) -> None:
    """Translated like any packet, and dropped for the same reasons."""
    serve(bench, {1: ENDPOINT})
    past = {"past_hold": 1}
    good = arriving(CLIENT_PORT, tcp(CLIENT, VIRTUAL))
    old = arriving(CLIENT_PORT, tcp(CLIENT, VIRTUAL), ttl=1)
    outcome = bench.send_out([(good, past), (old, past), (arp_request(CLIENT, ENDPOINT), past)])
    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, tcp(CLIENT, ENDPOINT, dport=6380))]}
    assert outcome.drops == {"TTL": 1, "ARP": 1}


def test_held_packets_are_released_in_order(bench: Bench) -> None:
    bench.insert("hold_to", {"address": ENDPOINT}, "buffer")
    packets = [tcp(CLIENT, ENDPOINT, data=b"number %d" % number) for number in range(200)]
    held = bench.send(CLIENT_PORT, *(arriving(CLIENT_PORT, each) for each in packets)).up
    assert len(held) == len(packets)

    outcome = bench.send_out([(payload, {"past_hold": 1}) for payload, _ in held])

    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, each) for each in packets]}


# -- service and reply


@pytest.mark.parametrize("length", [0, 1, 2, 999, 1400])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_is_translated_there_and_back(bench: Bench, protocol: str, length: int) -> None:
    make, number = (tcp, TCP_NUMBER) if protocol == "tcp" else (udp, UDP_NUMBER)
    serve(bench, {1: ENDPOINT}, number, 80)
    data = b"\xff" * length

    there = bench.send(CLIENT_PORT, arriving(3, make(CLIENT, VIRTUAL, 40000, 80, data)))
    assert there.out == {1: [leaving(1, make(CLIENT, ENDPOINT, 40000, 81, data))]}

    back = bench.send(SOURCE_PORT, arriving(1, make(ENDPOINT, CLIENT, 81, 40000, data)))
    assert back.out == {3: [leaving(3, make(VIRTUAL, CLIENT, 80, 40000, data))]}
    assert (there.drops, back.drops) == ({}, {})
    assert bench.packets("backend", {"backend_id": 1}) == 1


def test_a_udp_checksum_that_is_not_there_stays_away(bench: Bench) -> None:
    serve(bench, {1: ENDPOINT}, UDP_NUMBER, 53)
    packet, wanted = udp(CLIENT, VIRTUAL), udp(CLIENT, ENDPOINT, dport=54)
    packet[UDP].chksum = wanted[UDP].chksum = 0
    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, packet))
    assert outcome.out == {SOURCE_PORT: [leaving(SOURCE_PORT, wanted)]}


def test_icmp_can_be_a_service(bench: Bench) -> None:
    serve(bench, {1: ENDPOINT}, ICMP_NUMBER, 0)
    body = ICMP(id=3, seq=4) / Raw(b"ping")
    outcome = bench.send(CLIENT_PORT, arriving(3, IP(src=CLIENT, dst=VIRTUAL) / body))
    assert outcome.out == {1: [leaving(1, IP(src=CLIENT, dst=ENDPOINT) / body)]}


def test_fragments_of_a_service_are_dropped(bench: Bench) -> None:
    serve(bench, {1: ENDPOINT}, UDP_NUMBER, 53)
    first, second = udp(CLIENT, VIRTUAL, data=b"f" * 600).fragment(400)
    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, first), arriving(CLIENT_PORT, second))
    # The second has no ports, so it is no service's; nobody routes the virtual address either.
    assert (outcome.out, outcome.drops) == ({}, {"FRAGMENT": 1, "NO_ROUTE": 1})


def test_a_flow_stays_on_its_bucket(bench: Bench) -> None:
    """The bucket is the CRC-32 of the flow as on the wire, so that clients can predict it."""
    serve(bench, {1: ENDPOINT, 2: MOVED, 3: CLIENT})
    ports = range(40000, 40060)

    outcome = bench.send(2, *(arriving(2, tcp("10.0.0.1", VIRTUAL, port)) for port in ports))

    wanted: dict[int, list[bytes]] = {}
    for port in ports:
        flow = inet_aton("10.0.0.1") + inet_aton(VIRTUAL) + bytes([TCP_NUMBER])
        flow += port.to_bytes(2, "big") + (6379).to_bytes(2, "big")
        address, out = ((ENDPOINT, 1), (MOVED, 2), (CLIENT, 3))[zlib.crc32(flow) % 3]
        wanted.setdefault(out, []).append(leaving(out, tcp("10.0.0.1", address, port, 6380)))
    assert set(wanted) == {1, 2, 3}
    assert outcome.out == wanted


@pytest.mark.parametrize("lack", ["buckets", "bucket", "backend"])
def test_a_service_without_a_backend_drops(bench: Bench, lack: str) -> None:
    serve(bench, {1: ENDPOINT})
    if lack == "buckets":
        where = {"address": VIRTUAL, "protocol": TCP_NUMBER, "port": 6379}
        bench.modify("service", where, "select_bucket", service_id=5, bucket_count=0)
    elif lack == "bucket":
        bench.delete("bucket", {"service_id": 5, "bucket": 0})
    else:
        bench.delete("backend", {"backend_id": 1})
    outcome = bench.send(CLIENT_PORT, arriving(CLIENT_PORT, tcp(CLIENT, VIRTUAL)))
    assert (outcome.out, outcome.drops) == ({}, {"NO_BACKEND": 1})


# -- guard


def test_a_guarded_source_is_not_heard(bench: Bench) -> None:
    """Not from where it was; from where it is now it is."""
    bench.insert("guard", {"ingress_port": SOURCE_PORT, "source": ENDPOINT}, "drop")
    bench.insert("hold_from", {"address": ENDPOINT}, "buffer")
    packet = tcp(ENDPOINT, CLIENT)

    old = bench.send(SOURCE_PORT, arriving(SOURCE_PORT, packet))
    assert (old.out, old.up, old.drops) == ({}, [], {"GUARD": 1})

    bench.delete("hold_from", {"address": ENDPOINT})
    new = bench.send(DESTINATION_PORT, arriving(DESTINATION_PORT, packet))
    assert new.out == {CLIENT_PORT: [leaving(CLIENT_PORT, packet)]}


# -- a whole migration


def test_a_migration_to_another_address(bench: Bench) -> None:
    """Held, redirected by one MODIFY, released to the new place; the client sees one address."""
    serve(bench, {1: ENDPOINT})
    back = {"address": MOVED, "protocol": TCP_NUMBER, "port": 6380}
    bench.insert("reply", back, "restore_virtual", address=VIRTUAL, port=6379)
    bench.insert("hold_to", {"address": ENDPOINT}, "buffer")
    frame = arriving(CLIENT_PORT, tcp(CLIENT, VIRTUAL))

    held = bench.send(CLIENT_PORT, frame)
    # With the address it came for: where it goes is decided when it is released.
    assert held.up == [(frame, {"ingress_port": CLIENT_PORT, "reason": TO})]

    bench.modify("backend", {"backend_id": 1}, "translate", address=MOVED, port=6380)
    bench.insert("guard", {"ingress_port": SOURCE_PORT, "source": ENDPOINT}, "drop")
    moved = leaving(DESTINATION_PORT, tcp(CLIENT, MOVED, dport=6380))
    assert bench.send_out([(frame, {"past_hold": 1})]).out == {DESTINATION_PORT: [moved]}
    bench.delete("hold_to", {"address": ENDPOINT})
    assert bench.send(CLIENT_PORT, frame).out == {DESTINATION_PORT: [moved]}

    answer = arriving(DESTINATION_PORT, tcp(MOVED, CLIENT, sport=6380, dport=40000))
    seen = leaving(CLIENT_PORT, tcp(VIRTUAL, CLIENT, sport=6379, dport=40000))
    assert bench.send(DESTINATION_PORT, answer).out == {CLIENT_PORT: [seen]}
    dying = arriving(SOURCE_PORT, tcp(ENDPOINT, CLIENT, sport=6380, dport=40000))
    assert bench.send(SOURCE_PORT, dying).drops == {"GUARD": 1}


def test_a_migration_that_keeps_the_address(bench: Bench) -> None:
    bench.insert("hold_to", {"address": ENDPOINT}, "buffer")
    packet = tcp(CLIENT, ENDPOINT)
    frame = arriving(CLIENT_PORT, packet)
    assert bench.send(CLIENT_PORT, frame).out == {}

    bench.modify(
        "route",
        {"destination": f"{ENDPOINT}/32"},
        "forward",
        port=DESTINATION_PORT,
        source_mac=GATEWAY_MAC,
        destination_mac=wire_mac(DESTINATION_PORT),
    )

    released = bench.send_out([(frame, {"past_hold": 1})])
    assert released.out == {DESTINATION_PORT: [leaving(DESTINATION_PORT, packet)]}


def test_the_switch_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """BMv2 and the embedded switch take the same options, but for a double dash."""
    from tests.integration.program_bench import switch_command

    monkeypatch.delenv(SWITCH_VARIABLE, raising=False)
    assert switch_command("/s")[1:3] == ["-m", "flowferry_p4.switch"]
    assert "--" not in switch_command("/s")
    monkeypatch.setenv(SWITCH_VARIABLE, "nice simple_switch_grpc")
    assert switch_command("/s")[-5:] == ["--", "--grpc-server-addr", "unix:/s", "--cpu-port", "510"]
