# SPDX-License-Identifier: Apache-2.0
"""Packets of both IP versions, for tests that ask what the P4 program does with them."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.integration.program_bench import GATEWAY_MAC, Bench, wire_mac

CLIENT_PORT, SOURCE_PORT, DESTINATION_PORT = 3, 1, 2
TCP_NUMBER, UDP_NUMBER = 6, 17


@dataclass(frozen=True)
class Network:
    """Addresses of one IP version, and what differs between the versions in a test."""

    version: int
    client: str
    endpoint: str
    moved: str
    virtual: str
    near: str
    """An address of the endpoints' network that is nobody's."""
    network: str
    far: str
    """An address that no entry knows."""
    echo_number: int

    def __str__(self) -> str:
        return f"ipv{self.version}"

    def name(self, name: str) -> str:
        """A table or action of this IP version."""
        return name if self.version == 4 else f"{name}_ipv6"

    @property
    def bits(self) -> int:
        return 32 if self.version == 4 else 128

    @property
    def ether_type(self) -> int:
        return 0x0800 if self.version == 4 else 0x86DD

    def packed(self, address: str) -> bytes:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        return socket.inet_pton(family, address)

    # -- packets

    def ip(self, source: str, destination: str, protocol: int | None = None) -> Packet:
        if self.version == 4:
            more = {} if protocol is None else {"proto": protocol}
            return IP(src=source, dst=destination, tos=0x10, id=77, **more)
        more = {} if protocol is None else {"nh": protocol}
        return IPv6(src=source, dst=destination, tc=0x10, fl=0x12345, **more)

    def tcp(
        self,
        source: str,
        destination: str,
        sport: int = 40000,
        dport: int = 6379,
        data: bytes = b"x",
    ) -> Packet:
        options = [("MSS", 1440), ("NOP", None), ("NOP", None), ("Timestamp", (7, 9))]
        segment = TCP(sport=sport, dport=dport, flags="PA", seq=1, ack=2, options=options)
        return self.ip(source, destination) / segment / Raw(data)

    def udp(
        self, source: str, destination: str, sport: int = 40000, dport: int = 53, data: bytes = b"x"
    ) -> Packet:
        return self.ip(source, destination) / UDP(sport=sport, dport=dport) / Raw(data)

    def echo(self, source: str, destination: str, data: bytes = b"ping") -> Packet:
        if self.version == 4:
            return self.ip(source, destination) / ICMP(id=3, seq=4) / Raw(data)
        return self.ip(source, destination) / ICMPv6EchoRequest(id=3, seq=4, data=data)

    def fragments(
        self, source: str, destination: str, data: bytes, dport: int = 53
    ) -> list[Packet]:
        """A datagram in pieces that carry about 600 bytes each."""
        whole = self.udp(source, destination, dport=dport, data=data)
        if self.version == 4:
            return list(whole.fragment(600))
        datagram = UDP(bytes(whole)[40:])  # with its checksum, which covers the whole
        layers = self.ip(source, destination) / IPv6ExtHdrFragment(id=9) / datagram
        return list(fragment6(layers, 648))

    def asks_for(self, target: str, sender: str, port: int = CLIENT_PORT) -> bytes:
        """A host asks for the link address of another."""
        if self.version == 6:
            return bytes(solicitation(sender, target, port))
        zero = "00:00:00:00:00:00"
        body = ARP(op="who-has", hwsrc=wire_mac(port), psrc=sender, hwdst=zero, pdst=target)
        return bytes(Ether(src=wire_mac(port), dst="ff:ff:ff:ff:ff:ff") / body)

    # -- frames

    def arriving(self, port: int, packet: Packet, hops: int = 64) -> bytes:
        """The frame that a host on this wire sends to its gateway."""
        return bytes(
            Ether(src=wire_mac(port), dst=GATEWAY_MAC, type=self.ether_type)
            / self._with_hops(packet, hops)
        )

    def leaving(self, port: int, packet: Packet, hops: int = 63) -> bytes:
        """The frame that the switch sends on this wire; scapy computes the checksums afresh."""
        return bytes(
            Ether(src=GATEWAY_MAC, dst=wire_mac(port), type=self.ether_type)
            / self._with_hops(packet, hops)
        )

    def _with_hops(self, packet: Packet, hops: int) -> Packet:
        packet = packet.copy()
        if self.version == 4:
            packet[IP].ttl = hops
        else:
            packet[IPv6].hlim = hops
        return packet

    # -- entries

    def serve(
        self, bench: Bench, backends: dict[int, str], protocol: int = TCP_NUMBER, port: int = 6379
    ) -> None:
        """A service with one bucket a backend; backends listen on port + 1."""
        where = {"address": self.virtual, "protocol": protocol, "port": port}
        count = len(backends)
        bench.insert(self.name("service"), where, "select_bucket", service_id=5, bucket_count=count)
        for bucket, (number, address) in enumerate(backends.items()):
            key = {"service_id": 5, "bucket": bucket}
            bench.insert("bucket", key, "to_backend", backend_id=number)
            there = port + 1 if port else 0
            self.translate(bench, number, address, there)
            back = {"address": address, "protocol": protocol, "port": there}
            bench.insert(
                self.name("reply"), back, self.name("restore_virtual"),
                address=self.virtual, port=port,
            )  # fmt: skip

    def translate(self, bench: Bench, number: int, address: str, port: int) -> None:
        action = self.name("translate")
        match = {"backend_id": number}
        bench.insert(self.name("backend"), match, action, address=address, port=port)


def solicitation(sender: str, target: str, port: int = CLIENT_PORT) -> Packet:
    """A neighbour solicitation as a host on this wire sends it."""
    return (
        Ether(src=wire_mac(port), dst="33:33:ff:00:00:01")
        / IPv6(src=sender, dst=_solicited_node(target), hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=wire_mac(port))
    )


def _solicited_node(target: str) -> str:
    """The multicast address at which a neighbour listens for questions about itself."""
    last = socket.inet_pton(socket.AF_INET6, target)[-3:]
    start = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13]
    return socket.inet_ntop(socket.AF_INET6, start + last)


IPV4 = Network(
    version=4,
    client="198.19.9.3",
    endpoint="198.19.9.100",
    moved="198.19.9.101",
    virtual="198.19.9.200",
    near="198.19.9.77",
    network="198.19.9.0/24",
    far="198.19.8.8",
    echo_number=1,
)
IPV6 = Network(
    version=6,
    client="fd00:9::3",
    endpoint="fd00:9::100",
    moved="fd00:9::101",
    virtual="fd00:9::200",
    near="fd00:9::77",
    network="fd00:9::/64",
    far="fd00:8::8",
    echo_number=58,
)


def route_hosts(bench: Bench) -> None:
    """Lead to the client by port 3, to the endpoint by port 1, where it may move by port 2."""
    for network in (IPV4, IPV6):
        bench.route(network.client, CLIENT_PORT)
        bench.route(network.endpoint, SOURCE_PORT)
        bench.route(network.moved, DESTINATION_PORT)
