# SPDX-License-Identifier: Apache-2.0
"""The agent's passes on a switch, with packets: what the objects say is what packets do.

On BMv2 as well: make integration FLOWFERRY_BMV2=/path/to/simple_switch_grpc
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flowferry_p4.agent import Attachment, Cluster, Result, Settings, Uplink, cluster, reconcile
from flowferry_p4.agent.session import open_session
from flowferry_p4.client import Entry, Session
from flowferry_p4.client.traffic import EndpointTraffic
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from tests.integration.program_bench import (
    GATEWAY_MAC,
    PORT_MARKS,
    PORTS,
    Bench,
    bmv2_too,
    program_bench,
    wire_mac,
)
from tests.integration.switch_bench import wait_until
from tests.unit.p4.agent import kube

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

UPLINK_PORT, POD_PORT, OTHER_PORT = 1, 2, 3
ROUTER_MAC = "02:ff:00:00:00:99"
UPLINK = Uplink(UPLINK_PORT, wire_mac(UPLINK_PORT), ROUTER_MAC)
HERE = Settings("node1", gateway_mac=GATEWAY_MAC, uplink=UPLINK)
CLIENT, VIRTUAL, POD, OTHER, AWAY = (
    "203.0.113.5",
    "203.0.113.80",
    "198.19.9.21",
    "198.19.9.22",
    "198.19.8.23",
)
POD6, VIRTUAL6, CLIENT6 = "2001:2:0:9::21", "2001:db8::80", "2001:db8::5"


@pytest.fixture(scope="module", params=bmv2_too())
def running(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with program_bench(request.param) as bench:
        yield bench


@pytest.fixture
def bench(running: Bench) -> Bench:
    running.reset()
    return running


def attachments() -> list[Attachment]:
    """Two pods, and the marks of the bench, which would go otherwise as nobody wants them."""
    pods = [
        Attachment(POD_PORT, wire_mac(POD_PORT), (POD, POD6), "uid-a"),
        Attachment(OTHER_PORT, wire_mac(OTHER_PORT), (OTHER,), "uid-b"),
    ]
    return pods + [Attachment(n, wire_mac(n), (PORT_MARKS[n],)) for n in PORTS]


def web(*endpoints: kube.Object) -> Cluster:
    service = kube.service("web", outside=(VIRTUAL, VIRTUAL6))
    slices = [
        kube.slice_of("web", *endpoints),
        kube.slice_of("web", kube.endpoint(POD6), family="IPv6"),
    ]
    return cluster([], [kube.node("node1"), kube.node("node2")], [service], slices)


@contextmanager
def agent(bench: Bench) -> Iterator[Session]:
    """A session as the agent has it: beside the bench's, which is primary for everybody else.

    BMv2 knows no roles, so that the bench is not primary meanwhile.
    """
    with open_session(bench.session.peer.address, device_id=1) as session:
        yield session
    wait_until("the bench is primary", lambda: bench.session.is_primary)


def pass_over(bench: Bench, known: Cluster) -> Result:
    """By an agent that was started for it, and ends."""
    with agent(bench) as session:
        return reconcile(session, known, attachments, HERE)


def settle(bench: Bench, known: Cluster) -> Result:
    """A pass, and nothing of what it announces is taken for an answer to what is sent later."""
    results: list[Result] = []
    bench.watch(lambda: results.append(pass_over(bench, known)))
    return results[0]


def tcp(
    source: str, destination: str, sport: int, dport: int, port: int, flags: str = "S"
) -> bytes:
    ip = IPv6 if ":" in source else IP
    link = Ether(src=wire_mac(port), dst=GATEWAY_MAC)
    return bytes(
        link / ip(src=source, dst=destination) / TCP(sport=sport, dport=dport, flags=flags)
    )


def seen(frame: bytes) -> tuple[str, str, int, int, str]:
    """Addresses, ports and destination on the link of a frame that left."""
    packet = Ether(frame)
    ip = packet.payload
    return ip.src, ip.dst, ip.payload.sport, ip.payload.dport, packet.dst


def test_a_client_outside_reaches_pods_and_hears_the_virtual_address(bench: Bench) -> None:
    everywhere = [kube.endpoint(POD), kube.endpoint(OTHER), kube.endpoint(AWAY, "node2")]
    result = settle(bench, web(*everywhere))
    assert not result.problems
    flows = [tcp(CLIENT, VIRTUAL, 40000 + n, 80, UPLINK_PORT) for n in range(60)]
    outcome = bench.send(UPLINK_PORT, *flows)
    assert not outcome.drops
    by_port = {port: [seen(frame) for frame in frames] for port, frames in outcome.out.items()}
    assert {way[1] for way in by_port[POD_PORT]} == {POD}
    assert {way[1] for way in by_port[OTHER_PORT]} == {OTHER}
    assert {(way[1], way[4]) for way in by_port[UPLINK_PORT]} == {(AWAY, ROUTER_MAC)}
    assert sum(map(len, by_port.values())) == 60
    assert min(map(len, by_port.values())) > 5, "hardly spread"
    answer = bench.send(POD_PORT, tcp(POD, CLIENT, 8080, 40000, POD_PORT))
    (frame,) = answer.out[UPLINK_PORT]
    assert seen(frame) == (VIRTUAL, CLIENT, 80, 40000, ROUTER_MAC)


def test_both_ip_versions(bench: Bench) -> None:
    settle(bench, web(kube.endpoint(POD)))
    outcome = bench.send(UPLINK_PORT, tcp(CLIENT6, VIRTUAL6, 40000, 80, UPLINK_PORT))
    assert [seen(frame)[1] for frame in outcome.out[POD_PORT]] == [POD6]
    outcome = bench.send(POD_PORT, tcp(POD6, CLIENT6, 8080, 40000, POD_PORT))
    assert [seen(frame)[0] for frame in outcome.out[UPLINK_PORT]] == [VIRTUAL6]


def test_a_pod_on_the_node_reaches_another_one_through_a_service(bench: Bench) -> None:
    settle(bench, web(kube.endpoint(POD)))
    outcome = bench.send(OTHER_PORT, tcp(OTHER, VIRTUAL, 40000, 80, OTHER_PORT))
    assert [seen(f)[:4] for f in outcome.out[POD_PORT]] == [(OTHER, POD, 40000, 8080)]
    outcome = bench.send(POD_PORT, tcp(POD, OTHER, 8080, 40000, POD_PORT))
    assert [seen(f)[:4] for f in outcome.out[OTHER_PORT]] == [(VIRTUAL, OTHER, 80, 40000)]


def test_the_gateway_and_the_virtual_address_answer(bench: Bench) -> None:
    pass_over(bench, web(kube.endpoint(POD)))
    for asked, port, mac in (
        ("169.254.1.1", POD_PORT, GATEWAY_MAC),
        (POD, UPLINK_PORT, UPLINK.mac),
    ):
        ask = ARP(op=1, hwsrc=wire_mac(port), psrc="198.19.9.99", pdst=asked)
        outcome = bench.send(port, bytes(Ether(src=wire_mac(port), dst="ff:ff:ff:ff:ff:ff") / ask))
        (frame,) = outcome.out[port]
        assert (Ether(frame)[ARP].psrc, Ether(frame)[ARP].hwsrc) == (asked, mac)


def test_what_has_come_here_is_announced_once(bench: Bench) -> None:
    """The owner of outside addresses is known by both nodes; so this looks at the pod's alone."""
    known = web(kube.endpoint(POD))
    outcome = bench.watch(lambda: pass_over(bench, known))
    told = [Ether(frame) for frame in outcome.out[UPLINK_PORT]]
    arp = {frame[ARP].psrc: frame for frame in told if ARP in frame}
    assert (arp[POD].src, arp[POD].dst) == (UPLINK.mac, "ff:ff:ff:ff:ff:ff")
    assert (arp[POD][ARP].hwsrc, arp[POD][ARP].pdst) == (UPLINK.mac, POD)
    ndp = {frame[ICMPv6ND_NA].tgt: frame for frame in told if ICMPv6ND_NA in frame}
    assert ndp[POD6][ICMPv6NDOptDstLLAddr].lladdr == UPLINK.mac
    assert (ndp[POD6][IPv6].dst, ndp[POD6][IPv6].hlim) == ("ff02::1", 255)
    checksum = ndp[POD6][ICMPv6ND_NA].cksum
    del ndp[POD6][ICMPv6ND_NA].cksum
    assert Ether(bytes(ndp[POD6]))[ICMPv6ND_NA].cksum == checksum
    assert bench.watch(lambda: pass_over(bench, known)).out == {}


