# SPDX-License-Identifier: Apache-2.0
"""How fast the embedded switch is, beside a Linux bridge and, where one is given, BMv2.

    python -m tests.benchmark.switch_speed --output DIRECTORY [--bmv2 simple_switch_grpc]

Two hosts, a wire from each to the thing in between, or one wire. What is compared was measured in
one run and by turns, since a machine is faster now and slower then, and so all of them are; the
ratios are the result, and whether what is required is met. Writes switch_speed.json and, of it,
switch_speed.png. Needs root and an idle machine; takes three minutes, with BMv2 a little more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmark.switch_figures import draw, ratios, requirements
from tests.benchmark.switch_hold import measure_hold
from tests.integration.switch_bench import (
    GATEWAY_MAC,
    P4INFO,
    PROGRAM,
    Controller,
    Host,
    Names,
    Namespace,
    SwitchProcess,
    run,
    wait_until,
)
from tests.integration.switch_traffic import ping

ENTRIES = (1, 1_000, 100_000)
BATCH = 1_000
SECONDS = 4.0
PINGS = 2_000
TURNS = 10
STREAM_TURNS = 7
STREAM_SECONDS = 1.5
MODIFIES = 200
FILLED = "reply"
"""The table that gets the entries: exact, and looked up for each packet."""

# Each on a CPU of its own: whether the scheduler has them share one is a factor of two.
SINK = r"""
import os, socket, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
kind, address, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
if kind == "tcp":
    listener = socket.create_server((address, 7000))
    print("listening")
    s, _ = listener.accept()
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    s.bind((address, 7000))
    print("listening")
buffer = bytearray(1 << 20)
s.recv_into(buffer)
start, count, size = time.perf_counter(), 0, 0
while time.perf_counter() - start < seconds:
    got = s.recv_into(buffer)
    if not got:
        break
    count, size = count + 1, size + got
print(count / (time.perf_counter() - start), size * 8 / (time.perf_counter() - start))
"""

SOURCE = r"""
import os, socket, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
kind, address, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + seconds
if kind == "tcp":
    s = socket.create_connection((address, 7000), timeout=20)
    block = bytes(1 << 20)
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((address, 7000))
    block = bytes(22)  # 64 bytes with Ethernet, IPv4 and UDP
try:
    while time.monotonic() < end:
        s.send(block)
except OSError:
    pass  # the other side has seen enough
"""

# Both on one CPU: to wake another one takes longer, and varies more, than all that is compared.
ECHO = r"""
import os, socket, sys
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7001))
print("listening")
while True:
    s.sendto(*s.recvfrom(2048))
"""

PING = r"""
import os, socket, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], 7001))
for _ in range(int(sys.argv[2])):
    start = time.perf_counter_ns()
    s.send(b"x")
    s.recv(16)
    print(time.perf_counter_ns() - start)
