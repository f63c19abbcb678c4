# SPDX-License-Identifier: Apache-2.0
"""Inet sockets in a checkpoint: what CRIU keeps of each, in the words that people use."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any, Union

from . import images

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

# The kernel's numbers (include/net/tcp_states.h); UDP uses the first and the seventh.
_STATES = {
    1: "established",
    2: "syn-sent",
    3: "syn-received",
    4: "fin-wait-1",
    5: "fin-wait-2",
    6: "time-wait",
    7: "closed",
    8: "close-wait",
    9: "last-ack",
    10: "listening",
    11: "closing",
}
_WORDS = {socket.AF_INET: 1, socket.AF_INET6: 4}
_PROTOCOLS = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    136: "udplite",
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_ICMPV6: "icmpv6",
}


@dataclass(frozen=True)
class InetSocket:
    """One socket; ``id`` is CRIU's, which descriptors of processes refer to."""

    id: int
    protocol: str
    state: str
    local: Address
    local_port: int
    remote: Address
    remote_port: int

    @property
    def local_end(self) -> str:
        return end(self.local, self.local_port)

    @property
    def remote_end(self) -> str:
        """Empty when the socket is connected to nothing."""
        if self.remote_port == 0 and self.remote.is_unspecified:
            return ""
        return end(self.remote, self.remote_port)

    def __str__(self) -> str:
        remote = f" {self.remote_end}" if self.remote_end else ""
        return f"{self.protocol} {self.state} {self.local_end}{remote}"

    def as_dict(self) -> dict[str, Any]:
        """For results of modules."""
        return {
            "id": self.id,
            "protocol": self.protocol,
            "state": self.state,
            "local": self.local_end,
            "remote": self.remote_end,
        }


def end(address: Address, port: int) -> str:
    """``192.0.2.1:80``, ``[2001:db8::1]:80`` or ``[::ffff:192.0.2.1]:80``."""
    if isinstance(address, ipaddress.IPv4Address):
        return f"{address}:{port}"
    # Not every Python writes a mapped address this way.
    mapped = address.ipv4_mapped
    return f"[::ffff:{mapped}]:{port}" if mapped else f"[{address}]:{port}"


def address_of(words: list[int]) -> Address:
    """From CRIU's words, which are the address' bytes read as little-endian numbers."""
    packed = b"".join(word.to_bytes(4, "little") for word in words)
    return ipaddress.IPv4Address(packed) if len(words) == 1 else ipaddress.IPv6Address(packed)


def words_of(address: Address) -> list[int]:
    """The reverse of ``address_of``."""
    packed = address.packed
    return [int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]


def of_entry(entry: Any, where: object) -> InetSocket:
    """The socket of an ``inet_sk_entry``, which must make sense."""
    wanted = _WORDS.get(entry.family)
    if wanted is None:
        raise images.bad_image(where, f"has an inet socket of address family {entry.family}")
    for field in ("src_addr", "dst_addr"):
        if len(getattr(entry, field)) != wanted:
            raise images.bad_image(
                where,
                f"socket {entry.id} has {len(getattr(entry, field))} words in {field}, "
                f"an address of its family has {wanted}",
            )
    if max(entry.src_port, entry.dst_port) > 0xFFFF:
        raise images.bad_image(where, f"socket {entry.id} has a port above 65535")
    raw = entry.type == socket.SOCK_RAW
    return InetSocket(
        id=entry.id,
        protocol="raw" if raw else _PROTOCOLS.get(entry.proto, f"protocol {entry.proto}"),
        state=_state(entry),
        local=address_of(list(entry.src_addr)),
        local_port=entry.src_port,
        remote=address_of(list(entry.dst_addr)),
        remote_port=entry.dst_port,
    )


def _state(entry: Any) -> str:
    if entry.type != socket.SOCK_STREAM:
        return "connected" if entry.state == 1 else "bound" if entry.src_port else "closed"
    return _STATES.get(entry.state, f"state {entry.state}")


def inet_sockets(data: bytes, where: object) -> list[InetSocket]:
    """The inet sockets in ``files.img``."""
    entries = images.messages(data, "FILES", "file_entry", where)
    return [of_entry(entry.isk, where) for entry in entries if entry.HasField("isk")]
