# SPDX-License-Identifier: Apache-2.0
"""What the P4 program does with a packet, on a real switch, byte for byte, for both IP versions.

The switch is the embedded one. The same test proves BMv2:

    FLOWFERRY_SWITCH=simple_switch_grpc make integration
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.integration.program_bench import (
    GATEWAY_MAC,
    SWITCH_VARIABLE,
    Bench,
    program_bench,
    wire_mac,
)
from tests.integration.program_packets import (
    CLIENT_PORT,
    DESTINATION_PORT,
    IPV4,
    IPV6,
    SOURCE_PORT,
    TCP_NUMBER,
    UDP_NUMBER,
    Network,
    route_hosts,
    solicitation,
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="makes network namespaces: sudo -E python -m pytest tests/integration/test_program.py",
)

TO, FROM = 1, 2  # packet_in.reason


@pytest.fixture(scope="module")
def running() -> Iterator[Bench]:
    with program_bench() as bench:
        yield bench


@pytest.fixture(params=[IPV4, IPV6], ids=str)
def net(request: pytest.FixtureRequest) -> Network:
    network: Network = request.param
    return network


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The client behind port 3, the endpoint behind port 1, where it may move behind port 2."""
    running.reset()
    route_hosts(running)
    return running


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(Ether(src=wire_mac(CLIENT_PORT), dst=GATEWAY_MAC, type=kind) / Raw(payload))


# -- arp


def test_arp_is_answered_out_of_the_port_it_came_from(bench: Bench) -> None:
    bench.insert("arp", {"target": IPV4.network}, "answer", mac=GATEWAY_MAC)

    outcome = bench.send(CLIENT_PORT, IPV4.asks_for(IPV4.endpoint, IPV4.client))

    mac = wire_mac(CLIENT_PORT)
    answer = ARP(op="is-at", hwsrc=GATEWAY_MAC, psrc=IPV4.endpoint, hwdst=mac, pdst=IPV4.client)
    assert outcome.out == {CLIENT_PORT: [bytes(Ether(src=GATEWAY_MAC, dst=mac) / answer)]}
    assert outcome.drops == {}


@pytest.mark.parametrize(
    ("sender", "target"),
    [(IPV4.client, IPV4.far), (IPV4.client, IPV4.client), ("0.0.0.0", IPV4.endpoint)],
    ids=["not here", "announcement", "probe"],
)
def test_arp_that_is_not_for_the_switch(bench: Bench, sender: str, target: str) -> None:
    bench.insert("arp", {"target": IPV4.network}, "answer", mac=GATEWAY_MAC)
    outcome = bench.send(CLIENT_PORT, IPV4.asks_for(target, sender))
    assert (outcome.out, outcome.drops) == ({}, {"ARP": 1})


def test_arp_replies_are_dropped(bench: Bench) -> None:
    bench.insert("arp", {"target": IPV4.network}, "answer", mac=GATEWAY_MAC)
    reply = ARP(
        op="is-at", hwsrc=wire_mac(3), psrc=IPV4.client, hwdst=GATEWAY_MAC, pdst=IPV4.endpoint
    )
    outcome = bench.send(CLIENT_PORT, bytes(Ether(src=wire_mac(3), dst=GATEWAY_MAC) / reply))
    assert (outcome.out, outcome.drops) == ({}, {"ARP": 1})


# -- neighbour discovery


def test_neighbours_are_found_at_the_switch(bench: Bench) -> None:
    """The advertisement is right for whoever checks it: sender, flags, option, checksum."""
    bench.insert("ndp", {"target": IPV6.network}, "advertise", mac=GATEWAY_MAC)

    outcome = bench.send(CLIENT_PORT, IPV6.asks_for(IPV6.endpoint, IPV6.client))

    answer = (
        IPv6(src=IPV6.endpoint, dst=IPV6.client, hlim=255)
        / ICMPv6ND_NA(tgt=IPV6.endpoint, R=1, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=GATEWAY_MAC)
    )
    mac = wire_mac(CLIENT_PORT)
    assert outcome.out == {CLIENT_PORT: [bytes(Ether(src=GATEWAY_MAC, dst=mac) / answer)]}
    assert outcome.drops == {}


