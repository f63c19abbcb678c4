# SPDX-License-Identifier: Apache-2.0
"""Which addresses an endpoint may have, and the commands that make one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils import endpoint as endpoints
from ansible_collections.flowferry.core.plugins.module_utils.endpoint import (
    Endpoint,
    endpoint_with,
    mac_for,
)
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError


def test_the_mac_address_follows_from_the_address() -> None:
    assert mac_for("198.19.0.100") == "02:fe:c6:13:00:64"
    assert mac_for("2001:2::1:100") == "02:fe:00:01:01:00"


def test_ipv4_comes_first() -> None:
    made = endpoint_with("ff-a", ["2001:2:0:0::100", "198.19.0.100"])
    assert made == Endpoint("ff-a", "198.19.0.100", "02:fe:c6:13:00:64", ["2001:2::100"])
    assert made.addresses == ["198.19.0.100", "2001:2::100"]
    assert Endpoint(**json.loads(json.dumps(made.as_dict()))) == made


def test_ipv6_alone() -> None:
    made = endpoint_with("ff-a", ["2001:2::100"], "02:00:00:00:00:01")
    assert made == Endpoint("ff-a", "2001:2::100", "02:00:00:00:00:01")


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ([], "needs an IPv4 address, an IPv6 address, or one of each; given: none"),
        (["198.19.0.1", "198.19.0.2"], "given: 198.19.0.1, 198.19.0.2"),
        (["198.19.0.1/24"], "'198.19.0.1/24' does not appear to be an IPv4 or IPv6 address"),
        (["fe80::1"], "cannot have fe80::1: clients reach it through a router"),
        (["ff02::1"], "cannot have ff02::1"),
        (["::"], "cannot have ::"),
        (["169.254.1.2"], "cannot have 169.254.1.2"),
    ],
)
def test_refused(addresses: list[str], message: str) -> None:
    with pytest.raises(FlowferryError) as caught:
        endpoint_with("ff-a", addresses)
    assert caught.value.code == "bad_endpoint"
    assert message in str(caught.value)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[str]:
    """Every command that is run, without running it; the node has no namespaces."""
    ran: list[str] = []

    def note(command: list[str], **_: Any) -> str:
        ran.append(" ".join(command))
        return ""

    monkeypatch.setattr(endpoints, "run", note)
    monkeypatch.setattr(endpoints, "NAMESPACES", tmp_path)
    return ran


def test_each_address_is_led_in_and_out(commands: list[str]) -> None:
    made = endpoint_with("ff-a", ["198.19.0.100", "2001:2::100"])
    endpoints.create(made)
    assert commands[:2] == ["ip netns add ff-a", "ip -n ff-a link set lo up"]
    assert commands[5:] == [
        f"ip addr add 169.254.1.1/32 dev {made.veth}",
        "ip -n ff-a addr add 198.19.0.100/32 dev eth0",
        "ip -n ff-a -4 route add default via 169.254.1.1 dev eth0 onlink",
        f"ip route replace 198.19.0.100/32 dev {made.veth}",
        f"ip addr add fe80::1/64 dev {made.veth} nodad",
        "ip -n ff-a addr add 2001:2::100/128 dev eth0 nodad",
        "ip -n ff-a -6 route add default via fe80::1 dev eth0 onlink",
        f"ip route replace 2001:2::100/128 dev {made.veth}",
    ]


def test_what_a_namespace_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Link-local addresses are the kernel's own."""
    (tmp_path / "ff-a").touch()
    monkeypatch.setattr(endpoints, "NAMESPACES", tmp_path)
    shown = [
        {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "scope": "host"}]},
        {
            "ifname": "eth0",
            "address": "02:fe:c6:13:00:64",
            "addr_info": [
                {"family": "inet", "local": "198.19.0.100", "scope": "global"},
                {"family": "inet6", "local": "2001:2::100", "scope": "global"},
                {"family": "inet6", "local": "fe80::fe:c6ff:fe13:64", "scope": "link"},
            ],
        },
    ]
    monkeypatch.setattr(endpoints, "run", lambda command: json.dumps(shown))
    assert endpoints.find("ff-a") == endpoint_with("ff-a", ["198.19.0.100", "2001:2::100"])
    assert endpoints.find("ff-b") is None
