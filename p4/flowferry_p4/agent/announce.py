# SPDX-License-Identifier: Apache-2.0
"""Telling a link that an address is here now: what neighbours remember would lead elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from flowferry_p4.client import Entry, Session, Update

from .links import Uplink

_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC, _ALL_NODES = b"\x33\x33\x00\x00\x00\x01", ip_address("ff02::1").packed
_ARP_REQUEST, _ADVERTISEMENT, _OVERRIDE, _TARGET_LINK = 1, 136, 0x20, 2


def announce(session: Session, updates: Iterable[Update], uplink: Uplink) -> int:
    """Announce what this node's switch has just begun to answer for; says how many addresses."""
    frames = [
        frame_of(address, uplink.mac)
        for update in updates
        if update.kind != "DELETE"
        for address in _answered(update.entry, uplink)
    ]
    if frames:
        session.send_packets((frame, {"egress_port": uplink.port}) for frame in frames)
        session.flush()
    return len(frames)


def _answered(entry: Entry, uplink: Uplink) -> list[str]:
    if entry.table not in ("arp", "ndp") or entry.params.get("mac") != uplink.mac:
        return []
    return [str(entry.match["target"]).partition("/")[0]]


def frame_of(address: str, mac: str) -> bytes:
    """An ARP announcement (RFC 5227), or an unsolicited neighbour advertisement (RFC 4861)."""
    link = bytes.fromhex(mac.replace(":", ""))
    packed = ip_address(address).packed
    if len(packed) == 4:
        head = b"\x08\x06" + bytes([0, 1, 8, 0, 6, 4, 0, _ARP_REQUEST])
        return (_BROADCAST + link + head + link + packed + bytes(6) + packed).ljust(60, b"\0")
    option = bytes([_TARGET_LINK, 1]) + link
    body = bytes([_OVERRIDE, 0, 0, 0]) + packed + option
    message = bytes([_ADVERTISEMENT, 0, 0, 0]) + body
    pseudo = packed + _ALL_NODES + len(message).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    checksum = _checksum(pseudo + message)
    message = bytes([_ADVERTISEMENT, 0]) + checksum.to_bytes(2, "big") + body
    head = b"\x86\xdd\x60\x00\x00\x00" + len(message).to_bytes(2, "big") + bytes([58, 255])
    return _ALL_NODES_MAC + link + head + packed + _ALL_NODES + message


def _checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
