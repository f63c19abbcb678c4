# SPDX-License-Identifier: Apache-2.0
"""Hold, packet-in, packet-out past the hold: what a migration does with a connection."""

from __future__ import annotations

import queue
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4r
from flowferry_p4.client import Session
from flowferry_p4.packet_service import PacketClient
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.integration.switch_bench import DEADLINE, Bench, Controller, bench, wait_until
from tests.integration.switch_traffic import (
    TCP_CLIENT,
    TCP_SERVER,
    UDP_CLIENT,
    UDP_ECHO,
    line,
    ping,
)

# Numbered datagrams: says whether all came, in order.
SINK = r"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
s.bind((sys.argv[1], 7001))
s.settimeout(20)
print("listening")
got = [int(s.recv(2048)) for _ in range(int(sys.argv[2]))]
print("in order" if got == list(range(len(got))) else got)
"""

HELD_TO = 1
ETHERNET = 14


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[Bench, Controller]]:
    with bench(tmp_path) as made, made.controller() as controller:
        controller.answer()
        controller.set_pipeline()
        made.add_routes(controller)
        yield made, controller


def ones_sum(data: bytes) -> int:
    """One's complement sum of a byte string; 0xffff over data with a right checksum."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def assert_complete(frame: bytes, mtu: int = 1500) -> None:
    """An ordinary frame: within the MTU, lengths and checksums right."""
    assert len(frame) <= ETHERNET + mtu
    assert frame[12:14] == b"\x08\x00"
    packet = frame[ETHERNET:]
    assert ones_sum(packet[:20]) == 0xFFFF, "IPv4 header checksum"
    length = int.from_bytes(packet[2:4], "big")
    assert length <= len(packet)
    segment = packet[20:length]
    protocol = packet[9]
    if protocol == 17 and segment[6:8] == b"\0\0":
        return
    pseudo = packet[12:20] + bytes([0, protocol]) + len(segment).to_bytes(2, "big")
    assert ones_sum(pseudo + segment) == 0xFFFF, "transport checksum"


def metadata(packet: p4r.PacketIn) -> dict[int, int]:
    return {m.metadata_id: int.from_bytes(m.value, "big") for m in packet.metadata}


def drain(controller: Controller) -> list[p4r.PacketIn]:
    packets = []
    while True:
        try:
            packets.append(controller.packets.get_nowait())
        except queue.Empty:
            return packets


def replay_until_said(controller: Controller, process: subprocess.Popen[str]) -> str:
    """Replay what still comes up until a script prints its line: a packet can be on its way up
    while the hold entry goes."""

    def said() -> bool:
        for late in drain(controller):
            assert_complete(late.payload)
            controller.packet_out(late.payload, past_hold=1)
        return bool(select.select([process.stdout], [], [], 0)[0])

    wait_until("the script prints its result", said)
    return line(process)


def hold(controller: Controller, address: str) -> None:
    controller.insert("hold_to", {"address": address}, "buffer")
    controller.insert("hold_from", {"address": address}, "buffer")


def release(controller: Controller, address: str) -> None:
    for table in ("hold_to", "hold_from"):
        controller.write("DELETE", controller.names.entry(table, {"address": address}))


def test_tcp_stream_is_held_and_goes_on(lab: tuple[Bench, Controller]) -> None:
    """64 KB packets with partial checksums become ordinary frames, and nothing is lost."""
    made, controller = lab
    client, server = made.hosts
    listener = server.python(TCP_SERVER, server.address, "7000")
    assert line(listener) == "listening"
    sender = client.python(TCP_CLIENT, server.address, "7000", "20", "pause")
    assert line(sender) == "connected"
    wait_until("the first piece passes", lambda: controller.direct_packets("route") > 720)

    hold(controller, server.address)
    assert sender.stdin is not None
    sender.stdin.write("go on\n")
    sender.stdin.flush()
    counted = p4r.TableEntry(table_id=controller.names.tables["hold_to"].preamble.id)
    counted.counter_data.SetInParent()

    def all_up() -> p4r.CounterData | None:
        (entry,) = controller.read_entries(counted)
        packets = entry.counter_data.packet_count
        return (
            entry.counter_data if packets >= 10 and controller.packets.qsize() == packets else None
        )

    data = wait_until("a burst is held", all_up)
    assert isinstance(data, p4r.CounterData)
    held = drain(controller)

    for packet in held:
        assert_complete(packet.payload)
        assert metadata(packet) == {1: client.number, 2: HELD_TO}
    frames = sum(len(p.payload) for p in held)
    assert frames > data.byte_count, "no packet was segmented on its way up"

    for packet in held:
        controller.packet_out(packet.payload, past_hold=1)
    release(controller, server.address)
    word, _ = replay_until_said(controller, sender).split()
    assert word == "ok"
    assert line(listener).startswith("done")


