# SPDX-License-Identifier: Apache-2.0
"""A node with containers, for test_direct.py: what a runtime makes of them, without a runtime.

    direct_bed.py node REPOSITORY ROOT DIRECTORY KIND
        in mounts and process ids of its own: becomes a node from the lab's root, and goes on as
        follows; standard input is the placeholder
    direct_bed.py moves KIND
        moves a program from container to container, and says what it finds, one JSON object a line
    direct_bed.py container NAME KIND COMMAND...
        becomes the container

KIND is "writable" or "read-only", as the containers' root is, or "prepared": that of a container
whose application is the child of an init.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

BED = Path("/bed")
CONTAINERS = ("first", "second", "third")
PLACEHOLDER = "/.flowferry/placeholder"
UTILS = "ansible_collections.flowferry.core.plugins.module_utils"
GROUPS = Path("/sys/fs/cgroup/freezer") / os.environ.get("FF_DIRECT_GROUP", "")
# unshare(2): mounts, host name, IPC, process ids, network; umount2(2): detach.
_SPACES = (0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000)
_DETACH = 2
COUNT = 100
"""The descriptor of a file that has the count."""
MEMORY = 24 << 20
"""Bytes that the program has, which go apart from the checkpoint."""
# Counts over a connection with itself, and notes that outside of any volume where it can; it ends
# if what it has in memory changes.
PROGRAM = """
import os, pathlib, socket, time, zlib

memory = os.urandom(MEMORY)
known = zlib.crc32(memory)

server = socket.create_server(("127.0.0.1", 7000))
one = socket.create_connection(("127.0.0.1", 7000))
other, _ = server.accept()
# Open all the time, and without a name: so it goes along whenever this is stopped.
os.dup2(os.open("/dev/count", os.O_RDWR | os.O_CREAT), COUNT)
os.unlink("/dev/count")
try:
    pathlib.Path("/srv/own").mkdir()
    notes = pathlib.Path("/srv/own/notes").open("w")
except OSError:
    notes = None
number = 0
while True:
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    number += 1
    if number % 10 == 0:
        assert zlib.crc32(memory) == known
    os.pwrite(COUNT, b"%010d" % number, 0)
    if notes:
        notes.write(".")
        notes.flush()
    time.sleep(0.005)