"""


# --- what a path does -------------------------------------------------------------------------
def measure(client: Host | End, server: Host | End) -> dict[str, float]:
    """Throughput of TCP, rate of small packets, and round-trip times between two hosts."""
    return {
        **_streams(client, server, SECONDS),
        **_spread(_round_trips(client, server)),
    }


def _streams(client: Host | End, server: Host | End, seconds: float) -> dict[str, float]:
    _, tcp = _stream("tcp", client, server, seconds)
    packets, _ = _stream("udp", client, server, seconds)
    return {"tcp_gbit": tcp / 1e9, "packets": packets}


def _spread(times: list[int]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"rtt_p50_us": cuts[49] / 1e3, "rtt_p99_us": cuts[98] / 1e3}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _stream(
    kind: str, client: Host | End, server: Host | End, seconds: float
) -> tuple[float, float]:
    """Packets (or reads), and bits in a second, as they arrive."""
    sink = server.python(SINK, kind, server.address, str(seconds))
    assert _line(sink) == "listening"
    source = client.python(SOURCE, kind, server.address, str(seconds + 2))
    packets, bits = _line(sink).split()
    for process in (source, sink):
        process.kill()
        process.wait()
    return float(packets), float(bits)


def _round_trips(client: Host | End, server: Host | End) -> list[int]:
    echo = server.python(ECHO, server.address)
    assert _line(echo) == "listening"
    done = client.run("python3", "-c", PING, server.address, str(PINGS))
    echo.kill()
    return [int(line) for line in done.split()]


# --- what is in between -----------------------------------------------------------------------
@contextlib.contextmanager
def hosts() -> Iterator[tuple[Namespace, Host, Host]]:
    with contextlib.ExitStack() as stack:
        middle = Namespace("ffspeed")
        stack.callback(middle.remove)
        ends = []
        for number in (1, 2):
            ends.append(Host(number, middle))
            stack.callback(ends[-1].remove)
        for end, other in (ends, reversed(ends)):
            neighbour = ["ip", "neighbour", "replace", "dev", "data0", "lladdr"]
            end.run(*neighbour, GATEWAY_MAC, "198.19.9.1")
            end.run(*neighbour, other.mac, other.address)
        yield middle, ends[0], ends[1]


class End(Namespace):
    """A host whose wire leads to the other one."""

    def __init__(self, address: str) -> None:
        super().__init__("ffwire")
        self.address = address


@contextlib.contextmanager
def wire() -> Iterator[tuple[End, End]]:
    """Nothing in between: what round trips take anyway."""
    with contextlib.ExitStack() as stack:
        ends = []
        for number in (1, 2):
            ends.append(End(f"198.19.9.{number}"))
            stack.callback(ends[-1].remove)
        one, two = ends
        run("ip", "link", "add", "data0", "netns", one.name, "type", "veth",
            "peer", "name", "data0", "netns", two.name)  # fmt: skip
        for end in ends:
            end.run("ip", "address", "add", f"{end.address}/24", "dev", "data0")
            end.run("ip", "link", "set", "data0", "up")
        yield one, two


@contextlib.contextmanager
def bridge() -> Iterator[tuple[Host, Host]]:
    with hosts() as (middle, client, server):
        middle.run("ip", "link", "add", "bridge0", "type", "bridge")
        middle.run("ip", "link", "set", "bridge0", "up")
        for number in (1, 2):
            middle.run("ip", "link", "set", f"port{number}", "master", "bridge0")
        for host, other in ((client, server), (server, client)):
            host.run("ip", "route", "replace", other.address, "dev", "data0")
        wait_until("the bridge forwards", lambda: ping(client, server.address, 1, 1.0))
        yield client, server


def large_program(directory: Path) -> Path:
    """The project's program with room for the entries."""
    document = json.loads(PROGRAM.read_text())
    for table in document["pipelines"][0]["tables"]:
        if table["name"].endswith(f".{FILLED}"):
            table["max_size"] = 2 * max(ENTRIES)
    path = directory / "program.json"
    path.write_text(json.dumps(document))
    return path


@dataclass(frozen=True)
class Filled:
    """A switch with some entries, and how long its control plane took."""

    controller: Controller
    client: Host
    server: Host
    load_s: float
    writes_per_s: float


@contextlib.contextmanager
def filled(directory: Path, entries: int) -> Iterator[Filled]:
    with hosts() as (middle, client, server):
        process = SwitchProcess(middle, directory / f"with-{entries}", ["1@port1", "2@port2"])
        process.wait_ready()
        with Controller(process.address, Names.of(P4INFO)) as controller:
            controller.answer()
            began = time.perf_counter()
            controller.set_pipeline(large_program(directory))
            took = time.perf_counter() - began
            _routes(controller, client, server)
            rate = _fill(controller, entries)
            yield Filled(controller, client, server, took, rate)
        process.end()


def embedded(directory: Path) -> dict[str, Any]:
    """The switch with few and with many entries, a bridge and a wire; and its control plane."""
    with contextlib.ExitStack() as stack:
        ends: dict[str, tuple[Host | End, Host | End]] = {
            "wire": stack.enter_context(wire()),
            "bridge": stack.enter_context(bridge()),
        }
        for count in ENTRIES:
            switch = stack.enter_context(filled(directory, count))
            ends[str(count)] = (switch.client, switch.server)
        rows = streams(ends)
        return {
            **{name: rows.pop(name) for name in ("wire", "bridge")},
            "embedded": {
                "entries": rows,
                "load_s": switch.load_s,
                "writes_per_s": switch.writes_per_s,
                "modify_ms": _modify_times(switch.controller, switch.client),
            },
        }


