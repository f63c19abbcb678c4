# SPDX-License-Identifier: Apache-2.0
"""A switch on three wires, for tests that ask what the P4 program does with a packet.

Everything is in one network namespace: `port1..3` belong to the switch, `wire1..3` are the other
ends. Frames are sent and received as they are, no kernel has a word in it. gRPC goes over a unix
socket, which network namespaces do not separate.
"""

from __future__ import annotations

import ctypes
import os
import queue
import re
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from flowferry_p4.client import Entry, P4Error, Session, Update
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "p4" / "program"
COMPILED = ROOT / "p4" / "compiled"

SWITCH_VARIABLE = "FLOWFERRY_SWITCH"
EMBEDDED = f"{shlex.quote(sys.executable)} -m flowferry_p4.switch"

PORTS = (1, 2, 3)
CPU_PORT = 510
GATEWAY_MAC = "02:ff:00:00:09:01"
DEADLINE = 20.0

# Marks: a packet to one of these comes out of port 1, 2, 3 or goes up to the client. What was sent
# before a mark has been handled when the mark arrives, so "nothing came" needs no waiting.
PORT_MARKS = {port: f"198.18.255.{port}" for port in PORTS}
UP_MARK = "198.18.255.9"

# BMv2 reads its ports through libpcap, whose buffer holds about 30 frames.
BURST = 16

_ETH_P_ALL = 3
_CLONE_NEWNET = 0x40000000


def wire_mac(port: int) -> str:
    return f"02:ff:00:00:09:{0x10 + port:02x}"


