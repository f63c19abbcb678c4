# SPDX-License-Identifier: Apache-2.0
"""Sockets get other addresses, every kind of them, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint import images, sockets
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.addresses import (
    parse_mapping,
    rewrite_addresses,
)
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

pytestmark = pytest.mark.usefixtures("pycriu")

DATA = Path(__file__).with_name("data") / "sockets"
FOUR = {"192.0.2.1": "198.51.100.7"}
SIX = {"2001:db8::1": "2001:db8:ffff::7"}

AT_FOUR = {
    "tcp listening 192.0.2.1:1001",
    "tcp established 192.0.2.1:1011 192.0.2.1:1001",
    "tcp established 192.0.2.1:1001 192.0.2.1:1011",
    "tcp established 192.0.2.1:1013 192.0.2.1:1003",
    "tcp established [::ffff:192.0.2.1]:1003 [::ffff:192.0.2.1]:1013",
    "udp bound 192.0.2.1:1005",
    "udp connected 192.0.2.1:1006 192.0.2.1:1005",
    "tcp closed 192.0.2.1:1009",
}
AT_SIX = {
    "tcp listening [2001:db8::1]:1002",
    "tcp established [2001:db8::1]:1012 [2001:db8::1]:1002",
    "tcp established [2001:db8::1]:1002 [2001:db8::1]:1012",
    "udp bound [2001:db8::1]:1007",
    "udp connected [2001:db8::1]:1008 [2001:db8::1]:1007",
}
ELSEWHERE = {"tcp listening [::]:1003", "tcp listening 0.0.0.0:1004", "udp bound 127.0.0.1:1010"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "images"))


def seen(directory: Path) -> set[str]:
    data = (directory / "files.img").read_bytes()
    return {str(socket) for socket in sockets.inet_sockets(data, directory)}


def moved(texts: set[str], addresses: dict[str, str]) -> set[str]:
    for old, new in addresses.items():
        texts = {text.replace(old, new) for text in texts}
    return texts


def test_the_images_have_a_socket_of_each_kind(directory: Path) -> None:
    assert seen(directory) == AT_FOUR | AT_SIX | ELSEWHERE


@pytest.mark.parametrize("addresses", [FOUR, SIX, FOUR | SIX], ids=["IPv4", "IPv6", "both"])
def test_every_socket_at_an_address_moves_and_no_other(
    directory: Path, addresses: dict[str, str]
) -> None:
    rewrite_addresses(directory, addresses)
    assert seen(directory) == moved(AT_FOUR | AT_SIX | ELSEWHERE, addresses)


def test_changes_say_what_was_changed(directory: Path) -> None:
    changes = rewrite_addresses(directory, FOUR)
    assert len(changes) == len(AT_FOUR)
    (mapped,) = (change for change in changes if "::ffff" in change["before"]["local"])
    assert (mapped["protocol"], mapped["state"]) == ("tcp", "established")
    old, new = "[::ffff:192.0.2.1]", "[::ffff:198.51.100.7]"
    assert mapped["before"] == {"local": f"{old}:1003", "remote": f"{old}:1013"}
    assert mapped["after"] == {"local": f"{new}:1003", "remote": f"{new}:1013"}


def test_again_changes_nothing_and_back_gives_the_same_bytes(directory: Path) -> None:
    original = (directory / "files.img").read_bytes()
    assert rewrite_addresses(directory, FOUR | SIX)
    once = (directory / "files.img").read_bytes()
    assert rewrite_addresses(directory, FOUR | SIX) == []
    assert (directory / "files.img").read_bytes() == once != original
    rewrite_addresses(directory, {new: old for old, new in (FOUR | SIX).items()})
    assert (directory / "files.img").read_bytes() == original


def test_other_images_and_the_mode_stay(directory: Path) -> None:
    (directory / "files.img").chmod(0o600)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    rewrite_addresses(directory, FOUR)
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"files.img"}
    assert (directory / "files.img").stat().st_mode & 0o777 == 0o600


def test_fields_of_a_newer_criu_survive(directory: Path) -> None:
    """An unknown field in each message is still there, in the changed ones too."""
    path = directory / "files.img"
    data = path.read_bytes()
    start = images.start_of(data, "FILES", path)
    unknown = b"\xf8\x7f\x2a"  # field 2047, the number 42
    parts = [part + unknown for part in images.frames(data, start, path)]
    path.write_bytes(data[:start] + b"".join(map(images.frame, parts)))
    assert rewrite_addresses(directory, FOUR)
    data = path.read_bytes()
    start = images.start_of(data, "FILES", path)
    assert all(part.endswith(unknown) for part in images.frames(data, start, path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ifaddr-10.img", b"\x02\x18\x00\x00\xc0\x00\x02\x01"),
        ("iptables-10.img", b"-A INPUT -d 192.0.2.1/32 -j DROP\n"),
    ],
)
def test_an_address_in_a_dumped_network_namespace_is_refused(
    directory: Path, name: str, content: bytes
) -> None:
    (directory / name).write_bytes(content)
    before = (directory / "files.img").read_bytes()
    with pytest.raises(FlowferryError, match=f"{name} has 192.0.2.1: the network namespace"):
        rewrite_addresses(directory, FOUR)
    assert (directory / "files.img").read_bytes() == before


def test_a_longer_address_in_a_rule_is_another(directory: Path) -> None:
    (directory / "iptables-10.img").write_bytes(b"-A INPUT -d 192.0.2.11/32 -j DROP\n")
    assert rewrite_addresses(directory, FOUR)


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ({"192.0.2.1": "2001:db8::1"}, "a socket keeps its address family; give an IPv4 address"),
        ({"192.0.2.1/32": "192.0.2.2"}, "is not an IP address; write it without a prefix"),
        ({"192.0.2.1": "0.0.0.0"}, "0.0.0.0 is not the address of a host"),
        ({"ff02::1": "2001:db8::1"}, "ff02::1 is not the address of a host"),
        ({"fe80::1%eth0": "fe80::2"}, "has a scope, which belongs to one node"),
        ({"192.0.2.1": "192.0.2.2", "192.0.2.2": "192.0.2.3"}, "both an old and a new address"),
        ({"192.0.2.1": "192.0.2.2", "::ffff:192.0.2.1": "192.0.2.3"}, "stands there twice"),
    ],
)
def test_addresses_that_cannot_be_rewritten(addresses: dict[str, str], reason: str) -> None:
    with pytest.raises(FlowferryError, match=reason) as caught:
        parse_mapping(addresses)
    assert caught.value.code == "bad_address"


def test_an_address_that_stays_is_no_change(directory: Path) -> None:
    assert rewrite_addresses(directory, {"192.0.2.1": "192.0.2.1"}) == []
