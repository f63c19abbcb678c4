# SPDX-License-Identifier: Apache-2.0
"""The helper: what runs on a node while a workload moves, and does what the keeper asks.

It listens on one TCP port with one-time certificates. The keeper sends requests, one JSON object a
line ({"op", ...} -> {"result"} or {"error"}); the source's helper sends the checkpoint to the
destination's. It decides nothing by itself: a helper whose keeper is gone leaves everything as it
is, and ends.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from . import node
from .checkpoint.images import pycriu
from .endpoint import Endpoint, create, endpoint_with, find
from .errors import FlowferryError
from .memory import requests, userfault
from .memory import stream as memory
from .memory.post_copy_destination import PostCopyReceiver
from .memory.post_copy_source import PostCopySender
from .own_time import OWN
from .processes import start_time
from .reserve import Reserve
from .runtimes.base import PATIENCE, About, Workload
from .runtimes.registry import open_workload
from .transfer import JsonLines, Sender, receive, tls_context
from .unsettled import Lookout
from .volumes.operations import VolumeOperations

STATE = Path("/run/flowferry")
# Nobody has asked for anything for this long (seconds): the controller is gone for good.
IDLE_LIMIT = 120.0


class Operations:
    """The requests of the keeper, by name. Each can be repeated without harm.

    ``about`` is what check_source() said on the source, ``endpoint`` this node's end of the move.
    """

    def __init__(self, workload: Workload, certificates: dict[str, str]) -> None:
        self.workload = workload
        self.certificates = workload.certificates = certificates
        # A checkpoint is the memory of a process: in memory, private, and gone afterwards. The name
        # is fixed, so that the next helper removes what a killed one left.
        self.directory = Path(f"/dev/shm/flowferry-{workload.file_name}")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700)
        # Says that a copy was ended whose memory could not follow it.
        self._lost = STATE / f"lost-{workload.file_name}"
        self.has_arrived = threading.Event()
        self._sender: Sender | None = None
        self._lookout: Lookout | None = None
        self._reserves: dict[str, Reserve] = {}
        """For what takes memory while clients wait, by its name."""
        self.volumes = VolumeOperations(workload, certificates)

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """What can be asked for."""
        names = "describe check_source check_destination prepare_source prepare_destination freeze"
        names += " checkpoint transfer rewrite restore resume remove discard find_endpoint"
        names += " last_pass new_endpoint check_kernel cpu_image check_cpu die_for_test"
        names += " memory_state"
        handlers = {name: getattr(self, name) for name in names.split()}
        handlers |= self.volumes.handlers()
        return handlers | {name: getattr(self.workload, name) for name in self.workload.operations}

    def describe(self) -> About | None:
        return self.workload.describe()

    def check_source(self) -> About:
        return self.workload.check_source()

    def check_destination(self, about: About) -> None:
        if about.get("post_copy"):
            userfault.check()
        self.workload.check_destination(about, self.directory)

    def check_kernel(self) -> None:
        node.check_kernel()

    def cpu_image(self) -> str:
        return node.cpu_image()

    def check_cpu(self, image: str) -> None:
        node.check_cpu(image)

    def find_endpoint(self, namespace: str) -> dict[str, Any] | None:
        """The endpoint in a namespace of this node."""
        found = find(namespace)
        return found.as_dict() if found else None

    def new_endpoint(self, namespace: str, addresses: list[str]) -> dict[str, Any]:
        """The endpoint that would be made for these addresses."""
        return endpoint_with(namespace, addresses).as_dict()

    def prepare_destination(self, about: About, endpoint: dict[str, Any], rewrites: bool) -> None:
        """Make the network that the copy will wake up in."""
        if rewrites:
            pycriu()
        if self.workload.has_much_memory(about):
            self.workload.memory_receiver = self._receiver_of_memory(about)
        self.workload.prepare_destination(about, Endpoint(**endpoint))
        self.volumes.prepare(about)
        self._have_ready(about, "receive", "restore")

    def prepare_source(self, about: About, host: str, port: int) -> None:
        """Open the stream to the destination before anything is held."""
        context = tls_context(self.certificates, server=False)
        self._sender = Sender(host, port, context, timeout=5.0)
        if self.workload.has_much_memory(about):
            sender = PostCopySender if about.get("post_copy") else memory.Sender
            self.workload.memory_sender = sender(host, port, context, timeout=5.0)
        self.workload.prepare_source(about)
        self._lookout = Lookout(self.workload.network(about))
        self.volumes.name_lineage(about)
        self._have_ready(about, "checkpoint")

    def _receiver_of_memory(self, about: About) -> memory.Receiver | PostCopyReceiver:
        if about.get("post_copy"):
            if self._post_copy is not None:
                self._post_copy.close()
            self._lost.unlink(missing_ok=True)
            return PostCopyReceiver(self._lost)
        return memory.Receiver(about["memory_bytes"])

    @property
    def _post_copy(self) -> PostCopyReceiver | None:
        receiver = self.workload.memory_receiver
        return receiver if isinstance(receiver, PostCopyReceiver) else None

    def _have_ready(self, about: About, *purposes: str) -> None:
        """What can be taken and looked for before anything is held."""
        size = int(about.get("memory_bytes", 0))
        if self.workload.has_much_memory(about):  # what goes apart has its own
            size = memory.WORTH_IT
        for purpose in purposes:
            self._reserves[purpose] = Reserve(size)
        gc.collect()
        gc.freeze()

    def _begin(self, purpose: str) -> None:
        """Clients wait for this now."""
        reserve = self._reserves.pop(purpose, None)
        if reserve is not None:
            reserve.let_go()

    def freeze(self, about: About, last: bool) -> bool:
        """Freeze it unless connections are unsettled: then it goes on, and the answer is False.

        A program may connect to itself until it stands still, so that is looked at again. The
        ``last`` time, what cannot be waited for any longer is an error.
        """
        if not self._is_settled(about, last):
            return False
        self.workload.freeze(about)
        if self._is_settled(about, last):
            return True
        self.workload.resume(about)
        return False

    def _is_settled(self, about: About, last: bool) -> bool:
        if self._lookout is None:
            self._lookout = Lookout(self.workload.network(about))
        unsettled = self._lookout.look()
        if last:
            unsettled.refuse(self.workload.title)
        return last or not unsettled

    def checkpoint(self, about: About) -> dict[str, int]:
        """The dump, and beside it what has changed in volumes; says how many bytes that was.

        What is dumped is sent while the dump goes on.
        """
        directory = self._empty_checkpoint()
        self._begin("checkpoint")
        with ExitStack() as beside:
            said = beside.enter_context(self.volumes.last_pass())
            growing = self.workload.growing_files
            if growing and self._sender is not None:
                beside.enter_context(self._sender.following(directory, growing))
            self.workload.checkpoint(about, directory)
        return said

    def last_pass(self, about: About) -> None:
        """The last pass over volumes by itself, beside a dump that the keeper asks others for."""
        with self.volumes.last_pass():
            pass

    def transfer(self) -> dict[str, Any]:
        """What of the checkpoint is not sent yet; memory that goes apart may be under way still."""
        if self._sender is None:
            raise FlowferryError("transfer_failed", "the stream to the destination is not open")
        sent = self._sender.send(self.directory / "checkpoint")
        apart = self.workload.memory_sender
        return {**sent, "size": sent["size"] + (apart.bytes if apart else 0)}

    def receive_memory(self, lines: JsonLines) -> None:
        """What the source sends apart from its checkpoint."""
        if self.workload.memory_receiver is not None:
            self.workload.memory_receiver.receive(lines)

    def take_requests(self, lines: JsonLines) -> None:
        """How the source is asked for memory that a copy misses."""
        if self._post_copy is not None:
            self._post_copy.take_requests(lines)

    def receive(self, lines: JsonLines) -> None:
        """What the source's transfer() sends."""
        if receive(lines, self._empty_checkpoint(), lambda: self._begin("receive")):
            self.has_arrived.set()

    def rewrite(self, about: About, addresses: dict[str, str]) -> None:
        """Give the checkpoint's sockets other addresses, {old: new}."""
        self.workload.rewrite(about, self._arrived(), addresses)

    def restore(self, about: About) -> None:
        self._begin("restore")
        with self.volumes.ready(about):
            self.workload.restore(about, self._arrived())
        if self._post_copy is not None:
            self._post_copy.begin()

    def memory_state(self) -> dict[str, Any]:
        """How much of a copy's memory has followed it; ``done`` says whether that is all.

        A helper that comes later knows of what has failed only.
        """
        if self._post_copy is not None:
            return self._post_copy.state()
        if self._lost.exists():
            raise FlowferryError("post_copy_failed", "memory of the copy was lost, so it was ended")
        return {"done": True}

    def _arrived(self) -> Path:
        # The sender hears of the arrival a moment before it is noted here.
        if not self.has_arrived.wait(10.0):
            raise FlowferryError("restore_failed", "no checkpoint has arrived")
        return self.directory / "checkpoint"

    def resume(self, about: About) -> None:
        self.workload.resume(about)

    def remove(self, about: About, endpoint: dict[str, Any]) -> None:
        """The source is not needed any more: end it, and shred its checkpoint."""
        self.workload.remove(about, Endpoint(**endpoint))
        self.volumes.leave(about)

    def discard(self, about: About, endpoint: dict[str, Any], warm: bool) -> None:
        """Undo what was done at the destination: the copy, its network and volumes, a restore.

        A ``warm`` endpoint was there before, and so it is afterwards.
        """
        if self._post_copy is not None:
            self._post_copy.close()
        self.workload.remove(about, Endpoint(**endpoint))
        if self.workload.describe() is not None or find(endpoint["namespace"]) is not None:
            raise FlowferryError("discard_failed", "the copy is still there")
        self._lost.unlink(missing_ok=True)
        self.volumes.discard(about)
        if warm:
            create(Endpoint(**endpoint))

    def die_for_test(self) -> None:
        """For the tests: end at once, as by the kernel's out-of-memory killer."""
        os.kill(os.getpid(), signal.SIGKILL)

    def clean(self) -> None:
        """Leave no trace of the checkpoint."""
        self.volumes.close()
        if self._is_followed():
            _follows(self.workload).touch()  # without the keeper
        if self._post_copy is not None:
            self._post_copy.settle(PATIENCE)
            self._post_copy.close()
        if self._sender is not None:
            self._sender.close()
        if self.workload.memory_sender is not None:
            self.workload.memory_sender.close()
        if self._lookout is not None:
            self._lookout.close()
            self._lookout = None
        _follows(self.workload).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _is_followed(self) -> bool:
        """Whether memory follows a copy that runs, from here or to here."""
        ends = (self.workload.memory_sender, self.workload.memory_receiver)
        return any(end is not None and end.is_under_way for end in ends)

    def _empty_checkpoint(self) -> Path:
        directory = self.directory / "checkpoint"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        return directory