def test_the_gateway_is_found_at_its_link_local_address(bench: Bench) -> None:
    bench.insert("ndp", {"target": "fe80::1/128"}, "advertise", mac=GATEWAY_MAC)
    outcome = bench.send(CLIENT_PORT, IPV6.asks_for("fe80::1", "fe80::ff:3"))
    (frame,) = outcome.out[CLIENT_PORT]
    assert Ether(frame)[ICMPv6ND_NA].tgt == "fe80::1"
    assert Ether(frame)[IPv6].dst == "fe80::ff:3"


def test_a_neighbour_that_is_known_already_is_probed(bench: Bench) -> None:
    """Straight to its address and, as is allowed then, without the asker's link address."""
    bench.insert("ndp", {"target": IPV6.network}, "advertise", mac=GATEWAY_MAC)
    probe = solicitation(IPV6.client, IPV6.endpoint)
    probe[IPv6].dst = IPV6.endpoint
    probe[ICMPv6NDOptSrcLLAddr].underlayer.remove_payload()

    outcome = bench.send(CLIENT_PORT, bytes(probe))

    answer = IPv6(src=IPV6.endpoint, dst=IPV6.client, hlim=255)
    answer /= ICMPv6ND_NA(tgt=IPV6.endpoint, R=1, S=1, O=1)
    mac = wire_mac(CLIENT_PORT)
    assert outcome.out == {CLIENT_PORT: [bytes(Ether(src=GATEWAY_MAC, dst=mac) / answer)]}


def _another_network() -> Packet:
    return solicitation(IPV6.client, IPV6.far)


def _duplicate_probe() -> Packet:
    return solicitation("::", IPV6.endpoint)


def _about_himself() -> Packet:
    return solicitation(IPV6.client, IPV6.client)


def _from_another_link() -> Packet:
    packet = solicitation(IPV6.client, IPV6.endpoint)
    packet[IPv6].hlim = 254
    return packet


def _another_option() -> Packet:
    packet = solicitation(IPV6.client, IPV6.endpoint)
    packet[ICMPv6NDOptSrcLLAddr].type = 14
    return packet


def _more_options() -> Packet:
    return solicitation(IPV6.client, IPV6.endpoint) / ICMPv6NDOptSrcLLAddr()


def _another_code() -> Packet:
    packet = solicitation(IPV6.client, IPV6.endpoint)
    packet[2].code = 1
    return packet


@pytest.mark.parametrize(
    "make",
    [
        _another_network, _duplicate_probe, _about_himself, _from_another_link, _another_option,
        _more_options, _another_code,
    ],
)  # fmt: skip
def test_solicitations_that_are_not_for_the_switch(
    bench: Bench, make: Callable[[], Packet]
) -> None:
    bench.insert("ndp", {"target": IPV6.network}, "advertise", mac=GATEWAY_MAC)
    outcome = bench.send(CLIENT_PORT, bytes(make()))
    assert (outcome.out, outcome.drops) == ({}, {"NDP": 1})


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("fe80::3", IPV6.endpoint),
        (IPV6.client, "fe80::100"),
        (IPV6.client, "ff02::fb"),
        ("::", IPV6.endpoint),
    ],
)
def test_what_belongs_on_one_link_stays_there(bench: Bench, source: str, destination: str) -> None:
    bench.insert(
        "route_ipv6", {"destination": "fe80::/10"}, "forward",
        port=1, source_mac=GATEWAY_MAC, destination_mac=wire_mac(1),
    )  # fmt: skip
    for packet in (IPV6.udp(source, destination), IPV6.ip(source, destination) / ICMPv6ND_RS()):
        outcome = bench.send(CLIENT_PORT, IPV6.arriving(CLIENT_PORT, packet))
        assert (outcome.out, outcome.drops) == ({}, {"SCOPE": 1})


# -- route


