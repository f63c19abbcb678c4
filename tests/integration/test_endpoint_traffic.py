# SPDX-License-Identifier: Apache-2.0
"""What EndpointTraffic makes a switch do: an endpoint with one address, or with two, is one."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator

import pytest
from flowferry_p4.client import Entry, P4Error, Update, WriteError
from flowferry_p4.client.traffic import EndpointTraffic
from scapy.layers.l2 import Ether

from tests.integration.program_bench import DEADLINE, GATEWAY_MAC, Bench, program_bench, wire_mac
from tests.integration.program_packets import (
    CLIENT_PORT,
    DESTINATION_PORT,
    IPV4,
    IPV6,
    SOURCE_PORT,
    UDP_NUMBER,
    Network,
    route_hosts,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

FAMILIES = [(IPV4,), (IPV6,), (IPV4, IPV6)]


@pytest.fixture(scope="module")
def running() -> Iterator[Bench]:
    with program_bench() as bench:
        yield bench


@pytest.fixture
def bench(running: Bench) -> Bench:
    running.reset()
    route_hosts(running)
    return running


@pytest.fixture(params=FAMILIES, ids=lambda networks: "+".join(map(str, networks)))
def networks(request: pytest.FixtureRequest) -> tuple[Network, ...]:
    found: tuple[Network, ...] = request.param
    return found


def endpoint(bench: Bench, networks: tuple[Network, ...], *more: str) -> EndpointTraffic:
    return EndpointTraffic(bench.session, [n.endpoint for n in networks] + list(more))


def requests(networks: tuple[Network, ...], data: bytes = b"ask") -> list[bytes]:
    """TCP and UDP to the endpoint, in each IP version."""
    return [
        network.arriving(CLIENT_PORT, make(network.client, network.endpoint, data=data))
        for network in networks
        for make in (network.tcp, network.udp)
    ]


def answers(networks: tuple[Network, ...], data: bytes = b"say") -> list[bytes]:
    return [
        network.arriving(SOURCE_PORT, make(network.endpoint, network.client, data=data))
        for network in networks
        for make in (network.tcp, network.udp)
    ]


def routed(port: int, frames: list[bytes]) -> list[bytes]:
    """Frames as they leave by a port: one hop less, from the gateway's address."""
    result = []
    for frame in frames:
        packet = Ether(frame).payload
        if packet.version == 4:
            del packet.chksum  # covers the hops
        result.append((IPV4 if packet.version == 4 else IPV6).leaving(port, packet))
    return result