def streams(ends: Mapping[str, tuple[Host | End, Host | End]]) -> dict[str, dict[str, Any]]:
    """By turns; the medians, and beside them each turn's, as ratios are those within a turn."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ends}
    for _turn in range(STREAM_TURNS):
        for name, (client, server) in ends.items():
            turns[name].append(_streams(client, server, STREAM_SECONDS))
    rows = {}
    for name, measured in turns.items():
        by_key = {key: [turn[key] for turn in measured] for key in measured[0]}
        medians = {key: statistics.median(values) for key, values in by_key.items()}
        rows[name] = {**medians, "turns": by_key}
    return rows


@contextlib.contextmanager
def switch(directory: Path) -> Iterator[tuple[str, Host, Host]]:
    """Its address, and the hosts at its ports, which it has routes to."""
    with hosts() as (middle, client, server):
        process = SwitchProcess(middle, directory / "switch", ["1@port1", "2@port2"])
        process.wait_ready()
        with Controller(process.address, Names.of(P4INFO)) as controller:
            controller.answer()
            controller.set_pipeline()
            _routes(controller, client, server)
        yield process.address, client, server
        process.end()


def round_trips(directory: Path) -> dict[str, Any]:
    """By turns: what slows the machine down for a while then slows all of them."""
    times: dict[str, list[int]] = {"wire": [], "bridge": [], "switch": []}
    with wire() as alone, bridge() as bridged, switch(directory) as (_, *switched):
        for _turn in range(TURNS):
            for name, ends in zip(times, (alone, bridged, switched)):
                times[name] += _round_trips(*ends)
    return {name: _spread(measured) for name, measured in times.items()}


def hold(directory: Path) -> dict[str, Any]:
    """What a controller of ours keeps of a flow, and delivers."""
    with switch(directory) as (address, client, server):
        return measure_hold(address, client, server)


def _routes(controller: Controller, *ends: Host) -> None:
    for host in ends:
        route = ("forward", host.number, GATEWAY_MAC, host.mac)
        controller.insert("route", {"destination": f"{host.address}/32"}, *route)


def _fill(controller: Controller, wanted: int) -> float:
    """Add entries that match nothing; how many in a second."""
    action = controller.names.tables[FILLED].action_refs[0].id
    name = next(n for n, a in controller.names.actions.items() if a.preamble.id == action)
    parameters = [0 for _ in controller.names.actions[name].params]
    fields = [f.name for f in controller.names.tables[FILLED].match_fields]
    entries = [
        controller.names.entry(
            FILLED,
            {f: 0x0B000000 + n if f == "address" else 6 for f in fields},
            name,
            *parameters,
        )
        for n in range(wanted)
    ]
    began = time.perf_counter()
    for start in range(0, len(entries), BATCH):
        controller.write("INSERT", *entries[start : start + BATCH])
    return len(entries) / (time.perf_counter() - began)


def _modify_times(controller: Controller, host: Host) -> float:
    """Median of a MODIFY of a route, from the call until it is acknowledged, and so in effect."""
    route = controller.names.entry(
        "route",
        {"destination": f"{host.address}/32"},
        "forward",
        host.number,
        GATEWAY_MAC,
        host.mac,
    )
    times = []
    for _ in range(MODIFIES):
        began = time.perf_counter()
        controller.write("MODIFY", route)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def bmv2(directory: Path, binary: Path) -> dict[str, Any]:
    """BMv2 with the same program; it needs offloads off at both ends."""
    with hosts() as (middle, client, server):
        for host in (client, server):
            host.offloads_off("data0")
            middle.offloads_off(f"port{host.number}")
        address = f"unix:{directory / 'bmv2'}"
        process = subprocess.Popen(
            middle.command(
                str(binary), "--device-id", "1", "-i", "1@port1", "-i", "2@port2", "--no-p4",
                "--", "--grpc-server-addr", address, "--cpu-port", "510",
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        middle.processes.append(process)
        wait_until("BMv2 listens", (directory / "bmv2").exists)
        with Controller(address, Names.of(P4INFO)) as controller:
            controller.answer()
            controller.set_pipeline()
            _routes(controller, client, server)
            return measure(client, server)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--bmv2", type=Path, metavar="BINARY")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ff-speed-") as scratch:
        result: dict[str, Any] = {"round_trips": round_trips(Path(scratch))}
        result |= embedded(Path(scratch))
        result["hold"] = hold(Path(scratch))
        if options.bmv2:
            result["bmv2"] = bmv2(Path(scratch), options.bmv2)
    result["machine"] = run("uname", "-srm").strip()
    result["ratios"] = ratios(result)
    (options.output / "switch_speed.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.output / "switch_speed.png")
    for name, value, limit, met in requirements(result):
        print(f"{'met' if met else 'NOT MET':8}{name}: {value:,.3g} ({limit})")


if __name__ == "__main__":
    main()