class Helper:
    """The server: every connection in a thread, one keeper at a time."""

    def __init__(self, operations: Operations, listener: socket.socket) -> None:
        self._operations = operations
        self._listener = listener
        self._context = tls_context(operations.certificates, server=True)
        self._last_use = time.monotonic()
        self._finished = threading.Event()
        self._busy = threading.Lock()
        """Held while the keeper's request is carried out."""
        self._end_asked: SimpleQueue[None] = SimpleQueue()

    def serve(self) -> None:
        """Until the keeper says goodbye, is gone, or nobody has come for a while."""
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._end_as_asked, daemon=True).start()
        while not self._finished.wait(1.0):
            if time.monotonic() - self._last_use > IDLE_LIMIT:
                break
        self._operations.clean()

    def end_when_idle(self) -> None:
        """Another helper is to take over: finish what the keeper asked for, and end.

        The handler of a signal may call it: it takes no lock, which the main thread could hold.
        """
        self._end_asked.put(None)

    def _end_as_asked(self) -> None:
        self._end_asked.get()
        with self._busy:
            self._finished.set()

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
                self._operations.receive(lines)
            elif hello.get("hello") == memory.PURPOSE:
                self._operations.receive_memory(lines)
            elif hello.get("hello") == requests.REQUESTS:
                self._operations.take_requests(lines)
            elif hello.get("hello") == "volumes":
                self._operations.volumes.receive(lines)
            elif hello.get("hello") == "keeper":
                self._serve_keeper(lines)
        except (OSError, ssl.SSLError, ValueError, FlowferryError) as error:
            print(f"connection ended: {error}", file=sys.stderr, flush=True)

    def _serve_keeper(self, lines: JsonLines) -> None:
        handlers = self._operations.handlers()
        try:
            while (request := lines.receive()) is not None:
                self._last_use = time.monotonic()
                name = request.pop("op")
                if name == "goodbye":
                    break
                with self._busy:
                    answer = _answer(handlers[name], request)
                lines.send(answer)
        finally:
            self._finished.set()