def wait_for_buffer(traffic: EndpointTraffic, packets: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while traffic.buffer.packets < packets:
        if time.monotonic() > deadline:
            raise AssertionError(f"{traffic.buffer.packets} of {packets} packets were buffered")
        time.sleep(0.01)


def send_to_buffer(bench: Bench, traffic: EndpointTraffic, port: int, frames: list[bytes]) -> None:
    """The session's packets go to the endpoint's buffer now, so the bench cannot see them."""
    held = traffic.buffer.packets
    bench.transmit(port, frames)
    wait_for_buffer(traffic, held + len(frames))


def test_everything_is_held_and_released_in_order(
    bench: Bench, networks: tuple[Network, ...]
) -> None:
    traffic = endpoint(bench, networks)
    assert not traffic.is_held()
    traffic.hold_ingress()
    traffic.hold_egress()
    traffic.hold_egress()  # a second time it is there already
    assert traffic.is_held()
    asked, answered = requests(networks), answers(networks)
    send_to_buffer(bench, traffic, CLIENT_PORT, asked)
    send_to_buffer(bench, traffic, SOURCE_PORT, answered)

    outcome = bench.watch(lambda: traffic.release({SOURCE_PORT: math.inf}))

    assert outcome.out == {
        SOURCE_PORT: routed(SOURCE_PORT, asked),
        CLIENT_PORT: routed(CLIENT_PORT, answered),
    }
    assert not traffic.is_held()


def test_without_a_buffer_everything_is_dropped_until_the_release(
    bench: Bench, networks: tuple[Network, ...]
) -> None:
    traffic = EndpointTraffic(bench.session, [n.endpoint for n in networks], buffers=False)
    traffic.hold_ingress()
    traffic.hold_egress()
    asked, answered = requests(networks), answers(networks)
    assert bench.send(CLIENT_PORT, *asked).out == {}
    assert bench.send(SOURCE_PORT, *answered).out == {}
    traffic.let_through()
    assert bench.send(CLIENT_PORT, *asked).out == {}  # held again
    # Before anything is frozen answers pass.
    assert bench.send(SOURCE_PORT, *answered).out == {CLIENT_PORT: routed(CLIENT_PORT, answered)}

    outcome = bench.watch(lambda: traffic.release({SOURCE_PORT: math.inf}))

    assert outcome.out == {} and traffic.buffer.packets == 0
    assert bench.send(CLIENT_PORT, *asked).out == {SOURCE_PORT: routed(SOURCE_PORT, asked)}


def test_packets_to_an_endpoint_are_counted(bench: Bench, networks: tuple[Network, ...]) -> None:
    traffic, asked = endpoint(bench, networks), requests(networks)
    before = traffic.packets()
    bench.send(CLIENT_PORT, *asked)
    assert traffic.packets() - before == len(asked)


def test_answers_of_another_port_or_time_are_not_released(
    bench: Bench, networks: tuple[Network, ...]
) -> None:
    traffic = endpoint(bench, networks)
    traffic.hold_ingress()
    traffic.hold_egress()
    send_to_buffer(bench, traffic, SOURCE_PORT, answers(networks, b"before"))
    frozen = time.monotonic()
    send_to_buffer(bench, traffic, SOURCE_PORT, answers(networks, b"after"))
    send_to_buffer(bench, traffic, DESTINATION_PORT, answers(networks, b"elsewhere"))

    outcome = bench.watch(lambda: traffic.release({SOURCE_PORT: frozen}))

    assert outcome.out == {CLIENT_PORT: routed(CLIENT_PORT, answers(networks, b"before"))}


def test_only_a_part_of_it_may_be_held(bench: Bench) -> None:
    """A hold that another set on one of the addresses is seen, and ended by a release."""
    bench.insert("hold_from_ipv6", {"address": IPV6.endpoint}, "buffer")
    traffic = endpoint(bench, (IPV4, IPV6))
    assert traffic.is_held()
    traffic.release({})
    assert not traffic.is_held()


def test_a_guard_concerns_every_address(bench: Bench, networks: tuple[Network, ...]) -> None:
    traffic = endpoint(bench, networks)
    traffic.guard(SOURCE_PORT)
    traffic.guard(SOURCE_PORT)
    frames = answers(networks)
    assert bench.send(SOURCE_PORT, *frames).drops == {"GUARD": len(frames)}
    traffic.unguard(SOURCE_PORT)
    traffic.unguard(SOURCE_PORT)
    assert bench.send(SOURCE_PORT, *frames).out == {CLIENT_PORT: routed(CLIENT_PORT, frames)}


# -- redirect to another port


def test_a_redirect_turns_every_address(bench: Bench, networks: tuple[Network, ...]) -> None:
    traffic = endpoint(bench, networks)
    assert traffic.port() == SOURCE_PORT
    traffic.redirect(DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    route = traffic.route()
    assert route is not None
    assert (route.params["port"], route.params["source_mac"]) == (DESTINATION_PORT, GATEWAY_MAC)
    assert traffic.port() == DESTINATION_PORT
    frames = requests(networks)
    outcome = bench.send(CLIENT_PORT, *frames)
    assert outcome.out == {DESTINATION_PORT: routed(DESTINATION_PORT, frames)}
    traffic.redirect(SOURCE_PORT, wire_mac(SOURCE_PORT))
    assert traffic.port() == SOURCE_PORT


def test_the_first_address_is_turned_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its route says whether the redirect took place."""
    traffic = endpoint(bench, (IPV4, IPV6))
    order: list[str] = []
    write = bench.session.write

    def note(updates: list[Update]) -> None:
        order.extend(update.entry.table for update in updates)
        write(updates)

    monkeypatch.setattr(bench.session, "write", note)
    traffic.redirect(DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    assert order == ["route_ipv6", "route"]


def test_a_redirect_that_fails_is_undone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = endpoint(bench, (IPV4, IPV6))
    write = bench.session.write

    def refuse_ipv4(updates: list[Update]) -> None:
        if updates[0].entry.table == "route":
            raise WriteError([(0, "INTERNAL", "refused")])
        write(updates)

    monkeypatch.setattr(bench.session, "write", refuse_ipv4)
    with pytest.raises(WriteError, match="refused"):
        traffic.redirect(DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    assert traffic.port() == SOURCE_PORT


def test_without_a_route_of_its_own_nothing_is_turned(
    bench: Bench, networks: tuple[Network, ...]
) -> None:
    last = networks[-1]
    bench.delete(last.name("route"), {"destination": f"{last.endpoint}/{last.bits}"})
    traffic = endpoint(bench, networks)
    assert traffic.port() is None
    with pytest.raises(P4Error, match=f"no route entry for {last.endpoint}/{last.bits}"):
        traffic.redirect(DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    if len(networks) > 1:
        route = traffic.route()
        assert route is not None
        assert route.params["port"] == SOURCE_PORT


def test_an_endpoint_has_an_address(bench: Bench) -> None:
    with pytest.raises(ValueError, match="at least one address"):
        EndpointTraffic(bench.session, [])


# -- redirect to another address


def test_services_follow_to_another_address(bench: Bench, networks: tuple[Network, ...]) -> None:
    """Two ports of one virtual address; clients see that address before and after."""
    net = networks[-1]
    net.serve(bench, {1: net.endpoint}, UDP_NUMBER, 53)
    bench.insert(
        net.name("service"), {"address": net.virtual, "protocol": UDP_NUMBER, "port": 80},
        "select_bucket", service_id=6, bucket_count=1,
    )  # fmt: skip
    bench.insert("bucket", {"service_id": 6, "bucket": 0}, "to_backend", backend_id=2)
    net.translate(bench, 2, net.endpoint, 8080)
    bench.insert(
        net.name("reply"), {"address": net.endpoint, "protocol": UDP_NUMBER, "port": 8080},
        net.name("restore_virtual"), address=net.virtual, port=80,
    )  # fmt: skip
    traffic = endpoint(bench, (net,), net.moved)
    assert [e.match["backend_id"] for e in traffic.backends(net.endpoint)] == [1, 2]

    traffic.translate(net.endpoint, net.moved)
    traffic.translate(net.endpoint, net.moved)  # has happened already

    assert traffic.backends(net.endpoint) == []
    assert [e.params["port"] for e in traffic.backends(net.moved)] == [54, 8080]
    for virtual, own in ((53, 54), (80, 8080)):
        there = net.arriving(CLIENT_PORT, net.udp(net.client, net.virtual, 40000, virtual))
        seen = net.leaving(DESTINATION_PORT, net.udp(net.client, net.moved, 40000, own))
        assert bench.send(CLIENT_PORT, there).out == {DESTINATION_PORT: [seen]}
        back = net.arriving(DESTINATION_PORT, net.udp(net.moved, net.client, own, 40000))
        known = net.leaving(CLIENT_PORT, net.udp(net.virtual, net.client, virtual, 40000))
        assert bench.send(DESTINATION_PORT, back).out == {CLIENT_PORT: [known]}
    traffic.forget_replies(net.endpoint)
    kept = bench.session.read(net.name("reply"))
    assert {entry.match["address"] for entry in kept} == {net.moved}


def test_translating_what_no_service_has(bench: Bench) -> None:
    traffic = endpoint(bench, (IPV4,), IPV4.moved)
    with pytest.raises(P4Error, match=f"no backend entry that translates to {IPV4.endpoint}"):
        traffic.translate(IPV4.endpoint, IPV4.moved)


def test_an_address_gets_a_route_and_loses_it(bench: Bench, networks: tuple[Network, ...]) -> None:
    net = networks[-1]
    traffic = endpoint(bench, networks)
    assert not traffic.has_entries(net.near)
    traffic.add_route(net.near, DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    traffic.add_route(net.near, DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    assert traffic.has_entries(net.near)
    packet = net.udp(net.client, net.near)
    outcome = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, packet))
    assert outcome.out == {DESTINATION_PORT: [net.leaving(DESTINATION_PORT, packet)]}
    traffic.forget_route(net.near)
    traffic.forget_route(net.near)
    assert not traffic.has_entries(net.near)


def test_an_address_of_a_service_is_known(bench: Bench, networks: tuple[Network, ...]) -> None:
    net = networks[-1]
    net.serve(bench, {1: net.near})
    traffic = endpoint(bench, networks)
    assert traffic.has_entries(net.near)
    bench.delete(net.name("backend"), {"backend_id": 1})
    assert traffic.has_entries(net.near)  # answers of it are still translated
    traffic.forget_replies(net.near)
    assert not traffic.has_entries(net.near)


def test_entries_of_others_are_left_alone(bench: Bench) -> None:
    """Whatever an endpoint's life does, the entries that were there are there."""
    before = _without_counters(bench)
    traffic = endpoint(bench, (IPV4, IPV6))
    traffic.hold_ingress()
    traffic.hold_egress()
    traffic.guard(SOURCE_PORT)
    traffic.redirect(DESTINATION_PORT, wire_mac(DESTINATION_PORT))
    traffic.redirect(SOURCE_PORT, wire_mac(SOURCE_PORT))
    traffic.release({})
    traffic.unguard(SOURCE_PORT)
    assert _without_counters(bench) == before


def _without_counters(bench: Bench) -> list[Entry]:
    return sorted(bench.session.read(), key=lambda entry: entry.label)
