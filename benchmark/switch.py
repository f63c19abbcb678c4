# SPDX-License-Identifier: Apache-2.0
"""The route of the moving address at the lab's switch."""

from __future__ import annotations

import time

from flowferry_p4.client import Entry, Session, Update
from flowferry_p4.client.traffic import EndpointTraffic

from demo.lab_control import HOST_NUMBERS, Lab


def redirect(lab: Lab, node: str) -> None:
    """What an operator writes when the workload has moved by hand: one MODIFY, read back."""
    with lab.session(primary=True) as session:
        own = _route(session, f"{lab.data_network}.{HOST_NUMBERS[node]}")
        traffic = EndpointTraffic(session, lab.address)
        traffic.redirect(own.params["port"], own.params["destination_mac"])


def time_updates(lab: Lab, count: int) -> list[float]:
    """Milliseconds of each of so many MODIFYs of the route, which leave it as it is."""
    times = []
    with lab.session(primary=True) as session:
        update = Update("MODIFY", _route(session, lab.address))
        for _ in range(count):
            began = time.monotonic()
            session.write([update])
            times.append(round((time.monotonic() - began) * 1000, 3))
    return times


def forget(lab: Lab) -> None:
    """The address is not used any more; a migration that broke off may have left all of these."""
    with lab.session(primary=True) as session:
        found = [
            entry
            for table in ("route", "hold_to", "hold_from", "guard")
            for entry in session.read(table)
            if entry.match.get(_ADDRESS[table]) in (lab.address, f"{lab.address}/32")
        ]
        if found:
            session.write([Update("DELETE", entry) for entry in found])


_ADDRESS = {"route": "destination", "guard": "source", "hold_to": "address", "hold_from": "address"}
"""The match field that has an endpoint's address."""


def _route(session: Session, address: str) -> Entry:
    (route,) = session.read("route", {"destination": f"{address}/32"})
    return route