def test_udp_is_held_and_delivered_in_order(lab: tuple[Bench, Controller]) -> None:
    made, controller = lab
    client, server = made.hosts
    echo = server.python(UDP_ECHO, server.address, "7001")
    assert line(echo) == "listening"
    controller.insert("hold_to", {"address": server.address}, "buffer")
    sender = client.python(UDP_CLIENT, server.address, "7001")
    packet = controller.packets.get(timeout=DEADLINE)
    assert_complete(packet.payload)
    assert metadata(packet) == {1: client.number, 2: HELD_TO}
    controller.packet_out(packet.payload, past_hold=1)
    controller.write("DELETE", controller.names.entry("hold_to", {"address": server.address}))
    assert replay_until_said(controller, sender).startswith("ok")


def test_a_held_packet_of_a_service_comes_up_untranslated(lab: tuple[Bench, Controller]) -> None:
    """It is replayed against the entries of the moment of its release, here another port."""
    made, controller = lab
    client, server = made.hosts
    virtual = "198.19.9.100"
    service: dict[str, int | str] = {"address": virtual, "protocol": 17, "port": 53}
    controller.insert("service", service, "select_bucket", 1, 1)
    controller.insert("bucket", {"service_id": 1, "bucket": 0}, "to_backend", 1)
    controller.insert("backend", {"backend_id": 1}, "translate", server.address, 7001)
    back: dict[str, int | str] = {"address": server.address, "protocol": 17, "port": 7002}
    controller.insert("reply", back, "restore_virtual", virtual, 53)
    controller.insert("hold_to", {"address": server.address}, "buffer")
    sender = client.python(UDP_CLIENT, virtual, "53")
    packet = controller.packets.get(timeout=DEADLINE)
    assert_complete(packet.payload)
    assert packet.payload[30:34] == bytes([198, 19, 9, 100])
    assert packet.payload[36:38] == (53).to_bytes(2, "big")

    assert line(server.python(UDP_ECHO, server.address, "7002")) == "listening"
    redirect = controller.names.entry(
        "backend", {"backend_id": 1}, "translate", server.address, 7002
    )
    controller.write("MODIFY", redirect)
    controller.packet_out(packet.payload, past_hold=1)
    controller.write("DELETE", controller.names.entry("hold_to", {"address": server.address}))
    assert replay_until_said(controller, sender) == f"ok {virtual}"


def test_hold_drop_counts(lab: tuple[Bench, Controller]) -> None:
    made, controller = lab
    client, server = made.hosts
    controller.insert("hold_to", {"address": server.address}, "drop")
    assert ping(client, server.address, 1, seconds=0.3) == 0
    assert controller.direct_packets("hold_to") == 1
    assert controller.counter("dropped", 8) == 1
    assert controller.packets.empty()


def test_packet_out_leaves_unchanged(lab: tuple[Bench, Controller]) -> None:
    """past_hold=0: out of the named port as it is, whatever it is."""
    made, controller = lab
    _, server = made.hosts
    frame = bytes.fromhex("02ff0000090c02000000009988b5") + b"flowferry" + bytes(60)
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))\n"
        "s.bind(('data0', 0x88b5)); s.settimeout(10)\n"
        "print('listening'); print(s.recv(2048).hex())\n"
    )
    listener = server.python(code)
    assert line(listener) == "listening"
    controller.packet_out(frame, port=server.number)
    assert bytes.fromhex(line(listener)) == frame
    listener.wait(DEADLINE)


def test_an_arbitration_is_answered_behind_the_packets(lab: tuple[Bench, Controller]) -> None:
    """What a controller needs to release: the buffer is sent before the hold entry goes."""
    made, controller = lab
    count = 500
    for _ in range(count):
        controller.packet_out(bytes(100), past_hold=1)
    controller.arbitrate(controller.election)
    controller.answer()
    sent = made.switch_namespace.run("cat", "/sys/class/net/ffcpu1u/statistics/tx_packets")
    assert int(sent) == count


def test_many_packets_at_once_are_delivered_in_order(lab: tuple[Bench, Controller]) -> None:
    """By flowferry.Packets: held datagrams come to the server, all of them and in order."""
    made, _ = lab
    client, server = made.hosts
    count = 1000
    sink = server.python(SINK, server.address, str(count))
    assert line(sink) == "listening"
    with Session.open(made.switch.address, election_id=2) as session:
        frames = [
            Ether(src=client.mac, dst="02:00:00:00:00:99")
            / IP(src=client.address, dst=server.address)
            / UDP(sport=5000, dport=7001)
            / str(number)
            for number in range(count)
        ]
        session.deliver([bytes(frame) for frame in frames], {"past_hold": 1})
        assert session._packets.is_served
        sent = made.switch_namespace.run("cat", "/sys/class/net/ffcpu1u/statistics/tx_packets")
        assert int(sent) == count, "all are handled when it returns"
    assert line(sink) == "in order"


