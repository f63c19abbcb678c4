# SPDX-License-Identifier: Apache-2.0
"""What the P4 program remembers of flows and clients, packet by packet, for both IP versions.

BMv2 as well: make integration FLOWFERRY_BMV2=/path/to/simple_switch_grpc
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping
from itertools import count

import grpc
import pytest
from finsy.proto import p4i, p4r, p4r_grpc
from google.protobuf import text_format
from scapy.layers.inet import TCP

from tests.integration.program_bench import (
    COMPILED,
    DEADLINE,
    GATEWAY_MAC,
    Bench,
    Outcome,
    bmv2_too,
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
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

FIRST, SECOND = 1, 2
"""Numbers of the backends behind ports 1 and 2 (net.endpoint, net.moved); they listen at 6380."""
INSIDE, OUTSIDE = 11, 12
"""Numbers of services."""
PORT, BACKEND_PORT = 6379, 6380

# Registers outlive a reset of the bench: no two tests have a flow or a client in common.
_ports = count(20000)
_services = count(100)


@pytest.fixture(scope="module", params=bmv2_too())
def running(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with program_bench(request.param) as bench:
        yield bench


@pytest.fixture(params=[IPV4, IPV6], ids=str)
def net(request: pytest.FixtureRequest) -> Network:
    network: Network = request.param
    return network


@pytest.fixture
def bench(running: Bench) -> Bench:
    running.reset()
    route_hosts(running)
    return running


class Served:
    """A service with one bucket and two backends, as an agent writes it."""

    def __init__(self, bench: Bench, net: Network, number: int = INSIDE, **more: object) -> None:
        self.bench, self.net, self.number = bench, net, number
        self.address = str(more.pop("address", net.virtual))
        self.protocol = more.pop("protocol", TCP_NUMBER)
        self.key = {"address": self.address, "protocol": self.protocol, "port": PORT}
        action = "select_client" if more else "select_flow"
        params = {"service_id": number, "bucket_count": 1, **more}
        bench.insert(
            net.name("virtual_address"), {"service_id": number}, net.name("restore_virtual"),
            address=self.address, port=PORT,
        )  # fmt: skip
        for backend in (FIRST, SECOND):
            key = {"service_id": number, "backend_id": backend}
            bench.insert("member", key, "keep_clients")
        bench.insert("bucket", {"service_id": number, "bucket": 0}, "to_backend", backend_id=FIRST)
        bench.insert(net.name("service"), self.key, action, **params)

    def lead_to(self, backend: int) -> None:
        """New flows go there."""
        key = {"service_id": self.number, "bucket": 0}
        self.bench.modify("bucket", key, "to_backend", backend_id=backend)

    def becomes(self, backend: int, action: str | None) -> None:
        key = {"service_id": self.number, "backend_id": backend}
        if action:
            self.bench.modify("member", key, action)
        else:
            self.bench.delete("member", key)

    def ask(self, sport: int, flags: str = "A", client: str = "") -> int:
        """The port by which a packet of a client leaves."""
        client = client or self.net.client
        packet = self.net.tcp(client, self.address, sport, PORT)
        if self.protocol == UDP_NUMBER:
            packet = self.net.udp(client, self.address, sport, PORT)
        else:
            packet[TCP].flags = flags
        (port,) = self.bench.send(CLIENT_PORT, self.net.arriving(CLIENT_PORT, packet)).out
        return port


def backends(bench: Bench, net: Network, protocol: int = TCP_NUMBER, **reply: int) -> None:
    """Both backends, reached by their own addresses too; ``reply`` is what answers get else."""
    for number, address in ((FIRST, net.endpoint), (SECOND, net.moved)):
        net.translate(bench, number, address, BACKEND_PORT)
        key = {"address": address, "protocol": protocol, "port": BACKEND_PORT}
        params = {"backend_id": number, "service_id": 0, "outside_id": 0, **reply}
        bench.insert(net.name("reply"), key, "restore_flow", **params)
        bench.insert(net.name("service"), key, "reach_backend", backend_id=number)


def answer(
    bench: Bench, net: Network, sport: int, client: str = "", port: int = SOURCE_PORT
) -> Outcome:
    """The first backend answers a client."""
    packet = net.tcp(net.endpoint, client or net.client, BACKEND_PORT, sport)
    return bench.send(port, net.arriving(port, packet))


def seen(net: Network, source: str, dport: int, sport: int = PORT, client: str = "") -> Mapping:
    """What the client is to see of such an answer."""
    packet = net.tcp(source, client or net.client, sport, dport)
    return {CLIENT_PORT: [net.leaving(CLIENT_PORT, packet)]}


# -- a flow stays with its backend


@pytest.mark.parametrize("protocol", [TCP_NUMBER, UDP_NUMBER], ids=["tcp", "udp"])
def test_a_flow_stays_when_its_bucket_leads_elsewhere(
    bench: Bench, net: Network, protocol: int
) -> None:
    backends(bench, net, protocol)
    service = Served(bench, net, protocol=protocol)
    old, new = next(_ports), next(_ports)
    assert service.ask(old, "S") == SOURCE_PORT
    service.lead_to(SECOND)
    assert [service.ask(old) for _ in range(3)] == [SOURCE_PORT] * 3
    assert service.ask(new, "S") == DESTINATION_PORT
    assert service.ask(old) == SOURCE_PORT


def test_a_connection_that_begins_anew_is_a_new_flow(bench: Bench, net: Network) -> None:
    backends(bench, net)
    service, port = Served(bench, net), next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    service.lead_to(SECOND)
    assert service.ask(port, "A") == SOURCE_PORT
    assert service.ask(port, "S") == DESTINATION_PORT
    assert service.ask(port, "A") == DESTINATION_PORT


def test_a_backend_that_gets_no_new_flows_keeps_its_old_ones(bench: Bench, net: Network) -> None:
    backends(bench, net)
    service, port = Served(bench, net), next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    service.lead_to(SECOND)
    service.becomes(FIRST, "keep_flows")
    assert service.ask(port) == SOURCE_PORT


def test_a_flow_whose_backend_is_gone_takes_another(bench: Bench, net: Network) -> None:
    backends(bench, net)
    service, port = Served(bench, net), next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    service.lead_to(SECOND)
    service.becomes(FIRST, None)
    assert service.ask(port) == DESTINATION_PORT
    service.lead_to(FIRST)
    assert service.ask(port) == DESTINATION_PORT, "the other one is remembered now"


def test_without_buckets_old_flows_go_on(bench: Bench, net: Network) -> None:
    """The last ready endpoint is not ready any more, but it is there."""
    backends(bench, net)
    service, port = Served(bench, net), next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    bench.modify(net.name("service"), service.key, "select_flow", service_id=INSIDE, bucket_count=0)
    assert service.ask(port) == SOURCE_PORT
    packet = net.arriving(CLIENT_PORT, net.tcp(net.client, net.virtual, next(_ports), PORT))
    assert bench.send(CLIENT_PORT, packet).drops == {"NO_BACKEND": 1}


def test_a_flow_follows_its_backend_to_another_address(bench: Bench, net: Network) -> None:
    """A migration to another address is one MODIFY: the flow's backend is the same number."""
    backends(bench, net)
    service, port = Served(bench, net), next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    bench.modify(net.name("backend"), {"backend_id": FIRST}, net.name("translate"),
                 address=net.moved, port=BACKEND_PORT)  # fmt: skip
    assert service.ask(port) == DESTINATION_PORT