def _answer(handler: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        with OWN.counted():
            result = handler(**arguments)
    except FlowferryError as error:
        return {"error": error.as_dict()}
    except Exception as error:  # whatever it is, the keeper must hear of it and roll back
        return {"error": {"code": "helper_failed", "message": f"{type(error).__name__}: {error}"}}
    ms = round((time.monotonic() - started) * 1000, 3)
    return {"result": result, "ms": ms, "own_ms": OWN.take_ms()}


def end_previous(workload: Workload) -> None:
    """End the helper that an interrupted migration of this workload left, and what it started."""
    pid_file = STATE / f"helper-{workload.file_name}.pid"
    if not pid_file.exists():
        return
    pid, started = map(int, pid_file.read_text().split())
    if start_time(pid) == started:
        commands = [(child, start_time(child)) for child in _descendants(pid)]
        os.kill(pid, signal.SIGTERM)
        # What it runs comes to its end: a dump that is killed harms what it dumps.
        _await_end(pid, started, PATIENCE)
        if start_time(pid) == started and _follows(workload).exists():
            raise FlowferryError(
                "memory_follows",
                f"memory still follows the copy of {workload.title}, which an interrupted "
                "migration has started; run the playbook again when that is over",
            )
        _kill(pid)
        for child, born in commands:
            if start_time(child) == born:
                _kill(child)
    pid_file.unlink(missing_ok=True)


def _follows(workload: Workload) -> Path:
    """Is there while a helper without a keeper waits until a copy has all of its memory."""
    return STATE / f"follows-{workload.file_name}"


def _await_end(pid: int, started: int, limit: float) -> None:
    deadline = time.monotonic() + limit
    while start_time(pid) == started and time.monotonic() < deadline:
        time.sleep(0.01)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 5.0
    while start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.005)


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