""".replace("COUNT", str(COUNT)).replace("MEMORY", str(MEMORY))
_LIBC = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def sh(*words: str) -> None:
    subprocess.run(words, check=True)


def enter_root(root: Path) -> None:
    """Make a mount the root, and let the one before go."""
    os.chdir(root)
    check(_LIBC.pivot_root(b".", b"."), "pivot_root")
    check(_LIBC.umount2(b".", _DETACH), "umount2")
    os.chdir("/")


def overlay(lower: str, directory: Path) -> Path:
    for name in ("upper", "work", "root"):
        (directory / name).mkdir(parents=True)
    told = f"lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work"
    sh("mount", "-t", "overlay", "overlay", "-o", told, str(directory / "root"))
    return directory / "root"


def node(repository: str, lower: str, directory: str, kind: str) -> None:
    sh("mount", "--make-rprivate", "/")
    sh("mount", "-t", "tmpfs", "bed", directory)
    place = Path(directory)
    (place / "placeholder").write_bytes(sys.stdin.buffer.read())
    root = overlay(lower, place / "node")
    for name in CONTAINERS:
        (overlay(lower, place / name) / ".flowferry").mkdir()
        (place / name / "place").mkdir()
    sh("mount", "-t", "proc", "proc", f"{root}/proc")
    sh("mount", "-t", "tmpfs", "run", f"{root}/run")
    # Overlays are told of by the paths that they were mounted with.
    binds = {"/sys": "/sys", "/dev": "/dev", repository: "/repository", lower: lower}
    for here, there in {**binds, directory: str(BED)}.items():
        (root / there.lstrip("/")).mkdir(parents=True, exist_ok=True)
        sh("mount", "--rbind", here, f"{root}{there}")
    (root / directory.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    (root / directory.lstrip("/")).symlink_to(BED)
    enter_root(root)
    sh("mount", "-t", "tmpfs", "shm", "/dev/shm")
    me = "/repository/tests/integration/direct_bed.py"
    os.execvp("python3", ["python3", me, "moves", kind])


def container(name: str, kind: str, *command: str) -> None:
    (GROUPS / name / "cgroup.procs").write_text("0")
    root = BED / name / "root"
    check(_LIBC.unshare(sum(_SPACES)), "unshare")
    if os.fork():
        os.wait()
        return
    sh("mount", "--make-rprivate", "/")
    sh("ip", "link", "set", "lo", "up")
    sh("mount", "--bind", f"{BED}/{name}/place", f"{root}/.flowferry")
    sh("mount", "-t", "proc", "proc", f"{root}/proc")
    sh("mount", "-t", "tmpfs", "dev", f"{root}/dev")
    for device in ("null", "urandom"):
        (root / "dev" / device).touch()
        sh("mount", "--bind", f"/dev/{device}", f"{root}/dev/{device}")
    if kind == "read-only":
        sh("mount", "-o", "remount,ro,bind", str(root))
    enter_root(root)
    os.setsid()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.execvp(command[0], command)


class Moves:
    """From one container to the next, as the helpers of two nodes do it."""

    def __init__(self, kind: str) -> None:
        sys.path.insert(0, "/repository/collections")
        self.kind = kind
        self.utils = {
            name: importlib.import_module(f"{UTILS}.{name}")
            for name in (
                *("cgroup", "cri.base", "errors", "direct.application", "direct.mover"),
                *("memory.stream", "transfer"),
            )
        }

    def start(self, name: str, *command: str) -> int:
        """The first process of a container, which has its streams from its runtime."""
        (GROUPS / name).mkdir(parents=True)
        runtimes = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
        streams = [one.stdin for one in runtimes]
        words = [sys.executable, __file__, "container", name, self.kind, *command]
        started = subprocess.Popen(words, stdout=streams[0], stderr=streams[1])
        deadline = time.monotonic() + 20
        while True:
            children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
            words_now = Path(f"/proc/{children[0]}/cmdline").read_bytes() if children else b""
            if words_now.split(b"\0")[:2] == [word.encode() for word in command[:2]]:
                return int(children[0])
            if time.monotonic() > deadline or started.poll() is not None:
                raise SystemExit(f"container {name} did not start")
            time.sleep(0.01)

    def begin(self, name: str) -> int:
        """The container that the program is started in."""
        if self.kind != "prepared":
            return self.start(name, "python3", "-c", PROGRAM)
        _make_place(name)
        return self.start(name, PLACEHOLDER, "--init", "python3", "-c", PROGRAM)

    def move(self, source: str, pid: int, destination: str) -> int:
        place = _make_place(destination)
        words = ["--child"] if self.kind == "prepared" else []
        there = self.start(destination, PLACEHOLDER, *words, "python3", "-c", PROGRAM)
        freezer = self.utils["cgroup"].Freezer(GROUPS / source)
        inside = [one for one in freezer.pids() if one != _parent(pid)]
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        told = self.utils["direct.application"].look("it", pid, arguments, lambda: inside)
        about = {"containers": {"it": {"direct": told, "freezer": str(freezer.path)}}}
        here, copy = (self.utils["direct.mover"].DirectMover("it") for _ in range(2))
        made = self.utils["cri.base"].Container(
            id="", name="it", pod_uid="", is_sandbox=False, pid=there, image="", directory=BED
        )
        memory = _Memory(self.utils["transfer"], self.utils["memory.stream"])
        copy.prepare_destination(about, [made], memory.receiver)
        here.prepare_source(about, memory.sender)
        images = Path("/dev/shm") / destination
        images.mkdir()
        here.freeze(about)
        here.checkpoint(about, images)
        copy.restore(about, images, _Place(place))
        freezer.kill()
        here.end()
        copy.end()
        memory.close()
        if memory.sender.bytes < MEMORY:
            raise SystemExit(f"{memory.sender.bytes} bytes of memory went apart")
        return there

    def found(self, pid: int) -> dict[str, Any]:
        """What there is in the container that began with this process."""
        root = Path(f"/proc/{pid}/root")
        application = self._application_of(pid)
        notes = root / "srv/own/notes"
        return {
            "count": self._count(Path(f"/proc/{application}/fd/{COUNT}")),
            "notes": notes.stat().st_size if notes.exists() else None,
            "lent": (root / "run/criu.kdat").exists(),
            "first": Path(f"/proc/{application}/root/proc/1/comm").read_text().strip(),
            "id": self.utils["direct.application"].id_of(application),
            "is child": _parent(application) == pid,
        }

    def _application_of(self, pid: int) -> int:
        """As soon as CRIU has ended, of which it is a child until then."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return int(self.utils["direct.application"].application_of(pid))
            except self.utils["errors"].FlowferryError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)

    @staticmethod
    def _count(file: Path) -> int:
        """As soon as there is one."""
        deadline = time.monotonic() + 20
        while True:
            told = file.read_text() if file.exists() else ""
            if told:
                return int(told)
            if time.monotonic() > deadline:
                raise SystemExit(f"{file} has no number")
            time.sleep(0.001)


class _Memory:
    """How memory goes apart, from one helper to the other."""

    def __init__(self, transfer: Any, stream: Any) -> None:
        certificates = json.loads(os.environ["FF_DIRECT_CERTIFICATES"])
        contexts = [transfer.tls_context(certificates, server=one) for one in (True, False)]
        self.receiver = stream.Receiver(MEMORY)
        self._listener = socket.create_server(("127.0.0.1", 0))

        def receive(plain: socket.socket) -> None:
            lines = transfer.JsonLines(contexts[0].wrap_socket(plain, server_side=True))
            lines.receive()
            self.receiver.receive(lines)

        def accept() -> None:
            with suppress(OSError):  # it is closed in the end
                while True:
                    plain, _ = self._listener.accept()
                    threading.Thread(target=receive, args=(plain,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        port = self._listener.getsockname()[1]
        self.sender = stream.Sender("127.0.0.1", port, contexts[1], 20.0)

    def close(self) -> None:
        self.sender.close()
        self._listener.close()


def _make_place(name: str) -> Path:
    """What a container sees as the directory of the placeholder."""
    place = BED / name / "place"
    (place / "placeholder").write_bytes((BED / "placeholder").read_bytes())
    (place / "placeholder").chmod(0o755)
    return place


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


class _Place:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has_come(self, _: str, pid: int) -> None:
        (self._directory / "moved").write_text(str(pid))


def moves(kind: str) -> None:
    made, source = Moves(kind), CONTAINERS[0]
    pid = made.begin(source)
    try:
        for destination in CONTAINERS[1:]:
            time.sleep(0.2)  # what is counted is the test
            pid = made.move(source, pid, destination)
            source, before = destination, made.found(pid)
            time.sleep(0.2)
            print(json.dumps({"before": before, "after": made.found(pid)}), flush=True)
    finally:
        for name in CONTAINERS:
            made.utils["cgroup"].Freezer(GROUPS / name).end()
        GROUPS.rmdir()


if __name__ == "__main__":
    {"node": node, "moves": moves, "container": container}[sys.argv[1]](*sys.argv[2:])