def drop_names() -> dict[int, str]:
    """Meaning of the indexes of the counter `dropped`; the program is where it stands."""
    text = (PROGRAM / "constants.p4").read_text(encoding="utf-8")
    found = re.findall(r"const bit<8> DROP_(\w+)\s*= (\d+);", text)
    return {int(number): name for name, number in found}


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def namespace() -> Iterator[str]:
    """A network namespace with the wires in it."""
    name = f"ffprogram-{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        for port in PORTS:
            run(
                "ip", "-n", name, "link", "add", f"wire{port}", "address", wire_mac(port),
                "type", "veth", "peer", "name", f"port{port}",
            )  # fmt: skip
            for end in (f"wire{port}", f"port{port}"):
                # The kernel must not send anything of its own: no neighbour discovery.
                setting = f"net.ipv6.conf.{end}.disable_ipv6=1"
                run("ip", "netns", "exec", name, "sysctl", "-q", "-w", setting)
                run("ip", "-n", name, "link", "set", end, "arp", "off", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


BMV2 = os.environ.get("FLOWFERRY_BMV2", "")
"""A simple_switch_grpc for tests that run on both, where there is one."""


def bmv2_too(name: str = "embedded") -> list[object]:
    """Parameters of a fixture: the switch that is tested, and BMv2 beside it."""
    why = "run: make integration FLOWFERRY_BMV2=/path/to/simple_switch_grpc"
    skipped = pytest.mark.skipif(not BMV2, reason=why)
    return [pytest.param("", id=name), pytest.param(BMV2, id="bmv2", marks=skipped)]


def switch_command(socket_path: str, bmv2: str = "") -> list[str]:
    """The switch to test, from the environment; the embedded one when nothing is said."""
    command = [bmv2] if bmv2 else shlex.split(os.environ.get(SWITCH_VARIABLE) or EMBEDDED)
    interfaces = [part for port in PORTS for part in ("-i", f"{port}@port{port}")]
    common = ["--device-id", "1", *interfaces, "--no-p4"]
    own = ["--grpc-server-addr", f"unix:{socket_path}", "--cpu-port", str(CPU_PORT)]
    # BMv2 wants the options of its own target behind a double dash.
    is_bmv2 = bool(bmv2) or any(Path(part).name.startswith("simple_switch") for part in command)
    return [*command, *common, *(["--"] if is_bmv2 else []), *own]


@contextmanager
def running_switch(network: str, bmv2: str = "") -> Iterator[Session]:
    """A switch in the namespace, and the session of its primary client."""
    with tempfile.TemporaryDirectory(prefix="ffprogram-") as directory, ExitStack() as stack:
        log = stack.enter_context((Path(directory) / "log").open("w+", encoding="utf-8"))
        command = switch_command(f"{directory}/p4rt", bmv2)
        path = os.pathsep.join(filter(None, [str(ROOT / "p4"), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            ["ip", "netns", "exec", network, *command],
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(_end, process)
        yield stack.enter_context(_connect(f"unix:{directory}/p4rt", process, log.name))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"the switch did not end within {DEADLINE:g} s") from None


def _connect(address: str, process: subprocess.Popen[bytes], log: str) -> Session:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return Session.open(address, election_id=1)
        except P4Error as error:
            said = f"{error}; it said:\n{Path(log).read_text(encoding='utf-8')}"
            if process.poll() is not None:
                raise AssertionError(f"the switch ended at once: {said}") from None
            if time.monotonic() > deadline:
                raise AssertionError(f"no switch after {DEADLINE:g} s: {said}") from None
            time.sleep(0.05)


def open_wires(network: str) -> dict[int, socket.socket]:
    """Raw sockets on the wires. A thread of its own enters the namespace; the process stays out."""
    wires: dict[int, socket.socket] = {}
    problems: list[BaseException] = []

    def enter_and_open() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.open(f"/run/netns/{network}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(handle, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter the namespace {network}")
            for port in PORTS:
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                wire.bind((f"wire{port}", 0))
                wires[port] = wire
        except OSError as error:
            problems.append(error)
        finally:
            os.close(handle)

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return wires


@dataclass
class Outcome:
    """Where packets went: out of ports, up to the client, or into a counter of `dropped`."""

    out: dict[int, list[bytes]] = field(default_factory=dict)
    up: list[tuple[bytes, dict[str, int]]] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)

    def add(self, later: Outcome) -> None:
        for port, frames in later.out.items():
            self.out.setdefault(port, []).extend(frames)
        self.up.extend(later.up)
        for reason, count in later.drops.items():
            self.drops[reason] = self.drops.get(reason, 0) + count


class Bench:
    """Sends frames, and says what became of them."""

    def __init__(self, session: Session, wires: Mapping[int, socket.socket]) -> None:
        self.session = session
        self.wires = wires
        self.reasons = drop_names()
        self._up: queue.Queue[tuple[bytes, dict[str, int]]] = queue.Queue()
        session.on_packet(self._take_up)

    def _take_up(self, payload: bytes, metadata: dict[str, int]) -> None:
        self._up.put((payload, metadata))

    # -- entries

    def insert(
        self, table: str, match: Mapping[str, object], action: str, **params: object
    ) -> None:
        self._write("INSERT", table, match, action, params)

    def modify(
        self, table: str, match: Mapping[str, object], action: str, **params: object
    ) -> None:
        self._write("MODIFY", table, match, action, params)

    def delete(self, table: str, match: Mapping[str, object]) -> None:
        self.session.write([Update("DELETE", Entry(table, dict(match)))])

    def _write(
        self,
        kind: Literal["INSERT", "MODIFY"],
        table: str,
        match: Mapping[str, object],
        action: str,
        params: Mapping[str, object],
    ) -> None:
        self.session.write([Update(kind, Entry(table, dict(match), action, dict(params)))])

    def route(self, address: str, port: int) -> None:
        """A route for one IPv4 or IPv6 address."""
        table, bits = ("route_ipv6", 128) if ":" in address else ("route", 32)
        self.insert(
            table,
            {"destination": f"{address}/{bits}"},
            "forward",
            port=port,
            source_mac=GATEWAY_MAC,
            destination_mac=wire_mac(port),
        )

    def packets(self, table: str, match: Mapping[str, object]) -> int:
        """Direct counter of one entry."""
        (entry,) = self.session.read(table, match, counters=True)
        assert entry.counter is not None
        return entry.counter.packets

    def reset(self) -> None:
        """Every test starts with the marks' entries alone, and sees what comes up."""
        self.session.on_packet(self._take_up)
        self.session.write([Update("DELETE", entry) for entry in self.session.read()])
        for port, mark in PORT_MARKS.items():
            self.route(mark, port)
        self.insert("hold_to", {"address": UP_MARK}, "buffer")

    # -- packets

    def send(self, port: int, *frames: bytes) -> Outcome:
        """Frames arrive at a port of the switch, in bursts that it can take."""
        marks = [_mark(address) for address in PORT_MARKS.values()]
        outcome = Outcome()
        for start in range(0, len(frames), BURST):
            burst = [*frames[start : start + BURST], *marks]
            outcome.add(self._watch(port, partial(self.transmit, port, burst)))
        return outcome

    def send_out(self, packets: Sequence[tuple[bytes, Mapping[str, int]]]) -> Outcome:
        """The client sends packets out. The marks take the same way, past the hold."""
        marks = [(_mark(address), {"past_hold": 1}) for address in PORT_MARKS.values()]
        everything = [(payload, dict(metadata)) for payload, metadata in [*packets, *marks]]
        return self._watch(PORTS[0], lambda: self.session.send_packets(everything))

    def watch(self, act: Callable[[], None]) -> Outcome:
        """What leaves while something is done. The session's packets are the bench's again."""

        def act_and_mark() -> None:
            act()
            self.session.on_packet(self._take_up)
            self.transmit(PORTS[0], [_mark(address) for address in PORT_MARKS.values()])

        return self._watch(PORTS[0], act_and_mark)

    def transmit(self, port: int, frames: Sequence[bytes]) -> None:
        for frame in frames:
            assert self.wires[port].send(frame) == len(frame)

    def _watch(self, port: int, act: Callable[[], None]) -> Outcome:
        """Everything that comes until the marks are there; they are the last that ``act`` sends."""
        before = self._dropped()
        act()
        outcome = Outcome()
        for number in PORTS:
            frames = self._until_mark(number)
            if frames:
                outcome.out[number] = frames
        self.transmit(port, [_mark(UP_MARK)])
        outcome.up = self._until_up_mark()
        after = self._dropped()
        for number, count in after.items():
            if count != before[number]:
                outcome.drops[self.reasons[number]] = count - before[number]
        return outcome

    def _until_mark(self, port: int) -> list[bytes]:
        frames: list[bytes] = []
        wire, mark = self.wires[port], socket.inet_aton(PORT_MARKS[port])
        deadline = time.monotonic() + DEADLINE
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([wire], [], [], left)[0]:
                raise AssertionError(f"no mark came out of port {port}, but {frames}")
            frame, sender = wire.recvfrom(65536)
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            if frame[30:34] == mark:
                return frames
            frames.append(frame)

    def _until_up_mark(self) -> list[tuple[bytes, dict[str, int]]]:
        packets: list[tuple[bytes, dict[str, int]]] = []
        while True:
            try:
                packet = self._up.get(timeout=DEADLINE)
            except queue.Empty:
                raise AssertionError(f"no mark came up, but {packets}") from None
            if packet[0][30:34] == socket.inet_aton(UP_MARK):
                return packets
            packets.append(packet)

    def _dropped(self) -> dict[int, int]:
        cells = self.session.read_counter("dropped")
        return {number: cells[number].packets for number in self.reasons}


def _mark(address: str) -> bytes:
    layers = Ether(src=wire_mac(1), dst=GATEWAY_MAC, type=0x0800)
    return bytes(layers / IP(src="198.18.254.1", dst=address) / UDP(sport=9, dport=9) / b"mark")


@contextmanager
def program_bench(bmv2: str = "") -> Iterator[Bench]:
    with namespace() as network, running_switch(network, bmv2) as session, ExitStack() as stack:
        p4info = (COMPILED / "flowferry.p4info.txtpb").read_text(encoding="utf-8")
        session.set_pipeline(p4info, (COMPILED / "flowferry.json").read_bytes())
        wires = open_wires(network)
        for wire in wires.values():
            stack.enter_context(wire)
        yield Bench(session, wires)
