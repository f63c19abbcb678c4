# SPDX-License-Identifier: Apache-2.0
"""How the agent and the controller are told to reach a switch that is secured."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence

import pytest
from flowferry_p4.agent.__main__ import parse_arguments as of_agent
from flowferry_p4.agent.controller import parse_arguments as of_controller
from flowferry_p4.agent.session import tls_of
from flowferry_p4.client import Tls

FILES = ("ca", "ca.crt"), ("cert", "own.pem"), ("key", "own.key"), ("name", "flowferry-switch")
WANTED = Tls(ca="ca.crt", cert="own.pem", key="own.key", server_name="flowferry-switch")


@pytest.mark.parametrize(
    ("parse", "needed", "switch"),
    [
        (of_agent, ["--node", "node1", "--without-cluster"], "switch"),
        (of_controller, ["--in-cluster"], "edge"),
    ],
    ids=["agent", "controller"],
)
def test_a_secured_switch_is_named_with_its_files(
    parse: Callable[[Sequence[str]], Namespace], needed: list[str], switch: str
) -> None:
    told = [text for name, value in FILES for text in (f"--{switch}-{name}", value)]
    assert tls_of(parse([*needed, *told]), switch) == WANTED
    assert tls_of(parse(needed), switch) is None
