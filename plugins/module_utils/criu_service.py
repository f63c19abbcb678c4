# SPDX-License-Identifier: Apache-2.0
"""CRIU by its RPC interface: started beforehand, so that a request finds it warm.

`criu swrk` is CRIU's own way to serve one request over a socket that it inherits (criu.org/RPC; the
messages are those of rpc.proto, which pycriu has). Started by its command line CRIU needs 5 ms more
for a dump, all of it while the workload stands still.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from .checkpoint.images import pycriu
from .commands import run
from .criu import complaints
from .errors import FlowferryError

LOG = "criu.log"
_LARGEST_ANSWER = 1 << 16
# Puts itself, and so whatever it becomes or starts, into the cgroup whose file is named first.
_ENTER = 'echo $$ >"$0" && exec "$@"'


LAST_STEP = "pre-resume"
"""Of a restore: every process is what it was, and none runs."""
KERNEL_DATA = Path("/run/criu.kdat")
"""What CRIU finds out about the kernel; it looks again when that is gone, which takes 45 ms."""
# The switch holds the traffic, so CRIU need not lock the network. Cgroups stay as they are.
OPTIONS = {
    "tcp_established": True,
    "network_lock": "SKIP",
    "manage_cgroups": True,
    "manage_cgroups_mode": "IGNORE",
    "file_locks": True,
    "ghost_limit": 64 << 20,
}
"""Of CRIU. Files that were deleted while they were open go along, up to the limit in bytes."""


class Process(Protocol):
    """Of a program that was started."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended."""


def learn_kernel() -> None:
    """Have CRIU find out about the kernel now, unless it has."""
    if not KERNEL_DATA.exists():
        run(["criu", "check"])


def _rpc() -> Any:
    """pycriu's classes of CRIU's messages."""
    return pycriu("rpc_pb2", "speaks with CRIU")


class CriuService:
    """One CRIU that runs in a network namespace, and waits for its one request.

    ``cgroup`` is a directory of a hierarchy of version 1 that it, and so what it restores, is in,
    and ``keep`` are descriptors that it inherits.
    It ends by itself when this object or its process does, unless it is at work.
    """

    def __init__(
        self, namespace: Path, cgroup: Path | None = None, keep: Iterable[int] = ()
    ) -> None:
        enter = ["sh", "-c", _ENTER, str(cgroup / "cgroup.procs")] if cgroup else []

        def begin(descriptor: int) -> Process:
            return subprocess.Popen(
                ["nsenter", f"--net={namespace}", *enter, "criu", "swrk", str(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=[descriptor, *keep],
                start_new_session=True,
            )

        self._start(begin)

    def _start(self, begin: Callable[[int], Process]) -> None:
        """Have one begin that serves a socket, by the number of its descriptor."""
        _rpc()
        self._on_step: Callable[[str, int], None] | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process: Process = begin(theirs.fileno())

    def dump(self, images: Path, timeout: float, **options: Any) -> None:
        """Dump into the directory ``images``; ``options`` are fields of rpc.proto's criu_opts.

        ``page_server`` is the descriptor of a socket, which gets memory instead of the directory.
        """
        self._request("DUMP", "checkpoint_failed", images, timeout, options)

    def restore(
        self,
        images: Path,
        timeout: float,
        on_step: Callable[[str, int], None] | None = None,
        **options: Any,
    ) -> None:
        """Restore from the directory ``images``; the processes go on without CRIU.

        ``on_step`` is told what CRIU has done, while it waits.
        """
        if on_step is not None:
            self._on_step = on_step
            options["notify_scripts"] = True
        self._request("RESTORE", "restore_failed", images, timeout, options)

    def _request(
        self, kind: str, code: str, images: Path, timeout: float, options: dict[str, Any]
    ) -> None:
        rpc = _rpc()
        request = rpc.criu_req(type=getattr(rpc, kind))
        # A directory is named by its path where the descriptor, a required field, is -1.
        fields = {"images_dir_fd": -1, "images_dir": self._path(images), "log_file": LOG, **options}
        if "page_server" in fields:
            request.opts.ps.fd = fields.pop("page_server")
        for key, number in fields.pop("inherit_fd", {}).items():
            request.opts.inherit_fd.add(key=key, fd=number)
        for name, value in fields.items():
            setattr(request.opts, name, getattr(rpc, value) if _is_constant(value) else value)
        answer = rpc.criu_resp()
        try:
            self._socket.settimeout(timeout)
            self._socket.send(request.SerializeToString())
            while data := self._socket.recv(_LARGEST_ANSWER):
                answer.ParseFromString(data)
                if answer.type != rpc.NOTIFY:
                    break
                self._notified(answer.notify)
        except socket.timeout:
            # A dump is not killed: CRIU has put code of its own into the processes.
            raise FlowferryError(code, f"CRIU did not answer within {timeout:g} s") from None
        except OSError as error:
            raise FlowferryError(code, f"CRIU is gone: {error}") from error
        if not data:
            reason = complaints(images / LOG)
            raise FlowferryError(code, reason or "CRIU ended without an answer")
        if not answer.success:
            reason = complaints(images / LOG) or answer.cr_errmsg
            raise FlowferryError(code, reason or f"CRIU ended with error {answer.cr_errno}")

    def _path(self, path: Path) -> str:
        """How CRIU calls a path of this node."""
        return str(path)

    def _notified(self, step: Any) -> None:
        """CRIU says what it has done, and waits; it does so only if ``notify_scripts`` is set."""
        rpc = _rpc()
        if self._on_step is not None:
            self._on_step(step.script, step.pid)
        self._socket.send(rpc.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString())

    def close(self) -> None:
        """An idle one ends; what it has restored goes on. Nobody waits for its end."""
        self._socket.close()
        threading.Thread(target=self._process.wait, daemon=True).start()

    def end(self) -> None:
        """The same, and returns when it has ended, unless that takes long."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):  # at work on a request that took too long
            self._process.wait(timeout=5.0)


def _is_constant(value: Any) -> bool:
    """Whether an option is the name of one of rpc.proto's constants, such as ``SKIP``."""
    return isinstance(value, str) and value.isupper()
