# SPDX-License-Identifier: Apache-2.0
"""Who gets which outside address, and what is told where none can be given."""

from __future__ import annotations

import pytest
from flowferry_p4.agent.objects import Service, read_service
from flowferry_p4.agent.pools import Gift, Pool, give

from tests.unit.p4.agent import kube

FOUR, SIX = Pool.parse("203.0.113.8-203.0.113.9"), Pool.parse("2001:db8::8-2001:db8::9")


def service(
    name: str, *has: str, created: str = "2026", asks: str = "", families: tuple[str, ...] = ()
) -> Service:
    spec = {"type": "LoadBalancer", "loadBalancerClass": "flowferry.dev/p4"}
    item = kube.service(name, outside=has, created=created, **spec)
    if families:
        item["spec"]["ipFamilies"] = list(families)
    if asks:
        item["metadata"]["annotations"] = {"flowferry.dev/addresses": asks}
    found = read_service(item)
    assert found is not None
    return found


def test_the_older_service_has_the_lower_address_and_none_gets_what_is_taken() -> None:
    services = [service("new", created="3"), service("has", "203.0.113.8"), service("old")]
    gifts, problems = give(services, [FOUR])
    assert gifts == [Gift("default/old", ("203.0.113.9",))]
    assert [(one.code, one.where) for one in problems] == [("pool_empty", "Service default/new")]


def test_both_versions_or_neither() -> None:
    both = service("both", families=("IPv6", "IPv4"))
    assert give([both], [FOUR, SIX])[0] == [Gift("default/both", ("2001:db8::8", "203.0.113.8"))]
    gifts, problems = give([both], [FOUR])
    assert gifts == [] and [one.code for one in problems] == ["pool_empty"]


def test_an_address_that_is_asked_for() -> None:
    asks = service("asks", asks="203.0.113.9")
    assert give([asks], [FOUR])[0] == [Gift("default/asks", ("203.0.113.9",))]
    for others, pools in (
        ([service("has", "203.0.113.9")], [FOUR]),
        ([], [SIX, Pool.parse("203.0.113.1")]),
    ):
        gifts, problems = give([asks, *others], pools)
        assert gifts == [] and [one.code for one in problems] == ["address_unavailable"]


def test_services_of_others_get_nothing() -> None:
    inside = read_service(kube.service("inside", "10.96.0.7"))
    assert inside is not None
    assert give([inside], [FOUR]) == ([], [])


@pytest.mark.parametrize("text", ["203.0.113.9-203.0.113.8", "203.0.113.8-2001:db8::8", "here"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError):
        Pool.parse(text)
