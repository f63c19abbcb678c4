# SPDX-License-Identifier: Apache-2.0
"""What a strategy refuses at the switch, and an address that the destination chooses."""

from __future__ import annotations

from typing import ClassVar

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import strategy


class Traffic:
    """The switch, for a strategy: whose entries it has, and where the service leads."""

    taken: ClassVar[set[str]] = set()
    leads_to: ClassVar[str] = "198.19.0.100"
    held: ClassVar[bool] = False

    def __init__(self, _: object, addresses: list[str], buffers: bool = True) -> None:
        self.buffers = buffers
        self.addresses = [type("Address", (), {"text": one, "bits": 32}) for one in addresses]

    def port(self) -> int:
        return 1

    def is_held(self) -> bool:
        return self.held

    def backends(self, address: str) -> list[str]:
        return ["entry"] if address == self.leads_to else []

    def has_entries(self, address: str) -> bool:
        return address in self.taken


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> strategy.Strategy:
    """A rewrite whose destination has not chosen yet."""
    monkeypatch.setattr(strategy, "EndpointTraffic", Traffic)
    monkeypatch.setattr(Traffic, "taken", {"198.19.0.161"})
    endpoint = {"namespace": "pod-1", "address": "198.19.0.100", "mac": "", "others": []}
    plan = {
        "strategy": "rewrite",
        "endpoint": endpoint,
        "destination_endpoint": {**endpoint, "address": ""},
        "source": {"name": "node1", "switch_port": 1},
    }
    return strategy.for_plan(None, plan)  # type: ignore[arg-type]


def chosen(planned: strategy.Strategy, address: str) -> None:
    planned.learn({**planned.plan["endpoint"], "address": address})


def test_an_address_yet_unknown_is_no_redirect(planned: strategy.Strategy) -> None:
    planned.check()
    assert planned.new == [] and not planned.is_redirected()
    assert [one.text for one in planned.traffic.addresses] == ["198.19.0.100"]


def test_the_chosen_address_is_held_and_redirected_to(
    planned: strategy.Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(planned, "198.19.0.160")
    assert planned.changed_addresses() == {"198.19.0.100": "198.19.0.160"}
    assert [one.text for one in planned.traffic.addresses] == ["198.19.0.100", "198.19.0.160"]
    assert planned.plan["destination_endpoint"]["address"] == "198.19.0.160"
    assert not planned.is_redirected()
    monkeypatch.setattr(Traffic, "leads_to", "198.19.0.160")
    assert planned.is_redirected()


@pytest.mark.parametrize(
    ("address", "code"), [("198.19.0.161", "address_taken"), ("198.19.0.100", "address_mismatch")]
)
def test_a_chosen_address_of_somebody_else_is_not_taken_over(
    planned: strategy.Strategy, address: str, code: str
) -> None:
    """What follows a failure would delete its entries at the switch."""
    with pytest.raises(FlowferryError) as refused:
        chosen(planned, address)
    assert refused.value.code == code
    assert planned.new == [] and planned.plan["destination_endpoint"]["address"] == ""


def test_the_address_that_was_planned_is_not_news(planned: strategy.Strategy) -> None:
    traffic = planned.traffic
    planned.learn(dict(planned.plan["destination_endpoint"]))
    assert planned.traffic is traffic


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("leads_to", "198.19.0.7", "no_service"), ("held", True, "already_held")],
)
def test_a_switch_that_would_not_do_it_is_refused(
    planned: strategy.Strategy,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    code: str,
) -> None:
    monkeypatch.setattr(Traffic, name, value)
    with pytest.raises(FlowferryError, match=r"198.19.0.100") as refused:
        planned.check()
    assert refused.value.code == code
