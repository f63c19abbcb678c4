# SPDX-License-Identifier: Apache-2.0
"""The agent's session with its switch, beside those of migrations and of people."""

from __future__ import annotations

import argparse

from flowferry_p4.client import NotPrimary, Session, Tls

ROLE = "flowferry-agent"
"""P4Runtime elects a primary for each role, so the agent keeps nobody else from writing."""


def add_tls_arguments(group: argparse._ArgumentGroup, switch: str) -> None:
    """``--SWITCH-ca`` and so on, for a P4Runtime server that is secured."""
    for name, metavar, about in (
        ("ca", "FILE", "who signs its certificate (PEM); with it the connection is secured"),
        ("cert", "FILE", "our own certificate (PEM), where it asks for one"),
        ("key", "FILE", "the key of that (PEM)"),
        ("name", "NAME", "the name in its certificate, where that is not its host"),
    ):
        group.add_argument(f"--{switch}-{name}", metavar=metavar, help=about)


def tls_of(options: argparse.Namespace, switch: str) -> Tls | None:
    """What add_tls_arguments asks for; None for a connection in the clear."""
    ca, cert, key, name = (getattr(options, f"{switch}_{n}") for n in ("ca", "cert", "key", "name"))
    return Tls(ca=ca, cert=cert, key=key, server_name=name) if ca else None


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
