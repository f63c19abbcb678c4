# SPDX-License-Identifier: Apache-2.0
"""Let no new connection into a network namespace while what is in it stands still.

The switch holds what comes by the switch. A node reaches its own pods without it: a kubelet's probe
that connects to a frozen program would wait to be accepted, and CRIU dumps no such connection. A
request that is dropped is sent again by whoever wants to connect, a second later.

The firewall's rule is told to the kernel directly (linux/netfilter/nf_tables.h): `nft` takes five
milliseconds for the same, in which clients wait. `nft list ruleset` shows it as::

    table inet flowferry_door {
      chain input {
        type filter hook input priority -400; policy accept;
        iifname != "lo" tcp flags & (syn | ack) == syn drop
      }
    }
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from .netlink import open_in

TABLE = "flowferry_door"
CHAIN = "input"

_NETLINK_NETFILTER = 12
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_REQUEST, _ACKNOWLEDGE, _CREATE = 0x1, 0x4, 0x400
_ERROR = 2
# A batch is carried out as a whole or not at all.
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = ((_NFTABLES << 8) + n for n in (0, 2, 3, 6))
_INET = 1
_INPUT_HOOK = 1
# Before every other chain.
_PRIORITY = -400
# What expressions are told: registers, keys, comparisons.
_VERDICT, _REGISTER = 0, 1
_IIFNAME, _L4PROTO = 6, 16
_EQUAL, _NOT_EQUAL = 0, 1
_TRANSPORT_HEADER = 2
_FLAGS_AT = 13
_SYN, _ACK = 0x02, 0x10
_DROP = 0


class Door:
    """Of one network namespace. Where the kernel has no such firewall it stays open, at the dump's
    risk.
    """

    def __init__(self, network: Path) -> None:
        self._network = network
        self._kernel: socket.socket | None = None

    def prepare(self) -> None:
        """Have now what close() needs, so that it costs next to no time."""
        if self._kernel is None:
            with suppress(OSError):  # the namespace is gone
                self._kernel = open_in(self._network, _NETLINK_NETFILTER)
            self._tell(_OPEN)  # the first time takes longest

    def close(self) -> None:
        self.prepare()
        # One that an earlier move has left goes first.
        self._tell([*_OPEN, *_CLOSED])

    def open(self) -> None:
        """Undo close(), which may not have happened, or in another process; and prepare()."""
        self.prepare()
        self._tell(_OPEN)
        self.forget()

    def forget(self) -> None:
        """Undo prepare(); a namespace lasts as long as a socket that was made in it."""
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.close()

    def _tell(self, messages: list[bytes]) -> None:
        if self._kernel is None:
            return
        try:
            _carry_out(self._kernel, messages)
        except OSError:  # what else was answered is not to be taken for the next answer
            self.forget()


def _carry_out(kernel: socket.socket, messages: list[bytes]) -> None:
    """All of it or nothing: OSError with what the kernel has against it."""
    batch = [_batch(_BATCH_BEGIN), *messages, _batch(_BATCH_END)]
    kernel.send(b"".join(batch))
    for _ in messages:  # each is acknowledged, or refused
        answer = kernel.recv(1 << 16)
        _, kind, *_ = _HEADER.unpack_from(answer)
        (number,) = struct.unpack_from("=i", answer, _HEADER.size)
        if kind == _ERROR and number:
            raise OSError(-number, f"nf_tables: {os.strerror(-number)}")


def _message(kind: int, flags: int, body: bytes, family: int = _INET, resource: int = 0) -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + body
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 0, 0) + body


def _batch(kind: int) -> bytes:
    return _message(kind, 0, b"", 0, _NFTABLES)


def _attribute(kind: int, content: bytes) -> bytes:
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind)
    return head + content + bytes(-len(content) % 4)


def _name(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("!i", number))


def _nest(kind: int, *parts: bytes) -> bytes:
    return _attribute(_NESTED | kind, b"".join(parts))


def _expression(name: str, *parts: bytes) -> bytes:
    return _nest(1, _name(1, name), _nest(2, *parts))


def _meta(key: int) -> bytes:
    return _expression("meta", _number(1, _REGISTER), _number(2, key))


def _compare(how: int, value: bytes) -> bytes:
    return _expression(
        "cmp", _number(1, _REGISTER), _number(2, how), _nest(3, _attribute(1, value))
    )


_NEW_CONNECTION_OF_OTHERS = (
    *(_meta(_IIFNAME), _compare(_NOT_EQUAL, b"lo".ljust(16, b"\0"))),
    *(_meta(_L4PROTO), _compare(_EQUAL, bytes([socket.IPPROTO_TCP]))),
    _expression(
        "payload",
        *(_number(1, _REGISTER), _number(2, _TRANSPORT_HEADER), _number(3, _FLAGS_AT)),
        _number(4, 1),
    ),
    _expression(
        "bitwise",
        *(_number(1, _REGISTER), _number(2, _REGISTER), _number(3, 1)),
        *(_nest(4, _attribute(1, bytes([_SYN | _ACK]))), _nest(5, _attribute(1, b"\0"))),
    ),
    _compare(_EQUAL, bytes([_SYN])),
)
_DROP_IT = _expression("immediate", _number(1, _VERDICT), _nest(2, _nest(2, _number(1, _DROP))))
_TABLE = _message(_NEW_TABLE, _CREATE | _ACKNOWLEDGE, _name(1, TABLE))
# A table that is not there could not be deleted.
_OPEN = [_TABLE, _message(_DELETE_TABLE, _ACKNOWLEDGE, _name(1, TABLE))]
_CLOSED = [
    _TABLE,
    _message(
        _NEW_CHAIN,
        _CREATE | _ACKNOWLEDGE,
        _name(1, TABLE)
        + _name(3, CHAIN)
        + _nest(4, _number(1, _INPUT_HOOK), _number(2, _PRIORITY))
        + _name(7, "filter"),
    ),
    _message(
        _NEW_RULE,
        _CREATE | _ACKNOWLEDGE,
        _name(1, TABLE) + _name(2, CHAIN) + _nest(4, *_NEW_CONNECTION_OF_OTHERS, _DROP_IT),
    ),
]
