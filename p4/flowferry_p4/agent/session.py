# SPDX-License-Identifier: Apache-2.0
"""The agent's session with its switch, beside those of migrations and of people."""

from __future__ import annotations

from flowferry_p4.client import NotPrimary, Session, Tls

ROLE = "flowferry-agent"
"""P4Runtime elects a primary for each role, so the agent keeps nobody else from writing."""


def open_session(
    address: str, *, device_id: int = 1, tls: Tls | None = None, timeout: float = 30.0
) -> Session:
    """Primary for the agent's role. It takes over from an agent whose end the switch missed."""
    try:
        return Session.open(address, device_id=device_id, role=ROLE, tls=tls, timeout=timeout)
    except NotPrimary as error:
        return Session.open(
            address,
            device_id=device_id,
            election_id=(error.primary_election_id or 0) + 1,
            role=ROLE,
            tls=tls,
            timeout=timeout,
        )
