# SPDX-License-Identifier: Apache-2.0
"""What the rules and the dashboard ask for is what agents and migrations tell."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ansible_collections.flowferry.core.plugins.plugin_utils.migration import metrics
from flowferry_p4.agent import metrics as agent

ROLE = Path(__file__).resolve().parents[3] / "roles" / "monitoring"
TOLD = {f"flowferry_{name}" for name in metrics._HELP} | {
    f"flowferry_agent_{name}" for name in agent._HELP
}


def asked(text: str) -> set[str]:
    """Names of metrics in expressions, without what Prometheus adds to a histogram's."""
    found = re.findall(r"\bflowferry_[a-z_]+", text)
    return {re.sub("_(bucket|sum|count)$", "", name) for name in found}


def test_the_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads((ROLE / "files" / "flowferry-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = asked("\n".join(expressions))
    assert names and names <= TOLD


def test_the_rules_ask_for_what_there_is() -> None:
    rules = (ROLE / "templates" / "rules.yml.j2").read_text()
    names = asked("\n".join(re.findall(r"expr: (?:>-\n\s+)?(.*)", rules)))
    assert names and names <= TOLD


def test_a_limit_of_a_hold_is_a_bound_of_the_histogram() -> None:
    """Between two bounds a quantile is only guessed."""
    defaults = (ROLE / "defaults" / "main.yml").read_text()
    limit = re.search(r"^monitoring_hold_limit: (.*)$", defaults, re.MULTILINE)
    assert limit and float(limit[1]) in metrics.HOLD_BOUNDS
