# SPDX-License-Identifier: Apache-2.0
"""What the plan makes of a target: how packets are held, what that costs, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import switch_target
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.strategy import for_plan


class Clock:
    """Tells half a second more each time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.5
        return self.now


class Traffic:
    """Counts `step` packets more each time it is asked."""

    def __init__(self, step: int) -> None:
        self.step, self.counted, self.asked = step, 1_000_000, 0

    def packets(self) -> int:
        self.asked += 1
        self.counted += self.step
        return self.counted


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan for a target that is described by what differs from a good one."""

    def plan(traffic: Traffic, **differs: object) -> dict[str, Any]:
        content = {
            "description": "ours",
            "cpu_port": True,
            "packets_per_second": 100,
            "modifies_entries": True,
            "atomic_batches": False,
            "direct_counters": True,
            **differs,
        }
        path = tmp_path / "ours.yml"
        path.write_text(yaml.safe_dump(content))
        monkeypatch.setattr(switch_target, "time", Clock())
        hold = switch_target.HoldPlan(str(path))
        hold.begin_to_count(traffic)  # type: ignore[arg-type]
        return hold.as_dict()

    return plan


def test_without_a_cpu_port_packets_are_dropped_and_the_plan_says_what_that_costs(
    planned: Any,
) -> None:
    traffic = Traffic(1000)
    plan = planned(traffic, cpu_port=False)
    assert plan["hold"] == "drop" and plan["target"]["name"] == "ours"
    (cost,) = plan["costs"]
    assert "the target ours has no CPU port" in cost and "at least 200 ms" in cost
    assert traffic.asked == 0


def test_more_traffic_than_passes_the_cpu_port_is_said(planned: Any) -> None:
    plan = planned(Traffic(51))
    assert plan["hold"] == "buffer" and plan["packets_per_second"] == 102
    (cost,) = plan["costs"]
    assert cost.startswith("102 packets a second go to the endpoint, and 100 pass the CPU port")
    assert planned(Traffic(50))["costs"] == []


@pytest.mark.parametrize("differs", [{"packets_per_second": None}, {"direct_counters": False}])
def test_what_is_not_known_is_not_asked_for(planned: Any, differs: dict[str, object]) -> None:
    traffic = Traffic(1000)
    plan = planned(traffic, **differs)
    assert plan["costs"] == [] and "packets_per_second" not in plan and traffic.asked == 0


def test_a_target_that_cannot_redirect_is_refused() -> None:
    with pytest.raises(FlowferryError) as refused:
        switch_target.HoldPlan("bluefield")
    assert refused.value.code == "target_cannot_redirect"
    assert "p4_switch_target" in str(refused.value)


@pytest.mark.parametrize(
    ("switch", "action"),
    [
        ({}, "buffer"),
        ({"switch": {"hold": "buffer"}}, "buffer"),
        ({"switch": {"hold": "drop"}}, "drop"),
    ],
)
def test_a_plan_and_a_journal_decide_how_packets_are_held(
    switch: dict[str, Any], action: str
) -> None:
    class Session:
        """Notes what is written."""

        def __init__(self) -> None:
            self.actions: list[str] = []

        def on_packet(self, _: object) -> None:
            """Nothing comes."""

        def write(self, updates: list[Any]) -> None:
            self.actions += [update.entry.action for update in updates]

    session, endpoint = Session(), {"address": "198.19.0.100", "others": []}
    plan = {"strategy": "keep", "endpoint": endpoint, "destination_endpoint": endpoint, **switch}
    traffic = for_plan(session, plan).traffic  # type: ignore[arg-type]
    traffic.hold_ingress()
    traffic.hold_egress()
    assert session.actions == [action, action]