@pytest.mark.parametrize("kind", ["tcp", "udp", "icmp", "other"])
def test_a_packet_is_routed(bench: Bench, net: Network, kind: str) -> None:
    between = (net.client, net.endpoint)
    packet = {
        "tcp": net.tcp(*between),
        "udp": net.udp(*between),
        "icmp": net.echo(*between),
        "other": net.ip(*between, protocol=47) / Raw(b"anything else"),
    }[kind]
    outcome = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, packet))
    assert outcome.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, packet)]}
    assert (outcome.up, outcome.drops) == ([], {})
    assert bench.packets(net.name("route"), {"destination": f"{net.endpoint}/{net.bits}"}) >= 1


def test_the_longest_prefix_wins(bench: Bench, net: Network) -> None:
    there = {"port": 2, "source_mac": GATEWAY_MAC, "destination_mac": wire_mac(2)}
    bench.insert(net.name("route"), {"destination": net.network}, "forward", **there)
    near, far = net.udp(net.client, net.endpoint), net.udp(net.client, net.near)

    outcome = bench.send(
        CLIENT_PORT, net.arriving(CLIENT_PORT, near), net.arriving(CLIENT_PORT, far)
    )

    assert outcome.out == {1: [net.leaving(1, near)], 2: [net.leaving(2, far)]}


def test_fragments_are_routed_when_nothing_is_translated(bench: Bench, net: Network) -> None:
    fragments = net.fragments(net.client, net.endpoint, data=b"f" * 1200)
    assert len(fragments) == 3
    outcome = bench.send(CLIENT_PORT, *(net.arriving(CLIENT_PORT, each) for each in fragments))
    assert outcome.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, each) for each in fragments]}


def test_the_last_hop_is_dropped_and_counted(bench: Bench, net: Network) -> None:
    packet = net.tcp(net.client, net.endpoint)
    frames = [net.arriving(CLIENT_PORT, packet, ttl) for ttl in (0, 1, 2)]
    outcome = bench.send(CLIENT_PORT, *frames)
    assert outcome.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, packet, 1)]}
    assert outcome.drops == {"TTL": 2}


ROUTED = bytes(IPV4.tcp(IPV4.client, IPV4.endpoint))
ROUTED_IPV6 = bytes(IPV6.tcp(IPV6.client, IPV6.endpoint))


def behind(next_header: int, payload: bytes) -> bytes:
    """An IPv6 packet that says it goes on with this header."""
    return ROUTED_IPV6[:6] + bytes([next_header]) + ROUTED_IPV6[7:40] + payload


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ethernet(0x88B5, bytes(40)), "ETHERTYPE"),
        (ethernet(0x0800, ROUTED[:19]), "MALFORMED"),
        (ethernet(0x0800, ROUTED[:30]), "MALFORMED"),
        (ethernet(0x0800, b"\x65" + ROUTED[1:]), "MALFORMED"),
        (ethernet(0x0800, b"\x44" + ROUTED[1:]), "MALFORMED"),
        (ethernet(0x0806, bytes(10)), "MALFORMED"),
        (ethernet(0x0800, b"\x46" + ROUTED[1:]), "OPTIONS"),
        (ethernet(0x0800, bytes(IPV4.udp(IPV4.client, IPV4.far))), "NO_ROUTE"),
        (ethernet(0x86DD, ROUTED_IPV6[:39]), "MALFORMED"),
        (ethernet(0x86DD, ROUTED_IPV6[:50]), "MALFORMED"),
        (ethernet(0x86DD, b"\x46" + ROUTED_IPV6[1:]), "MALFORMED"),
        (ethernet(0x86DD, behind(44, bytes(7))), "MALFORMED"),
        (ethernet(0x86DD, behind(44, bytes([17]) + bytes(7 + 7))), "MALFORMED"),
        (ethernet(0x86DD, behind(58, bytes(3))), "MALFORMED"),
        (ethernet(0x86DD, behind(58, bytes([135]) + bytes(22))), "MALFORMED"),
        (ethernet(0x86DD, bytes(IPV6.udp(IPV6.client, IPV6.far))), "NO_ROUTE"),
    ],
    ids=[
        "another protocol", "half an ip header", "half a tcp header", "version 6 as ipv4",
        "short header length", "half an arp", "ip options", "no route",
        "half an ipv6 header", "half a tcp header behind ipv6", "version 4 as ipv6",
        "half a fragment header", "half a udp header in a fragment", "half an icmpv6 header",
        "half a solicitation", "no ipv6 route",
    ],
)  # fmt: skip
def test_what_is_not_forwarded_is_counted(bench: Bench, frame: bytes, reason: str) -> None:
    outcome = bench.send(CLIENT_PORT, frame)
    assert (outcome.out, outcome.up, outcome.drops) == ({}, [], {reason: 1})


