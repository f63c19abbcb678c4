# SPDX-License-Identifier: Apache-2.0
"""The gRPC side of a session: the channel, its security, and its errors as errors of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from finsy.proto import p4r, rpc_code, rpc_status

from .errors import BadValue, NoPipeline, NotPrimary, P4Error, SwitchUnreachable, WriteError

_DETAILS_KEY = "grpc-status-details-bin"

_MOST_METADATA = 16 << 20

WRITE_METADATA = (("flowferry-max-metadata", str(_MOST_METADATA)),)
"""Sent with a Write: the embedded switch then shortens no list of errors. Others ignore it."""

_OPTIONS: list[tuple[str, int]] = [
    # A pipeline's device config and a full table are larger than gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The errors of a refused batch travel in the trailing metadata, one per update.
    ("grpc.max_metadata_size", _MOST_METADATA),
    ("grpc.absolute_max_metadata_size", _MOST_METADATA),
    # A switch is on a management network; http_proxy of the shell is not meant for it.
    ("grpc.enable_http_proxy", 0),
    # Sessions of one process stand and fall on their own.
    ("grpc.use_local_subchannel_pool", 1),
    # A switch that was away is asked again soon (milliseconds), however long it was: by default
    # the pauses between two tries grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True)
class Tls:
    """Files for a secured connection. Without ``ca`` the roots of the machine are trusted.

    ``cert`` and ``key`` prove who the controller is; ``token`` is sent as a bearer token with
    every call; ``server_name`` is the name in the switch's certificate, where that is not the
    address.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token: str | None = field(default=None, repr=False)
    server_name: str | None = None


def open_channel(address: str, tls: Tls | None) -> grpc.Channel:
    """A channel to the switch; nothing is sent yet."""
    if ":" not in address:
        raise BadValue(f"the address {address!r} has no port; write it as 198.18.0.2:9559")
    options: list[tuple[str, int | str]] = list(_OPTIONS)
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    if (tls.cert is None) != (tls.key is None):
        raise BadValue("TLS: a certificate needs its key and a key its certificate; give both")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_content("ca", tls.ca),
        private_key=_content("key", tls.key),
        certificate_chain=_content("cert", tls.cert),
    )
    if tls.token is not None:
        token = grpc.access_token_call_credentials(tls.token)
        credentials = grpc.composite_channel_credentials(credentials, token)
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.secure_channel(address, credentials, options=options)


def _content(what: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadValue(f"TLS: cannot read the {what} file {path}: {error.strerror}") from None


@dataclass(frozen=True)
class Peer:
    """Whom a session talks to; it turns gRPC's errors into sentences that name the switch."""

    address: str
    device_id: int

    def __str__(self) -> str:
        return f"switch {self.address}, device {self.device_id}"

    def error(self, error: grpc.RpcError, doing: str) -> P4Error:
        """What an RPC's failure means, for calls other than Write."""
        code, text = error.code(), error.details() or "no reason given"
        if code is grpc.StatusCode.UNAVAILABLE:
            return SwitchUnreachable(
                f"{self}: no P4Runtime server answers ({text}); "
                "check that the switch runs and that the address and port are right"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return SwitchUnreachable(
                f"{self}: no answer in time while {doing}; "
                "check the way to the switch, or raise the timeout"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return P4Error(f"{self}: the server does not support {doing}: {text}")
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return P4Error(
                f"{self}: it does not accept the credentials: {text}; "
                "check the token and the client certificate"
            )
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return NotPrimary(f"{self}: not allowed while {doing}: {text}")
        return P4Error(f"{self}: {doing} failed: {code.name}: {text}")

    def is_missing(self, error: grpc.RpcError) -> bool:
        """Whether a read of one entry failed because the entry is not there."""
        each = _each_update(error, 1)
        return error.code() is grpc.StatusCode.NOT_FOUND or any(
            code == "NOT_FOUND" for _, code, _ in each
        )

    def write_error(self, error: grpc.RpcError, labels: Sequence[str]) -> P4Error:
        """What a failed Write means: which updates were refused, and why."""
        each = _each_update(error, len(labels))
        if each:
            return WriteError(each, labels)
        code, text = error.code(), error.details() or "no reason given"
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            return NoPipeline(f"{self}: it takes no entries: {text}; load a pipeline first")
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        ):
            return self.error(error, "writing entries")
        # One update alone is the culprit; of several, the switch did not say which.
        return WriteError([(0 if len(labels) == 1 else -1, code.name, text)], labels)


def _each_update(error: grpc.RpcError, count: int) -> list[tuple[int, str, str]]:
    """The refused updates, from the p4.v1.Error list in the status details."""
    status = rpc_status.Status()
    # grpc-stubs types one item where gRPC returns a sequence of (key, value).
    metadata = cast("Sequence[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            status.ParseFromString(value)
    if len(status.details) != count:
        return []
    found = []
    for index, detail in enumerate(status.details):
        item = p4r.Error()
        if detail.Unpack(item) and item.canonical_code != rpc_code.OK:
            found.append((index, code_name(item.canonical_code), item.message or "no reason given"))
    return found


def code_name(code: Any) -> str:
    """Name of a canonical code: 6 is ALREADY_EXISTS."""
    return str(rpc_code.Code.Name(code)) if code in rpc_code.Code.values() else str(code)
