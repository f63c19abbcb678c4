# SPDX-License-Identifier: Apache-2.0
"""Errors as P4Runtime reports them: a canonical code, and one per element of a batch.

The errors of a batch travel in the trailing metadata of the call. gRPC clients take 8 KiB of that
by default and break the call over more, so a long list is shortened in steps: first the messages
behind those that fit go, then all; each error keeps its place and its code for about 350 updates.
Beyond that the status names the failed updates as ranges. A client that takes more says so with
each call, in the metadata LIMIT_KEY, and then gets everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NoReturn

import grpc
from finsy.proto import p4r, rpc_status

DETAILS = "grpc-status-details-bin"
LIMIT_KEY = "flowferry-max-metadata"
_USUAL_LIMIT = 7000
"""Bytes of details that fit into 8 KiB with everything else, encoded as HTTP/2 has them."""
_RANGES = 20
_TYPE = "/p4.v1.Error"
"""The shortest name an Any can have for its message; receivers look behind the slash."""


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


def abort(context: grpc.ServicerContext, failure: RpcFailure) -> NoReturn:
    context.abort(failure.code, failure.message)
    raise AssertionError("unreachable: abort raises")


def abort_batch(
    context: grpc.ServicerContext, results: Sequence[RpcFailure | None], element: str
) -> NoReturn:
    """End a call of which some elements failed: one p4.v1.Error for each, in order."""
    failed = [i for i, result in enumerate(results) if result]
    first = results[failed[0]]
    assert first is not None
    message = f"{len(failed)} of {len(results)} {element}s failed, first #{failed[0]}: "
    message += first.message
    details = _fitting(results, message, _limit(context))
    if details is None:
        message += f"; too many for details of each: failed are {_ranges(failed)}"
    else:
        context.set_trailing_metadata(((DETAILS, details),))
    context.abort(grpc.StatusCode.UNKNOWN, message)
    raise AssertionError("unreachable: abort raises")


def _limit(context: grpc.ServicerContext) -> int:
    """Bytes of details that the client takes."""
    for key, value in context.invocation_metadata():
        if key == LIMIT_KEY and str(value).isdigit():
            return max(_USUAL_LIMIT, int(value) * 3 // 4 - 1024)
    return _USUAL_LIMIT


def _fitting(results: Sequence[RpcFailure | None], message: str, limit: int) -> bytes | None:
    """Details within the limit, with as many messages as possible."""
    spare = limit - len(_details(results, message, 0))
    if spare < 0:
        return None
    told = 0
    for result in results:
        spare -= len(_error(result, True)) + 4 if result else 0
        if spare < 0:
            break
        told += 1
    return _details(results, message, told)


def _details(results: Sequence[RpcFailure | None], message: str, told: int) -> bytes:
    status = rpc_status.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=message)
    for place, result in enumerate(results):
        status.details.add(type_url=_TYPE, value=_error(result, place < told))
    return bytes(status.SerializeToString())


def _error(result: RpcFailure | None, with_message: bool) -> bytes:
    error = p4r.Error(canonical_code=result.number if result else 0)
    if result and with_message:
        error.message = result.message
        error.space = "flowferry"
    return bytes(error.SerializeToString())


def _ranges(numbers: Sequence[int]) -> str:
    """`3-17, 40`, as far as it is readable."""
    found = list(_runs(numbers))
    more = f" and {len(found) - _RANGES} more ranges" if len(found) > _RANGES else ""
    return ", ".join(f"#{a}" if a == b else f"#{a}-{b}" for a, b in found[:_RANGES]) + more


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield run[0], run[-1]