@pytest.mark.parametrize("options", [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()], ids=["hop", "end"])
def test_ipv6_options_are_routed(bench: Bench, options: Packet) -> None:
    packet = IPV6.ip(IPV6.client, IPV6.endpoint) / options / UDP(sport=1, dport=2) / Raw(b"x")
    outcome = bench.send(CLIENT_PORT, IPV6.arriving(CLIENT_PORT, packet))
    assert outcome.out == {SOURCE_PORT: [IPV6.leaving(SOURCE_PORT, packet)]}


def test_ipv6_options_are_not_translated(bench: Bench) -> None:
    """Behind them nothing is read, so nothing could be put right."""
    IPV6.serve(bench, {1: IPV6.endpoint}, protocol=60, port=0)
    packet = IPV6.ip(IPV6.client, IPV6.virtual) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2)
    outcome = bench.send(CLIENT_PORT, IPV6.arriving(CLIENT_PORT, packet))
    assert (outcome.out, outcome.drops) == ({}, {"OPTIONS": 1})


# -- hold


def test_a_packet_to_a_held_endpoint_goes_up_as_it_arrived(bench: Bench, net: Network) -> None:
    bench.insert(net.name("hold_to"), {"address": net.endpoint}, "buffer")
    frame = net.arriving(CLIENT_PORT, net.tcp(net.client, net.endpoint, data=b"held" * 100), hops=1)

    outcome = bench.send(CLIENT_PORT, frame)

    assert outcome.up == [(frame, {"ingress_port": CLIENT_PORT, "reason": TO})]
    assert (outcome.out, outcome.drops) == ({}, {})
    assert bench.packets(net.name("hold_to"), {"address": net.endpoint}) == 1


def test_a_packet_from_a_held_endpoint_goes_up_as_it_arrived(bench: Bench, net: Network) -> None:
    """Under its own address, although the client knows it by the virtual one."""
    net.serve(bench, {1: net.endpoint})
    bench.insert(net.name("hold_from"), {"address": net.endpoint}, "buffer")
    frame = net.arriving(SOURCE_PORT, net.tcp(net.endpoint, net.client, sport=6380, dport=40000))

    outcome = bench.send(SOURCE_PORT, frame)

    assert outcome.up == [(frame, {"ingress_port": SOURCE_PORT, "reason": FROM})]
    assert (outcome.out, outcome.drops) == ({}, {})
    assert bench.packets(net.name("hold_from"), {"address": net.endpoint}) == 1


def test_a_packet_between_two_held_endpoints_goes_up_once(bench: Bench, net: Network) -> None:
    for table in ("hold_to", "hold_from"):
        for address in (net.endpoint, net.moved):
            bench.insert(net.name(table), {"address": address}, "buffer")
    frame = net.arriving(SOURCE_PORT, net.tcp(net.endpoint, net.moved))
    outcome = bench.send(SOURCE_PORT, frame)
    assert outcome.up == [(frame, {"ingress_port": SOURCE_PORT, "reason": TO})]


@pytest.mark.parametrize("table", ["hold_to", "hold_from"])
def test_a_hold_may_drop_instead(bench: Bench, net: Network, table: str) -> None:
    bench.insert(net.name(table), {"address": net.endpoint}, "drop")
    packet = (
        net.tcp(net.client, net.endpoint)
        if table == "hold_to"
        else net.tcp(net.endpoint, net.client)
    )
    outcome = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, packet))
    assert (outcome.out, outcome.up, outcome.drops) == ({}, [], {"HELD": 1})
    assert bench.packets(net.name(table), {"address": net.endpoint}) == 1


