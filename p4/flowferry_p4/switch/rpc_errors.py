# SPDX-License-Identifier: Apache-2.0
"""Errors as P4Runtime reports them: a canonical code, and one per update of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import grpc
from finsy.proto import p4r, rpc_status

DETAILS = "grpc-status-details-bin"
DETAILS_LIMIT = 7000
"""gRPC clients take 8 KiB of trailing metadata by default, and break the call over more."""


class RpcFailure(Exception):
    """A request, or one update of a batch, that fails with a canonical code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)

    @property
    def number(self) -> int:
        return int(self.code.value[0])


def invalid(message: str) -> RpcFailure:
    return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> RpcFailure:
    return RpcFailure(grpc.StatusCode.NOT_FOUND, message)


def unimplemented(message: str) -> RpcFailure:
    return RpcFailure(grpc.StatusCode.UNIMPLEMENTED, message)


def abort_batch(context: grpc.ServicerContext, results: Sequence[RpcFailure | None]) -> NoReturn:
    """End a Write of which some updates failed: one p4.v1.Error for each update, in order."""
    failures = [(i, r) for i, r in enumerate(results) if r]
    first, failure = failures[0]
    message = f"{len(failures)} of {len(results)} updates failed, first #{first}: {failure.message}"
    for with_messages in (True, False):
        details = _details(results, message, with_messages)
        if len(details) <= DETAILS_LIMIT:
            context.set_trailing_metadata(((DETAILS, details),))
            break
    else:
        message += "; the batch is too long for details of each update"
    context.abort(grpc.StatusCode.UNKNOWN, message)
    raise AssertionError("unreachable: abort raises")


def _details(results: Sequence[RpcFailure | None], message: str, with_messages: bool) -> bytes:
    status = rpc_status.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=message)
    for result in results:
        error = p4r.Error(canonical_code=result.number if result else 0)
        if result and with_messages:
            error.message = result.message
            error.space = "flowferry"
        status.details.add().Pack(error)
    return bytes(status.SerializeToString())