def test_an_agent_that_starts_again_changes_nothing(bench: Bench) -> None:
    known = web(kube.endpoint(POD), kube.endpoint(OTHER))
    assert pass_over(bench, known).writes > 251
    assert pass_over(bench, known).writes == 0


def test_a_scale_down_touches_the_flows_of_nobody_else(bench: Bench) -> None:
    """What changes beside the buckets of the one that went is counted, and little."""
    ends = [kube.endpoint(POD), kube.endpoint(OTHER), kube.endpoint(AWAY, "node2")]
    settle(bench, web(*ends))
    flows = [tcp(CLIENT, VIRTUAL, 40000 + n, 80, UPLINK_PORT) for n in range(200)]

    def chosen() -> dict[int, str]:
        outcome = bench.send(UPLINK_PORT, *flows)
        return {seen(f)[2]: seen(f)[1] for frames in outcome.out.values() for f in frames}

    before = chosen()
    settle(bench, web(*ends[:2]))
    after = chosen()
    lived = [port for port, backend in before.items() if backend != AWAY]
    torn = [port for port in lived if before[port] != after[port]]
    assert len(lived) > 80
    assert len(torn) < len(lived) * 0.15
    assert AWAY not in after.values()


def test_a_scale_up_touches_no_flow(bench: Bench) -> None:
    """Those that have begun stay, though a third of the buckets leads elsewhere."""
    ends = [kube.endpoint(POD), kube.endpoint(OTHER), kube.endpoint(AWAY, "node2")]

    def chosen(flags: str) -> dict[int, str]:
        flows = [tcp(CLIENT, VIRTUAL, 50000 + n, 80, UPLINK_PORT, flags) for n in range(100)]
        outcome = bench.send(UPLINK_PORT, *flows)
        return {seen(f)[2]: seen(f)[1] for frames in outcome.out.values() for f in frames}

    settle(bench, web(*ends[:2]))
    before = chosen("S")
    assert set(before.values()) == {POD, OTHER}
    settle(bench, web(*ends))
    assert chosen("A") == before
    assert AWAY in chosen("S").values()


