# SPDX-License-Identifier: Apache-2.0
"""The helper: what runs on a node while a workload moves, and does what the keeper asks.

It listens on one TCP port with one-time certificates. The keeper sends requests, one JSON object a
line ({"op", ...} -> {"result"} or {"error"}); the source's helper sends the checkpoint to the
destination's. It decides nothing by itself: a helper whose keeper is gone leaves everything as it
is, and ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .endpoint import Endpoint, create, find
from .errors import FlowferryError
from .runtimes.podman import PodmanContainer
from .transfer import JsonLines, Sender, receive, tls_context

STATE = Path("/run/flowferry")
# Nobody has asked for anything for this long (seconds): the controller is gone for good.
IDLE_LIMIT = 120.0


class Operations:
    """The requests of the keeper, by name. Each can be repeated without harm."""

    def __init__(self, workload: str, certificates: dict[str, str]) -> None:
        self.container = PodmanContainer(workload)
        self.certificates = certificates
        # A checkpoint is the memory of a process: in memory, private, and gone afterwards. The name
        # is fixed, so that the next helper removes what a killed one left.
        self.directory = Path(f"/dev/shm/flowferry-{workload}")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700)
        self.received: Path | None = None
        self.arrived = threading.Event()
        self._sender: Sender | None = None

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """What can be asked for."""
        names = "describe check_source check_destination prepare connect freeze checkpoint transfer"
        names += " restore resume remove discard die_for_test"
        return {name: getattr(self, name) for name in names.split()}

    def describe(self) -> dict[str, Any] | None:
        return self.container.describe()

    def check_source(self) -> dict[str, Any]:
        return self.container.check_source()

    def check_destination(self, about: dict[str, Any]) -> None:
        self.container.check_destination(about, str(self.directory))

    def prepare(self, endpoint: dict[str, str]) -> None:
        """Make the namespace that the copy will wake up in."""
        create(Endpoint(**endpoint))

    def connect(self, host: str, port: int) -> None:
        """Open the stream to the destination before anything is held."""
        context = tls_context(self.certificates, server=False)
        self._sender = Sender(host, port, context, timeout=5.0)

    def freeze(self, container_id: str) -> None:
        self.container.freeze(container_id)

    def checkpoint(self) -> dict[str, Any]:
        archive = self.directory / "checkpoint.tar"
        archive.unlink(missing_ok=True)
        self.container.checkpoint(archive)
        return {"size": archive.stat().st_size}

    def transfer(self) -> dict[str, Any]:
        if self._sender is None:
            raise FlowferryError("transfer_failed", "the stream to the destination is not open")
        return self._sender.send(self.directory / "checkpoint.tar")

    def restore(self) -> dict[str, Any]:
        # The sender hears of the arrival a moment before it is noted here.
        self.arrived.wait(10.0)
        if self.received is None:
            raise FlowferryError("restore_failed", "no checkpoint has arrived")
        return self.container.restore(self.received)

    def resume(self, container_id: str) -> None:
        self.container.resume(container_id)

    def remove(self, endpoint: dict[str, str]) -> None:
        """The source is not needed any more: end it, and shred its checkpoint."""
        self.container.remove(Endpoint(**endpoint))

    def discard(self, endpoint: dict[str, str]) -> None:
        """Undo what was done at the destination: the copy, its network, a restore under way."""
        self.container.remove(Endpoint(**endpoint))
        if self.container.inspect() is not None or find(endpoint["namespace"]) is not None:
            raise FlowferryError("discard_failed", "the copy is still there")

    def die_for_test(self) -> None:
        """For the tests: end at once, as by the kernel's out-of-memory killer."""
        os.kill(os.getpid(), signal.SIGKILL)

    def clean(self) -> None:
        """Leave no trace of the checkpoint."""
        if self._sender is not None:
            self._sender.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Helper:
    """The server: every connection in a thread, one keeper at a time."""

    def __init__(self, operations: Operations, listener: socket.socket) -> None:
        self._operations = operations
        self._listener = listener
        self._context = tls_context(operations.certificates, server=True)
        self._last_use = time.monotonic()
        self._finished = threading.Event()

    def serve(self) -> None:
        """Until the keeper says goodbye, is gone, or nobody has come for a while."""
        threading.Thread(target=self._accept, daemon=True).start()
        while not self._finished.wait(1.0):
            if time.monotonic() - self._last_use > IDLE_LIMIT:
                break
        self._operations.clean()

    def _accept(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            threading.Thread(target=self._connection, args=(plain,), daemon=True).start()

    def _connection(self, plain: socket.socket) -> None:
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines = JsonLines(self._context.wrap_socket(plain, server_side=True))
            hello = lines.receive() or {}
            if hello.get("hello") == "transfer":
                self._operations.received = receive(lines, self._operations.directory)
                self._operations.arrived.set()
            elif hello.get("hello") == "keeper":
                self._serve_keeper(lines)
        except (OSError, ssl.SSLError, ValueError) as error:
            print(f"connection ended: {error}", file=sys.stderr, flush=True)

    def _serve_keeper(self, lines: JsonLines) -> None:
        handlers = self._operations.handlers()
        try:
            while (request := lines.receive()) is not None:
                self._last_use = time.monotonic()
                name = request.pop("op")
                if name == "goodbye":
                    break
                lines.send(_answer(handlers[name], request))
        finally:
            self._finished.set()


def _answer(handler: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        result = handler(**arguments)
    except FlowferryError as error:
        return {"error": error.as_dict()}
    except Exception as error:  # whatever it is, the keeper must hear of it and roll back
        return {"error": {"code": "helper_failed", "message": f"{type(error).__name__}: {error}"}}
    return {"result": result, "ms": round((time.monotonic() - started) * 1000, 3)}


def end_previous(workload: str) -> None:
    """End the helper that an interrupted migration of this workload left, and what it started."""
    pid_file = STATE / f"helper-{workload}.pid"
    if not pid_file.exists():
        return
    pid, started = pid_file.read_text().split()
    if _start_time(int(pid)) == started:
        for child in _descendants(int(pid)):
            _kill(child)
        _kill(int(pid))
    pid_file.unlink()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 5.0
    while _start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.005)


def _start_time(pid: int) -> str:
    """Clock ticks since boot at which the process started; empty when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _descendants(pid: int) -> list[int]:
    """Commands of the helper that run now (podman, criu), but not what they made (conmon)."""
    found: list[int] = []
    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat_file.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat_file.parent.name))
    return found


def start(workload: str, address: str, port: int, certificates: dict[str, str]) -> dict[str, Any]:
    """Start the helper in the background; returns its pid, and the port that it listens on."""
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    end_previous(workload)
    listener = socket.create_server((address, port))
    pid = os.fork()
    if pid == 0:
        _become_helper(workload, listener, certificates)
    os.waitpid(pid, 0)
    pid_file = STATE / f"helper-{workload}.pid"
    deadline = time.monotonic() + 10.0
    while not pid_file.exists():
        if time.monotonic() > deadline:
            raise FlowferryError("helper_failed", f"the helper did not start; see {_log(workload)}")
        time.sleep(0.005)
    helper_pid = int(pid_file.read_text().split()[0])
    return {"pid": helper_pid, "port": listener.getsockname()[1], "log": str(_log(workload))}


def _log(workload: str) -> Path:
    return STATE / f"helper-{workload}.log"


def _become_helper(workload: str, listener: socket.socket, certificates: dict[str, str]) -> None:
    """A daemon: a session of its own, the module's pipes closed, a log file."""
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    log = os.open(_log(workload), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    os.chdir("/")
    for descriptor, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.closerange(3, listener.fileno())
    os.closerange(listener.fileno() + 1, 256)
    status = 0
    try:
        operations = Operations(workload, certificates)
        helper = Helper(operations, listener)
        pid_file = STATE / f"helper-{workload}.pid"
        temporary = pid_file.with_suffix(".new")
        temporary.write_text(f"{os.getpid()} {_start_time(os.getpid())}")
        temporary.replace(pid_file)
        helper.serve()
        pid_file.unlink(missing_ok=True)
    except Exception as error:  # the log is the only place where it can be said
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        status = 1
    os._exit(status)
