# SPDX-License-Identifier: Apache-2.0
"""Ports that come and go while the switch runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from flowferry_p4.switch.errors import PortError
from flowferry_p4.switch.port_service import PortClient

from tests.integration.switch_bench import (
    GATEWAY_MAC,
    Bench,
    Controller,
    Host,
    bench,
    wait_until,
)
from tests.integration.switch_traffic import ping


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, hosts=1) as running:
        yield running


@pytest.fixture
def controller(made: Bench) -> Iterator[Controller]:
    with made.controller() as primary:
        primary.answer()
        primary.set_pipeline()
        made.add_routes(primary)
        yield primary


@pytest.fixture
def ports(made: Bench) -> Iterator[PortClient]:
    with grpc.insecure_channel(made.switch.address) as channel:
        yield PortClient(channel)


def route_to(controller: Controller, host: Host) -> None:
    controller.insert(
        "route",
        {"destination": f"{host.address}/32"},
        "forward",
        host.number,
        GATEWAY_MAC,
        host.mac,
    )


def hears(made: Bench, host: Host) -> bool:
    """Whether the first host gets an answer from another."""
    return ping(made.hosts[0], host.address, count=1, seconds=1) == 1


def test_a_port_is_added_lost_found_and_removed(
    made: Bench, controller: Controller, ports: PortClient
) -> None:
    host = Host(2, made.switch_namespace)
    try:
        route_to(controller, host)
        ports.add("2@port2")
        ports.add("2@port2")
        assert ports.list() == ["1@port1", "2@port2"]
        wait_until("the new port forwards", lambda: hears(made, host))
    finally:
        host.remove()
    links = made.switch_namespace
    wait_until("the interface is gone", lambda: "port2@" not in links.run("ip", "-o", "link"))
    again = Host(2, made.switch_namespace)
    try:
        wait_until("the interface that is there again forwards", lambda: hears(made, again))
        ports.remove(2)
        assert ports.list() == ["1@port1"]
        assert not hears(made, again)
    finally:
        again.remove()


def test_a_port_that_waits_gets_the_next_program(
    made: Bench, controller: Controller, ports: PortClient
) -> None:
    """The interface is away while a pipeline is set, and comes back to the new one."""
    host = Host(2, made.switch_namespace)
    ports.add("2@port2")
    host.remove()
    controller.set_pipeline()
    made.add_routes(controller)
    again = Host(2, made.switch_namespace)
    try:
        route_to(controller, again)
        wait_until("the port forwards", lambda: hears(made, again))
    finally:
        again.remove()


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("1@other", "port 1 is given twice"),
        ("3@port1", "interface port1 is given as two ports"),
        ("3@nowhere", "there is no interface nowhere here"),
        ("510@port2", "is the CPU port's number"),
        ("port2", "write NUMBER@INTERFACE"),
    ],
)
def test_ports_that_cannot_be_added(ports: PortClient, port: str, message: str) -> None:
    with pytest.raises(PortError, match=message):
        ports.add(port)
    assert ports.list() == ["1@port1"]


def test_a_port_that_is_not_there_cannot_be_removed(ports: PortClient) -> None:
    with pytest.raises(PortError, match="there is no port 7"):
        ports.remove(7)