def test_a_hold_concerns_nobody_else(bench: Bench, net: Network) -> None:
    bench.insert(net.name("hold_to"), {"address": net.moved}, "buffer")
    bench.insert(net.name("hold_from"), {"address": net.moved}, "buffer")
    packet = net.tcp(net.client, net.endpoint)
    outcome = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, packet))
    assert (outcome.out, outcome.up) == ({SOURCE_PORT: [net.leaving(SOURCE_PORT, packet)]}, [])


# -- packet-out


def test_a_packet_out_leaves_as_it_is(bench: Bench, net: Network) -> None:
    """Not routed, not held, not repaired: whoever sends it knows what he does."""
    bench.insert(net.name("hold_to"), {"address": net.endpoint}, "buffer")
    frames = [
        net.arriving(CLIENT_PORT, net.tcp(net.client, net.endpoint), hops=1),
        ethernet(0x88B5, bytes(40)),
    ]
    outcome = bench.send_out([(frame, {"egress_port": 2, "past_hold": 0}) for frame in frames])
    assert (outcome.out, outcome.up, outcome.drops) == ({2: frames}, [], {})


def test_past_the_hold_and_the_guard(bench: Bench, net: Network) -> None:
    for table in ("hold_to", "hold_from"):
        for address in (net.client, net.endpoint):
            bench.insert(net.name(table), {"address": address}, "buffer")
    bench.insert(net.name("guard"), {"ingress_port": 510, "source": net.client}, "drop")
    packet = net.tcp(net.client, net.endpoint)

    outcome = bench.send_out(
        [(net.arriving(CLIENT_PORT, packet), {"past_hold": 1, "egress_port": 2})]
    )

    assert outcome.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, packet)]}
    assert (outcome.up, outcome.drops) == ([], {})


def test_past_the_hold_the_pipeline_is_the_same(bench: Bench, net: Network) -> None:
    """Translated like any packet, and dropped for the same reasons."""
    net.serve(bench, {1: net.endpoint})
    past = {"past_hold": 1}
    good = net.arriving(CLIENT_PORT, net.tcp(net.client, net.virtual))
    old = net.arriving(CLIENT_PORT, net.tcp(net.client, net.virtual), hops=1)
    outcome = bench.send_out(
        [(good, past), (old, past), (net.asks_for(net.endpoint, net.client), past)]
    )
    assert outcome.out == {
        SOURCE_PORT: [net.leaving(SOURCE_PORT, net.tcp(net.client, net.endpoint, dport=6380))]
    }
    assert outcome.drops == {"TTL": 1, "ARP" if net.version == 4 else "NDP": 1}


def test_held_packets_are_released_in_order(bench: Bench, net: Network) -> None:
    bench.insert(net.name("hold_to"), {"address": net.endpoint}, "buffer")
    packets = [
        net.tcp(net.client, net.endpoint, data=b"number %d" % number) for number in range(200)
    ]
    held = bench.send(CLIENT_PORT, *(net.arriving(CLIENT_PORT, each) for each in packets)).up
    assert len(held) == len(packets)

    outcome = bench.send_out([(payload, {"past_hold": 1}) for payload, _ in held])

    assert outcome.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, each) for each in packets]}


# -- service and reply


@pytest.mark.parametrize("length", [0, 1, 2, 999, 1400])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_is_translated_there_and_back(
    bench: Bench, net: Network, protocol: str, length: int
) -> None:
    make, number = (net.tcp, TCP_NUMBER) if protocol == "tcp" else (net.udp, UDP_NUMBER)
    net.serve(bench, {1: net.endpoint}, number, 80)
    data = b"\xff" * length

    there = bench.send(CLIENT_PORT, net.arriving(3, make(net.client, net.virtual, 40000, 80, data)))
    assert there.out == {1: [net.leaving(1, make(net.client, net.endpoint, 40000, 81, data))]}

    back = bench.send(SOURCE_PORT, net.arriving(1, make(net.endpoint, net.client, 81, 40000, data)))
    assert back.out == {3: [net.leaving(3, make(net.virtual, net.client, 80, 40000, data))]}
    assert (there.drops, back.drops) == ({}, {})
    assert bench.packets(net.name("backend"), {"backend_id": 1}) == 1