def flow_hash(net: Network, client: str, port: int, protocol: int = TCP_NUMBER) -> int:
    """As the program computes it; the set is its lower half."""
    return zlib.crc32(net.packed(client) + bytes([protocol]) + port.to_bytes(2, "big"))


def test_of_five_flows_in_one_set_the_most_silent_makes_room(bench: Bench, net: Network) -> None:
    """It then goes where new flows go; and is remembered again, in the place of the next."""
    backends(bench, net)
    service = Served(bench, net)
    found: list[tuple[str, int]] = []
    prefix = "198.18.7." if net.version == 4 else "fd00:7::"
    wanted = flow_hash(net, f"{prefix}1", 30000) & 0xFFFF
    for host in range(1, 200):
        client = f"{prefix}{host}"
        for port in range(30000, 40000):
            if flow_hash(net, client, port) & 0xFFFF == wanted and len(found) < 5:
                found.append((client, port))
        if len(found) == 5:
            break
    assert len(found) == 5

    def led_to(number: int, flags: str = "A") -> int:
        client, port = found[number]
        return service.ask(port, flags, client)

    assert [led_to(n, "S") for n in range(4)] == [SOURCE_PORT] * 4
    service.lead_to(SECOND)
    # Time has a grain of two seconds: the three others speak until it has gone on.
    deadline = time.monotonic() + DEADLINE
    started = time.monotonic()
    while time.monotonic() - started < 4.5:
        assert [led_to(n) for n in (1, 2, 3)] == [SOURCE_PORT] * 3
        assert time.monotonic() < deadline, "the clock of the switch stands still"
    assert led_to(4, "S") == DESTINATION_PORT
    assert [led_to(n) for n in (1, 2, 3, 4)] == [SOURCE_PORT] * 3 + [DESTINATION_PORT]
    assert led_to(0) == DESTINATION_PORT, "forgotten"


