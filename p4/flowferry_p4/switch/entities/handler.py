# SPDX-License-Identifier: Apache-2.0
"""What every kind of entity can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import grpc
from finsy.proto import p4r

from ..entries import EntryError, EntryExists, EntryMissing, TableConstant, TableFull
from ..rpc_errors import RpcFailure, invalid

Undo: TypeAlias = Callable[[], object]
"""Puts back what a write changed. Undone in the opposite order, writes leave no trace."""

INSERT, MODIFY, DELETE = p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE

_CODES = {
    EntryExists: grpc.StatusCode.ALREADY_EXISTS,
    EntryMissing: grpc.StatusCode.NOT_FOUND,
    TableFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TableConstant: grpc.StatusCode.PERMISSION_DENIED,
}


class Handler(Protocol):
    """Reads and writes one kind of entity; raises RpcFailure or EntryError."""

    def write(self, kind: int, message: Any) -> Undo: ...

    def read(self, message: Any) -> Iterable[p4r.Entity]: ...


def failure_of(error: EntryError) -> RpcFailure:
    return RpcFailure(_CODES[type(error)], str(error))


def only_modify(kind: int, what: str) -> None:
    """For what is always there."""
    if kind != MODIFY:
        raise invalid(f"{what} can only be modified")


def check_index(index: int, size: int, what: str) -> None:
    if index < 0:
        raise invalid(f"{what}: the index {index} is negative")
    if index >= size:
        raise RpcFailure(grpc.StatusCode.OUT_OF_RANGE, f"{what} has no index {index}")