def test_entries_that_somebody_else_wrote_are_put_right(bench: Bench) -> None:
    known = web(kube.endpoint(POD))
    pass_over(bench, known)
    bench.delete("bucket", bench.session.read("bucket")[7].match)
    bench.route("198.51.100.1", OTHER_PORT)
    bench.modify("route", {"destination": f"{POD}/32"}, "forward", port=OTHER_PORT,
                 source_mac=GATEWAY_MAC, destination_mac=wire_mac(OTHER_PORT))  # fmt: skip
    assert pass_over(bench, known).writes == 3
    assert bench.session.read("route", {"destination": "198.51.100.1/32"}) == []
    assert pass_over(bench, known).writes == 0


def test_a_migration_by_its_session_is_left_alone(bench: Bench) -> None:
    """The keeper holds and redirects in a role of its own, while the agent passes over it."""
    known = web(kube.endpoint(POD))
    pass_over(bench, known)
    traffic = EndpointTraffic(bench.session, POD)
    traffic.hold_ingress()
    traffic.redirect(OTHER_PORT, wire_mac(OTHER_PORT))
    result = pass_over(bench, known)
    assert (result.writes, result.deferred) == (0, ["default/web"])
    assert traffic.port() == OTHER_PORT
    bench.transmit(UPLINK_PORT, [tcp(CLIENT, VIRTUAL, 40000, 80, UPLINK_PORT)])
    outcome = bench.watch(lambda: traffic.release({}))
    assert [seen(frame)[1] for frame in outcome.out[OTHER_PORT]] == [POD]
    # Nobody but this test has the pod on another port: so the agent leads back where it is.
    assert pass_over(bench, known).writes == 1
    assert traffic.port() == POD_PORT


def test_a_hold_of_another_address_defers_nothing(bench: Bench) -> None:
    known = web(kube.endpoint(POD))
    pass_over(bench, known)
    bench.insert("hold_to", {"address": "198.19.9.77"}, "buffer")
    result = pass_over(bench, web(kube.endpoint(OTHER)))
    assert not result.deferred
    assert [e.params["address"] for e in bench.session.read("backend")] == [OTHER]
    assert bench.session.read("hold_to", {"address": "198.19.9.77"}) == [
        Entry("hold_to", {"address": "198.19.9.77"}, "buffer")
    ]