@pytest.mark.parametrize(
    ("protocol", "silent", "stays"),
    [(UDP_NUMBER, 50, True), (UDP_NUMBER, 60, False), (TCP_NUMBER, 60, True)],
)
def test_datagrams_are_forgotten_after_two_minutes_of_silence(
    bench: Bench, net: Network, protocol: int, silent: int, stays: bool
) -> None:
    """The silence is written into the flow's cell, in its clock's steps of two seconds."""
    backends(bench, net, protocol)
    service, port = Served(bench, net, protocol=protocol), next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    service.lead_to(SECOND)
    assert service.ask(port) == SOURCE_PORT
    with Flows(bench) as flows:
        flows.were_silent(flow_hash(net, net.client, port, protocol), silent)
    assert service.ask(port) == (SOURCE_PORT if stays else DESTINATION_PORT)


class Flows:
    """The register of flows, which P4Runtime serves where the switch does."""

    def __init__(self, bench: Bench) -> None:
        self._channel = grpc.insecure_channel(bench.session.peer.address)
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        info = text_format.Parse(
            (COMPILED / "flowferry.p4info.txtpb").read_text(encoding="utf-8"), p4i.P4Info()
        )
        named = {one.preamble.alias: one.preamble.id for one in info.registers}
        self._id = named["flows"]

    def __enter__(self) -> Flows:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def were_silent(self, flow: int, steps: int) -> None:
        """The one flow of its set was last heard so long ago."""
        first = (flow & 0xFFFF) << 2
        cells = {first + n: self._read(first + n) for n in range(4)}
        (index,) = [index for index, cell in cells.items() if cell >> 48 == flow >> 16]
        then = ((cells[index] & 0xFFFF) - steps) & 0xFFFF
        self._write(index, cells[index] >> 16 << 16 | then)

    def _cell(self, index: int) -> p4r.RegisterEntry:
        return p4r.RegisterEntry(register_id=self._id, index=p4r.Index(index=index))

    def _read(self, index: int) -> int:
        asked = p4r.Entity(register_entry=self._cell(index))
        try:
            (answer,) = self._stub.Read(p4r.ReadRequest(device_id=1, entities=[asked]))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            pytest.skip("BMv2 serves no registers")
        (entity,) = answer.entities
        return int.from_bytes(entity.register_entry.data.bitstring, "big")

    def _write(self, index: int, value: int) -> None:
        cell = self._cell(index)
        cell.data.bitstring = value.to_bytes(8, "big").lstrip(b"\0") or b"\0"
        update = p4r.Update(type=p4r.Update.MODIFY, entity=p4r.Entity(register_entry=cell))
        election = p4r.Uint128(low=1)  # the bench's, who is primary
        self._stub.Write(p4r.WriteRequest(device_id=1, election_id=election, updates=[update]))


