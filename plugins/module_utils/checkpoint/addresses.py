# SPDX-License-Identifier: Apache-2.0
"""Another address for a checkpoint: its sockets come back with it.

Addresses stand in ``files.img`` only. ``tcp-stream-*.img`` has sequence numbers, windows and
queues, which go with the connection and not with its addresses. A network namespace that was dumped
with the processes has addresses in images of netlink messages and firewall rules; those are not
edited, and a checkpoint that has an old address in one is refused. What a program itself remembers
of its address is in its memory, and out of reach.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FlowferryError
from . import images
from .sockets import Address, InetSocket, of_entry, words_of

# What CRIU writes of a network namespace that is not external to the checkpoint.
_NETWORK_IMAGES = ["ifaddr", "route", "route6", "rule", "netns-ct", "netns-exp"]
_NETWORK_IMAGES += ["iptables", "ip6tables", "nftables"]


def rewrite_addresses(directory: Path, addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give the sockets of the images in ``directory`` other addresses, ``{old: new}``.

    Both ends of a socket are looked at, since a program may be connected to itself; an IPv4 address
    is found in an IPv6 socket too. Returns what was changed: each socket's protocol and state, its
    ends before and after. A second run changes nothing.
    """
    path = directory / "files.img"
    new_data, changes = rewritten(images.read(path), addresses, path)
    network = [path for path in directory.glob("*.img") if _is_of_network(path.name)]
    refuse_network_images({path.name: images.read(path) for path in network}, addresses, directory)
    if changes:
        images.replace(path, new_data)
    return changes


def rewritten(
    data: bytes, addresses: Mapping[str, str], where: object
) -> tuple[bytes, list[dict[str, Any]]]:
    """The content of ``files.img`` with other addresses, and what was changed in it."""
    mapping = parse_mapping(addresses)
    start = images.start_of(data, "FILES", where)
    parts = [data[:start]]
    changes = []
    for part in images.frames(data, start, where):
        entry = images.parse("file_entry", part, where)
        change = _rewrite_entry(entry, mapping, where) if entry.HasField("isk") else None
        if change is not None:
            changes.append(change)
            part = entry.SerializeToString()
        parts.append(images.frame(part))
    return b"".join(parts), changes


def _rewrite_entry(
    entry: Any, mapping: Mapping[Address, Address], where: object
) -> dict[str, Any] | None:
    before = of_entry(entry.isk, where)
    new_local, new_remote = (_moved(end, mapping) for end in (before.local, before.remote))
    if (new_local, new_remote) == (before.local, before.remote):
        return None
    entry.isk.src_addr[:] = words_of(new_local)
    entry.isk.dst_addr[:] = words_of(new_remote)
    return _change(before, replace(before, local=new_local, remote=new_remote))


def _change(before: InetSocket, after: InetSocket) -> dict[str, Any]:
    return {
        "id": before.id,
        "protocol": before.protocol,
        "state": before.state,
        "before": {"local": before.local_end, "remote": before.remote_end},
        "after": {"local": after.local_end, "remote": after.remote_end},
    }


def _moved(address: Address, mapping: Mapping[Address, Address]) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is None:
        return mapping.get(address, address)
    new = mapping.get(mapped, mapped)
    return ipaddress.IPv6Address(f"::ffff:{new}")


def parse_mapping(addresses: Mapping[str, str]) -> dict[Address, Address]:
    """The addresses, checked; pairs that are the same are left out."""
    mapping: dict[Address, Address] = {}
    for old_text, new_text in addresses.items():
        old, new = _parse(old_text), _parse(new_text)
        if old.version != new.version:
            raise _bad_address(
                f"{old} cannot become {new}: a socket keeps its address family; give an "
                f"IPv{old.version} address"
            )
        if old in mapping:
            raise _bad_address(f"{old} stands there twice; name it once")
        mapping[old] = new
    both = {old for old, new in mapping.items() if old != new} & set(mapping.values())
    if both:
        raise _bad_address(
            f"{sorted(map(str, both))[0]} is both an old and a new address, so that a second run "
            "would change it again; rewrite in two steps, by way of an address that is not in use"
        )
    return {old: new for old, new in mapping.items() if old != new}


def _parse(text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise _bad_address(f"{text!r} is not an IP address; write it without a prefix") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise _bad_address(f"{text} has a scope, which belongs to one node; leave it out")
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_multicast:
        raise _bad_address(f"{address} is not the address of a host")
    return address


def _bad_address(message: str) -> FlowferryError:
    return FlowferryError("bad_address", message)


def _stands_in(address: Address, data: bytes) -> bool:
    """As netlink messages have it, or as rules do, which are text."""
    text = re.escape(str(address).encode())
    return address.packed in data or bool(re.search(rb"(?<![\w.:])" + text + rb"(?![\w.:])", data))


def _is_of_network(name: str) -> bool:
    return name.endswith(".img") and name.rpartition("-")[0] in _NETWORK_IMAGES


def refuse_network_images(
    contents: Mapping[str, bytes], addresses: Mapping[str, str], where: object
) -> None:
    """Refuse a checkpoint that has an old address in an image that cannot be rewritten."""
    for name, data in contents.items():
        if not _is_of_network(name.rpartition("/")[2]):
            continue
        for old in parse_mapping(addresses):
            if _stands_in(old, data):
                raise FlowferryError(
                    "network_in_checkpoint",
                    f"{where}: {name} has {old}: the network namespace is part of the checkpoint, "
                    "and its addresses and routes cannot be rewritten; run the workload in a "
                    "namespace of its own, see flowferry.core.endpoint",
                )