def start(text: str, address: str, port: int, certificates: dict[str, str]) -> dict[str, Any]:
    """Start the helper in the background; returns its pid, and the port that it listens on."""
    workload = open_workload(text)
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    end_previous(workload)
    listener = socket.create_server((address, port))
    pid = os.fork()
    if pid == 0:
        _become_helper(workload, listener, certificates)
    os.waitpid(pid, 0)
    pid_file = STATE / f"helper-{workload.file_name}.pid"
    deadline = time.monotonic() + 10.0
    while not pid_file.exists():
        if time.monotonic() > deadline:
            raise FlowferryError("helper_failed", f"the helper did not start; see {_log(workload)}")
        time.sleep(0.005)
    helper_pid = int(pid_file.read_text().split()[0])
    return {"pid": helper_pid, "port": listener.getsockname()[1], "log": str(_log(workload))}


def _log(workload: Workload) -> Path:
    return STATE / f"helper-{workload.file_name}.log"


def _become_helper(
    workload: Workload, listener: socket.socket, certificates: dict[str, str]
) -> None:
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
        signal.signal(signal.SIGTERM, lambda *_: helper.end_when_idle())
        pid_file = STATE / f"helper-{workload.file_name}.pid"
        temporary = pid_file.with_suffix(".new")
        temporary.write_text(f"{os.getpid()} {start_time(os.getpid())}")
        temporary.replace(pid_file)
        helper.serve()
        pid_file.unlink(missing_ok=True)
    except Exception as error:  # the log is the only place where it can be said
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        status = 1
    os._exit(status)