def test_a_udp_checksum_that_is_not_there_stays_away(bench: Bench, net: Network) -> None:
    net.serve(bench, {1: net.endpoint}, UDP_NUMBER, 53)
    packet, wanted = net.udp(net.client, net.virtual), net.udp(net.client, net.endpoint, dport=54)
    packet[UDP].chksum = wanted[UDP].chksum = 0
    outcome = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, packet))
    assert outcome.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, wanted)]}


@pytest.mark.parametrize("length", [0, 1, 300])
def test_icmp_can_be_a_service(bench: Bench, net: Network, length: int) -> None:
    net.serve(bench, {1: net.endpoint}, net.echo_number, 0)
    data = b"ping" * length
    outcome = bench.send(CLIENT_PORT, net.arriving(3, net.echo(net.client, net.virtual, data)))
    assert outcome.out == {1: [net.leaving(1, net.echo(net.client, net.endpoint, data))]}


def test_fragments_of_a_service_are_dropped(bench: Bench, net: Network) -> None:
    net.serve(bench, {1: net.endpoint}, UDP_NUMBER, 53)
    first, second = net.fragments(net.client, net.virtual, data=b"f" * 1000)
    outcome = bench.send(
        CLIENT_PORT, net.arriving(CLIENT_PORT, first), net.arriving(CLIENT_PORT, second)
    )
    # The second has no ports, so it is no service's; nobody routes the virtual address either.
    assert (outcome.out, outcome.drops) == ({}, {"FRAGMENT": 1, "NO_ROUTE": 1})


def test_a_flow_stays_on_its_bucket(bench: Bench, net: Network) -> None:
    """The bucket is the CRC-32 of the flow as on the wire, so that clients can predict it."""
    net.serve(bench, {1: net.endpoint, 2: net.moved, 3: net.client})
    ports = range(40000, 40060)

    outcome = bench.send(
        2, *(net.arriving(2, net.tcp(net.far, net.virtual, port)) for port in ports)
    )

    wanted: dict[int, list[bytes]] = {}
    for port in ports:
        flow = net.packed(net.far) + net.packed(net.virtual) + bytes([TCP_NUMBER])
        flow += port.to_bytes(2, "big") + (6379).to_bytes(2, "big")
        address, out = ((net.endpoint, 1), (net.moved, 2), (net.client, 3))[zlib.crc32(flow) % 3]
        wanted.setdefault(out, []).append(net.leaving(out, net.tcp(net.far, address, port, 6380)))
    assert set(wanted) == {1, 2, 3}
    assert outcome.out == wanted


@pytest.mark.parametrize("lack", ["buckets", "bucket", "backend"])
def test_a_service_without_a_backend_drops(bench: Bench, net: Network, lack: str) -> None:
    net.serve(bench, {1: net.endpoint})
    if lack == "buckets":
        where = {"address": net.virtual, "protocol": TCP_NUMBER, "port": 6379}
        bench.modify(net.name("service"), where, "select_bucket", service_id=5, bucket_count=0)
    elif lack == "bucket":
        bench.delete("bucket", {"service_id": 5, "bucket": 0})
    else:
        bench.delete(net.name("backend"), {"backend_id": 1})
    outcome = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, net.tcp(net.client, net.virtual)))
    assert (outcome.out, outcome.drops) == ({}, {"NO_BACKEND": 1})


# -- guard


