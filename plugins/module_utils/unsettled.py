# SPDX-License-Identifier: Apache-2.0
"""What only the kernel of a network namespace knows, so that no checkpoint has it.

CRIU dumps the sockets that processes have. A connection that no program has accepted yet makes it
give up; one that is still being set up, or that the program has closed while data was under way, it
does not see at all, and the client of such a connection would be reset by the copy. Datagrams that
a program has not read yet would be lost.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from .errors import FlowferryError
from .netlink import open_in

# linux/inet_diag.h and linux/sock_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCP_DIAG = 18
_REQUEST_DUMP = 0x301
_DONE, _ERROR = 3, 2
_HEADER = struct.Struct("=IHHII")
# Family, protocol, states; ports, addresses, interface and cookie that are wanted: any.
_REQUEST = struct.Struct("=BBxxI48x")
# The older one, of TCP alone. The same without a protocol, and with the states last; sockets of
# either family answer it, so that the kernel goes through its whole table (1.5 ms) only once.
_TCP_REQUEST = struct.Struct("=52xII")
# Family, state, timer, retransmissions; ports, addresses, interface, cookie; expiry, receive and
# send queue, user, inode.
_SOCKET = struct.Struct("=BBxB2s2s16s16s4x8x4xII4xI")
# States of a socket that are asked for: net/tcp_states.h
_SYN_RECV, _FIN_WAIT1, _LAST_ACK, _LISTEN, _CLOSING = 3, 4, 9, 10, 11
_CLOSED = {_FIN_WAIT1, _LAST_ACK, _CLOSING}
_TCP_STATES = sum(1 << state for state in (_SYN_RECV, _LISTEN, *_CLOSED))
_ANY_STATE = 0xFFFFFFFF  # those of UDP mean little
# A client that has left so many retransmissions unanswered is not waited for.
_GONE = 3


@dataclass(frozen=True)
class _Socket:
    state: int
    retransmissions: int
    local: str
    remote: str
    received: int
    """Of a listening socket, connections that have not been accepted; of UDP, bytes not read."""
    unacknowledged: int
    inode: int
    """0 when no process has it."""


@dataclass
class Unsettled:
    """What only the kernel knows, in words for people."""

    not_accepted: Counter[str] = field(default_factory=Counter)
    """Connections that the program has not accepted yet, by listening address."""
    undelivered: list[str] = field(default_factory=list)
    """Connections that the program has closed, but whose client lacks data yet."""
    handshakes: list[str] = field(default_factory=list)
    """Connections that are being set up: the client's answer is under way."""
    unread: list[str] = field(default_factory=list)
    """Sockets with datagrams that the program has not read yet."""

    def __bool__(self) -> bool:
        return bool(self.not_accepted or self.undelivered or self.handshakes or self.unread)

    def refuse(self, title: str) -> None:
        """Why the workload cannot be frozen like this.

        A handshake is no reason: whoever has not ended it by now is far away, or gone. Nor are
        datagrams: a program that has not read them by now may never do so, and they may be lost.
        """
        if self.not_accepted:
            listed = ", ".join(f"{n} at {where}" for where, n in sorted(self.not_accepted.items()))
            raise FlowferryError(
                "not_accepted",
                f"{title} has connections that it has not accepted in time ({listed}), so they "
                "cannot be part of a checkpoint; run again when it is less busy, or give it longer "
                "with migration_accept_timeout",
            )
        if self.undelivered:
            raise FlowferryError(
                "undelivered",
                f"{title} has closed connections whose clients have not got all data yet "
                f"({', '.join(self.undelivered[:5])}), which would be lost; run again later, or "
                "give them longer with migration_accept_timeout",
            )


class Lookout:
    """Into a network namespace, named by a file like /proc/PID/ns/net: to look takes no time."""

    def __init__(self, network: Path) -> None:
        self._netlink: socket.socket | None = None
        # Else the workload is gone, which whoever freezes it will say.
        with suppress(FileNotFoundError, ProcessLookupError):
            self._netlink = open_in(network, _NETLINK_SOCK_DIAG)

    def look(self) -> Unsettled:
        """What is unsettled there at this moment."""
        found = Unsettled()
        if self._netlink is None:
            return found
        for one in _answers(self._netlink, _TCP_DIAG, _TCP_REQUEST.pack(_TCP_STATES, 0)):
            _judge(one, found)
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, socket.IPPROTO_UDP, _ANY_STATE)
            for one in _answers(self._netlink, _SOCK_DIAG_BY_FAMILY, body):
                if one.received:
                    found.unread.append(f"{one.received} bytes at {one.local}")
        return found

    def close(self) -> None:
        """A namespace lasts as long as a socket that was made in it."""
        if self._netlink is not None:
            self._netlink.close()


def _judge(one: _Socket, found: Unsettled) -> None:
    if one.state == _LISTEN:
        if one.received:
            found.not_accepted[one.local] += one.received
    elif one.state == _SYN_RECV:
        # One that was sent the SYN-ACK again is a second old: its client does not hurry.
        if not one.retransmissions:
            found.handshakes.append(f"{one.remote} to {one.local}")
    # A FIN counts as a byte; when it is all that is not acknowledged, the client has its data.
    elif not one.inode and one.unacknowledged > 1 and one.retransmissions < _GONE:
        found.undelivered.append(f"{one.unacknowledged} bytes to {one.remote}")


def _answers(netlink: socket.socket, kind: int, body: bytes) -> Iterator[_Socket]:
    size = _HEADER.size + len(body)
    netlink.send(_HEADER.pack(size, kind, _REQUEST_DUMP, 1, 0) + body)
    while True:
        data = netlink.recv(1 << 18)
        at = 0
        while at < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                raise OSError(number, f"sock_diag: {os.strerror(number)}")
            yield _parsed(data, at + _HEADER.size)
            at += (length + 3) & ~3


def _parsed(data: bytes, at: int) -> _Socket:
    family, state, again, *ends, received, unacknowledged, inode = _SOCKET.unpack_from(data, at)
    port, peer_port, address, peer = ends
    return _Socket(
        state,
        again,
        _end(family, address, port),
        _end(family, peer, peer_port),
        received,
        unacknowledged,
        inode,
    )


def _end(family: int, address: bytes, port: bytes) -> str:
    number = int.from_bytes(port, "big")
    if family == socket.AF_INET:
        return f"{ip_address(address[:4])}:{number}"
    return f"[{ip_address(address)}]:{number}"