def test_only_the_primary_sends_many_packets_at_once(lab: tuple[Bench, Controller]) -> None:
    made, _ = lab
    with grpc.insecure_channel(made.switch.address) as channel:
        packets = PacketClient(channel)
        for who, code in (
            ({"device_id": 1}, grpc.StatusCode.PERMISSION_DENIED),
            ({"device_id": 2, "election_id": p4r.Uint128(low=1)}, grpc.StatusCode.NOT_FOUND),
            ({"device_id": 1, "role": "other"}, grpc.StatusCode.NOT_FOUND),
        ):
            with pytest.raises(grpc.RpcError) as error:
                packets.send([bytes(100)], [], DEADLINE, **who)
            assert error.value.code() is code
        with pytest.raises(grpc.RpcError, match="lacks metadata: egress_port, past_hold"):
            primary = {"device_id": 1, "election_id": p4r.Uint128(low=1)}
            packets.send([bytes(100)], [], DEADLINE, **primary)
    sent = made.switch_namespace.run("cat", "/sys/class/net/ffcpu1u/statistics/tx_packets")
    assert int(sent) == 0


def held_pings(made: Bench, count: int) -> None:
    """Requests to the server, which a hold has kept or will keep."""
    client, server = made.hosts
    assert ping(client, server.address, count, seconds=0.1) == 0


def test_held_packets_come_many_at_once_in_order(lab: tuple[Bench, Controller]) -> None:
    """By flowferry.Packets, whoever receives them so gets none on the stream."""
    made, controller = lab
    client, server = made.hosts
    count = 1000
    controller.insert("hold_to", {"address": server.address}, "buffer")
    got: list[bytes] = []
    session = Session.open(made.switch.address, election_id=2)
    with session:
        session.on_packet(lambda payload, _: got.append(payload[-4:]))
        assert session._reception and session._reception.is_alive
        code = (
            "import socket\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for n in range({count}): s.sendto(n.to_bytes(4), ('{server.address}', 7001))\n"
        )
        client.run("python3", "-c", code)
        wait_until("all have come", lambda: len(got) >= count)
    assert got == [number.to_bytes(4) for number in range(count)]
    assert session.error is None
    wait_until("nothing more is received", lambda: not session._reception.is_alive)


def test_packets_are_on_the_stream_again_when_they_are_not_taken_at_once(
    lab: tuple[Bench, Controller],
) -> None:
    made, controller = lab
    controller.insert("hold_to", {"address": made.hosts[1].address}, "buffer")
    taken: list[p4r.PacketIn] = []
    with grpc.insecure_channel(made.switch.address) as channel:
        reception = PacketClient(channel).receive(
            lambda message: taken.extend(message.packets),
            device_id=1,
            election_id=controller.election_id(),
        )
        assert reception.decided.wait(DEADLINE) and reception.is_alive
        held_pings(made, 1)
        wait_until("it has come", lambda: len(taken) == 1)
        assert controller.packets.empty()
        reception.cancel()
        wait_until("the call has ended", lambda: not reception.is_alive)

    def is_on_the_stream() -> bool:
        held_pings(made, 1)
        return not controller.packets.empty()

    wait_until("the switch has seen the end", is_on_the_stream)


def test_who_receives_many_packets_at_once_is_the_primary_as_long_as_its_stream(
    lab: tuple[Bench, Controller],
) -> None:
    made, controller = lab
    with grpc.insecure_channel(made.switch.address) as channel:
        packets = PacketClient(channel)
        primary = {"device_id": 1, "election_id": controller.election_id()}
        for who in ({"device_id": 1}, {**primary, "device_id": 2}, {**primary, "role": "other"}):
            refused = packets.receive(lambda _: None, **who)
            assert refused.decided.wait(DEADLINE)
            wait_until("it has ended", lambda call=refused: not call.is_alive)
            assert packets.is_served
        reception = packets.receive(lambda _: None, **primary)
        assert reception.decided.wait(DEADLINE) and reception.is_alive
        controller.close()
        wait_until("it ends with the stream", lambda: not reception.is_alive)


def test_guard_drops_by_port_and_source(lab: tuple[Bench, Controller]) -> None:
    made, controller = lab
    client, server = made.hosts
    guard = {"ingress_port": server.number, "source": server.address}
    controller.insert("guard", dict(guard), "drop")
    assert ping(client, server.address, 1, seconds=0.3) == 0
    assert controller.counter("dropped", 7) == 1
    controller.write("DELETE", controller.names.entry("guard", dict(guard)))
    assert ping(client, server.address, 1) == 1
