# SPDX-License-Identifier: Apache-2.0
"""P4Runtime for controllers: sessions with arbitration, and table entries by name.

with Session.open("198.18.0.2:9559") as session:
    session.write([Update("MODIFY", Entry("backend", {"backend_id": 1}, "translate",
                                          {"address": "198.19.0.12", "port": 6379}))])
"""

from __future__ import annotations

from .connection import Tls
from .entries import Counter, Entry, Key, Update, UpdateKind
from .errors import (
    BadTarget,
    BadValue,
    NoPipeline,
    NotPrimary,
    OtherPipeline,
    P4Error,
    SwitchUnreachable,
    UnknownName,
    WriteError,
)
from .schema import Field, Schema, Table, Value, cookie_of, parse_p4info
from .session import Pipeline, Session

__all__ = [
    "BadTarget",
    "BadValue",
    "Counter",
    "Entry",
    "Field",
    "Key",
    "NoPipeline",
    "NotPrimary",
    "OtherPipeline",
    "P4Error",
    "Pipeline",
    "Schema",
    "Session",
    "SwitchUnreachable",
    "Table",
    "Tls",
    "UnknownName",
    "Update",
    "UpdateKind",
    "Value",
    "WriteError",
    "cookie_of",
    "parse_p4info",
]