def test_a_guarded_source_is_not_heard(bench: Bench, net: Network) -> None:
    """Not from where it was; from where it is now it is."""
    bench.insert(net.name("guard"), {"ingress_port": SOURCE_PORT, "source": net.endpoint}, "drop")
    bench.insert(net.name("hold_from"), {"address": net.endpoint}, "buffer")
    packet = net.tcp(net.endpoint, net.client)

    old = bench.send(SOURCE_PORT, net.arriving(SOURCE_PORT, packet))
    assert (old.out, old.up, old.drops) == ({}, [], {"GUARD": 1})

    bench.delete(net.name("hold_from"), {"address": net.endpoint})
    new = bench.send(DESTINATION_PORT, net.arriving(DESTINATION_PORT, packet))
    assert new.out == {CLIENT_PORT: [net.leaving(CLIENT_PORT, packet)]}


# -- a whole migration


def test_a_migration_to_another_address(bench: Bench, net: Network) -> None:
    """Held, redirected by one MODIFY, released to the new place; the client sees one address."""
    net.serve(bench, {1: net.endpoint})
    back = {"address": net.moved, "protocol": TCP_NUMBER, "port": 6380}
    bench.insert(
        net.name("reply"), back, net.name("restore_virtual"), address=net.virtual, port=6379
    )
    bench.insert(net.name("hold_to"), {"address": net.endpoint}, "buffer")
    frame = net.arriving(CLIENT_PORT, net.tcp(net.client, net.virtual))

    held = bench.send(CLIENT_PORT, frame)
    # With the address it came for: where it goes is decided when it is released.
    assert held.up == [(frame, {"ingress_port": CLIENT_PORT, "reason": TO})]

    bench.modify(
        net.name("backend"), {"backend_id": 1}, net.name("translate"), address=net.moved, port=6380
    )
    bench.insert(net.name("guard"), {"ingress_port": SOURCE_PORT, "source": net.endpoint}, "drop")
    moved = net.leaving(DESTINATION_PORT, net.tcp(net.client, net.moved, dport=6380))
    assert bench.send_out([(frame, {"past_hold": 1})]).out == {DESTINATION_PORT: [moved]}
    bench.delete(net.name("hold_to"), {"address": net.endpoint})
    assert bench.send(CLIENT_PORT, frame).out == {DESTINATION_PORT: [moved]}

    answer = net.arriving(DESTINATION_PORT, net.tcp(net.moved, net.client, sport=6380, dport=40000))
    seen = net.leaving(CLIENT_PORT, net.tcp(net.virtual, net.client, sport=6379, dport=40000))
    assert bench.send(DESTINATION_PORT, answer).out == {CLIENT_PORT: [seen]}
    dying = net.arriving(SOURCE_PORT, net.tcp(net.endpoint, net.client, sport=6380, dport=40000))
    assert bench.send(SOURCE_PORT, dying).drops == {"GUARD": 1}


def test_a_migration_that_keeps_the_address(bench: Bench, net: Network) -> None:
    bench.insert(net.name("hold_to"), {"address": net.endpoint}, "buffer")
    packet = net.tcp(net.client, net.endpoint)
    frame = net.arriving(CLIENT_PORT, packet)
    assert bench.send(CLIENT_PORT, frame).out == {}

    bench.modify(
        net.name("route"),
        {"destination": f"{net.endpoint}/{net.bits}"},
        "forward",
        port=DESTINATION_PORT,
        source_mac=GATEWAY_MAC,
        destination_mac=wire_mac(DESTINATION_PORT),
    )

    released = bench.send_out([(frame, {"past_hold": 1})])
    assert released.out == {DESTINATION_PORT: [net.leaving(DESTINATION_PORT, packet)]}


def test_the_switch_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """BMv2 and the embedded switch take the same options, but for a double dash."""
    from tests.integration.program_bench import switch_command

    monkeypatch.delenv(SWITCH_VARIABLE, raising=False)
    assert switch_command("/s")[1:3] == ["-m", "flowferry_p4.switch"]
    assert "--" not in switch_command("/s")
    monkeypatch.setenv(SWITCH_VARIABLE, "nice simple_switch_grpc")
    assert switch_command("/s")[-5:] == ["--", "--grpc-server-addr", "unix:/s", "--cpu-port", "510"]