# -- answers


def test_one_port_answers_for_two_addresses_and_for_itself(bench: Bench, net: Network) -> None:
    backends(bench, net)
    one = Served(bench, net, INSIDE)
    two = Served(bench, net, OUTSIDE, address=net.near)
    ports = next(_ports), next(_ports), next(_ports)
    one.ask(ports[0], "S")
    two.ask(ports[1], "S")
    direct = net.tcp(net.client, net.endpoint, ports[2], BACKEND_PORT)
    there = bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, direct))
    assert there.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, direct)]}
    assert answer(bench, net, ports[0]).out == seen(net, net.virtual, ports[0])
    assert answer(bench, net, ports[1]).out == seen(net, net.near, ports[1])
    assert answer(bench, net, ports[2]).out == seen(net, net.endpoint, ports[2], BACKEND_PORT)


def test_what_is_forgotten_gets_the_address_that_is_likely(bench: Bench, net: Network) -> None:
    backends(bench, net, service_id=INSIDE, outside_id=OUTSIDE)
    Served(bench, net, INSIDE)
    Served(bench, net, OUTSIDE, address=net.near)
    port = next(_ports)
    assert answer(bench, net, port).out == seen(net, net.virtual, port)
    leads_outside(bench, net)
    assert answer(bench, net, port).out == seen(net, net.near, port)


def leads_outside(bench: Bench, net: Network) -> None:
    """The client is not of the cluster."""
    bench.modify(
        net.name("route"), {"destination": f"{net.client}/{net.bits}"}, "forward_outside",
        port=CLIENT_PORT, source_mac=GATEWAY_MAC, destination_mac=wire_mac(CLIENT_PORT),
    )  # fmt: skip


def test_what_another_switch_translated_is_left_to_it_but_outside(
    bench: Bench, net: Network
) -> None:
    """Here it is a packet to a backend's own address; outside nobody would put the answer right."""
    backends(bench, net, service_id=INSIDE, outside_id=OUTSIDE)
    Served(bench, net, INSIDE)
    Served(bench, net, OUTSIDE, address=net.near)
    port = next(_ports)
    packet = net.tcp(net.client, net.endpoint, port, BACKEND_PORT)
    bench.send(CLIENT_PORT, net.arriving(CLIENT_PORT, packet))
    assert answer(bench, net, port).out == seen(net, net.endpoint, port, BACKEND_PORT)
    leads_outside(bench, net)
    assert answer(bench, net, port).out == seen(net, net.near, port)


def test_a_client_outside_hears_the_address_that_it_asked(bench: Bench, net: Network) -> None:
    backends(bench, net, service_id=INSIDE, outside_id=OUTSIDE)
    one = Served(bench, net, INSIDE)
    Served(bench, net, OUTSIDE, address=net.near)
    leads_outside(bench, net)
    port = next(_ports)
    one.ask(port, "S")
    assert answer(bench, net, port).out == seen(net, net.virtual, port)


def test_a_pod_reaches_itself_through_its_service(bench: Bench, net: Network) -> None:
    backends(bench, net)
    Served(bench, net)
    port = next(_ports)
    hairpin = "192.0.0.8" if net.version == 4 else "100::8"

    packet = net.tcp(net.endpoint, net.virtual, port, PORT)
    there = bench.send(SOURCE_PORT, net.arriving(SOURCE_PORT, packet))
    arrived = net.tcp(hairpin, net.endpoint, port, BACKEND_PORT)
    assert there.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, arrived)]}

    packet = net.tcp(net.endpoint, hairpin, BACKEND_PORT, port)
    back = bench.send(SOURCE_PORT, net.arriving(SOURCE_PORT, packet))
    arrived = net.tcp(net.virtual, net.endpoint, PORT, port)
    assert back.out == {SOURCE_PORT: [net.leaving(SOURCE_PORT, arrived)]}


def test_a_held_backend_holds_what_is_remembered_too(bench: Bench, net: Network) -> None:
    """Both directions go up as they arrived, and follow the flow when they are released."""
    backends(bench, net)
    service, port = Served(bench, net), next(_ports)
    service.ask(port, "S")
    service.lead_to(SECOND)
    for table in ("hold_to", "hold_from"):
        bench.insert(net.name(table), {"address": net.endpoint}, "buffer")
    asked = net.arriving(CLIENT_PORT, net.tcp(net.client, net.virtual, port, PORT))
    said = net.arriving(SOURCE_PORT, net.tcp(net.endpoint, net.client, BACKEND_PORT, port))
    held = [*bench.send(CLIENT_PORT, asked).up, *bench.send(SOURCE_PORT, said).up]
    assert [payload for payload, _ in held] == [asked, said]
    outcome = bench.send_out([(payload, {"past_hold": 1}) for payload, _ in held])
    there = net.tcp(net.client, net.endpoint, port, BACKEND_PORT)
    assert outcome.out == {
        SOURCE_PORT: [net.leaving(SOURCE_PORT, there)],
        **seen(net, net.virtual, port),
    }


# -- a client stays with its backend


def test_new_flows_of_a_client_follow_its_last_one(bench: Bench, net: Network) -> None:
    backends(bench, net)
    service = Served(bench, net, next(_services), client_time=30000)
    assert service.ask(next(_ports), "S") == SOURCE_PORT
    service.lead_to(SECOND)
    assert service.ask(next(_ports), "S") == SOURCE_PORT
    assert service.ask(next(_ports), "S", net.far) == DESTINATION_PORT, "another client"
    assert service.ask(next(_ports), "S") == SOURCE_PORT


@pytest.mark.parametrize("becomes", ["keep_flows", None], ids=["ending", "gone"])
def test_a_client_leaves_a_backend_that_takes_nothing_new(
    bench: Bench, net: Network, becomes: str | None
) -> None:
    backends(bench, net)
    service = Served(bench, net, next(_services), client_time=30000)
    port = next(_ports)
    assert service.ask(port, "S") == SOURCE_PORT
    service.lead_to(SECOND)
    service.becomes(FIRST, becomes)
    assert service.ask(next(_ports), "S") == DESTINATION_PORT
    assert service.ask(port) == (SOURCE_PORT if becomes else DESTINATION_PORT)


def test_a_client_is_forgotten_after_its_time(bench: Bench, net: Network) -> None:
    backends(bench, net)
    service = Served(bench, net, next(_services), client_time=1)
    assert service.ask(next(_ports), "S") == SOURCE_PORT
    service.lead_to(SECOND)
    began = time.monotonic()
    # Each new flow renews the client's time, so it may not be asked before.
    while time.monotonic() - began < 4.3:
        bench.send(CLIENT_PORT)
    assert service.ask(next(_ports), "S") == DESTINATION_PORT


def test_a_new_client_is_led_by_its_address_alone(bench: Bench, net: Network) -> None:
    """So that where it is forgotten, or comes by another switch, it mostly finds the same."""
    backends(bench, net)
    number = next(_services)
    service = Served(bench, net, number, client_time=30000)
    bench.modify(net.name("service"), service.key, "select_client", service_id=number,
                 bucket_count=2, client_time=30000)  # fmt: skip
    bench.insert("bucket", {"service_id": number, "bucket": 1}, "to_backend", backend_id=SECOND)
    prefix = "198.18.8." if net.version == 4 else "fd00:8::"
    for host in range(1, 20):
        client = f"{prefix}{host}"
        flow = net.packed(client) + net.packed(net.virtual) + bytes([TCP_NUMBER, 0, 0])
        wanted = zlib.crc32(flow + PORT.to_bytes(2, "big")) % 2
        found = service.ask(next(_ports), "S", client)
        assert found == (SOURCE_PORT, DESTINATION_PORT)[wanted]
