# SPDX-License-Identifier: Apache-2.0
"""A bench for the embedded switch: namespaces with hosts, a switch process, a P4Runtime client.

The client here is written against the protocol alone, so that the switch is not tested by the code
it shares a package with. gRPC goes over a unix socket, which namespaces do not separate.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import grpc
from finsy.proto import p4i, p4r, p4r_grpc, rpc_status
from google.protobuf import text_format

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "p4" / "compiled" / "flowferry.json"
P4INFO = ROOT / "p4" / "compiled" / "flowferry.p4info.txtpb"
GATEWAY_MAC = "02:ff:00:00:00:01"
DEADLINE = 20.0
START_LIMIT = 90.0  # with a program to compile, on a busy machine
_serial = itertools.count(1)


def wait_until(what: str, condition: Callable[[], object], seconds: float = DEADLINE) -> object:
    """Poll until the condition holds; fail with what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds:g} s in vain: {what}")


def run(*command: str, check: bool = True, text: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=text)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


class Namespace:
    """A network namespace that ends with the test."""

    def __init__(self, name: str) -> None:
        self.name = f"{name}-{os.getpid()}-{next(_serial)}"
        self.processes: list[subprocess.Popen[str]] = []
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, check: bool = True) -> str:
        return run(*self.command(*command), check=check)

    def python(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python script in the namespace; its output is read by the test."""
        process = subprocess.Popen(
            self.command(sys.executable, "-u", "-c", code, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def offloads_off(self, interface: str) -> None:
        """The kernel completes checksums and segments before this interface, as on a plain NIC."""
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'p4')!r})\n"
            "from flowferry_p4.switch.ports import turn_offloads_off\n"
            f"turn_offloads_off({interface!r})"
        )
        self.run(sys.executable, "-c", code)

    def remove(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        run("ip", "netns", "del", self.name, check=False)


class Host(Namespace):
    """A host with one interface, whose other end is a port of the switch."""

    def __init__(self, number: int, switch: Namespace) -> None:
        super().__init__(f"ffh{number}")
        self.number = number
        self.address = f"198.19.9.{10 + number}"
        self.mac = f"02:ff:00:00:09:{10 + number:02x}"
        run(
            "ip", "link", "add", "data0", "address", self.mac, "netns", self.name, "type", "veth",
            "peer", "name", f"port{number}", "netns", switch.name,
        )  # fmt: skip
        switch.run("ip", "link", "set", f"port{number}", "up")
        self.run("ip", "link", "set", "data0", "up")
        self.run("ip", "address", "add", f"{self.address}/32", "dev", "data0")
        self.run("ip", "route", "add", "198.19.9.1", "dev", "data0")
        self.run("ip", "route", "add", "default", "via", "198.19.9.1")


class SwitchProcess:
    """`python -m flowferry_p4.switch` in a namespace."""

    def __init__(
        self,
        namespace: Namespace,
        socket: Path,
        ports: Sequence[str],
        *more: str,
        python: Sequence[str] = ("-m", "flowferry_p4.switch"),
    ) -> None:
        self.address = f"unix:{socket}"
        arguments = [x for port in ports for x in ("-i", port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "p4")}
        self.process = subprocess.Popen(
            namespace.command(
                sys.executable, *python, "--grpc-server-addr", self.address,
                "--device-id", "1", *arguments, *(more or ("--no-p4",)),
            ),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        namespace.processes.append(self.process)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_LIMIT)
        line = self.process.stdout.readline().strip() if ready else ""
        if line != "ready":
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"the switch said {line!r} instead of 'ready': {errors}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            _, errors = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the switch did not end") from None
        return self.process.returncode, errors

    def end_by_itself(self) -> tuple[int, str]:
        """Exit code and errors of a switch that should not start."""
        try:
            _, errors = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the switch started") from None
        return self.process.returncode, errors


def value_bytes(value: int | str) -> bytes:
    """An int, a dotted address or a MAC as a canonical byte string."""
    if isinstance(value, str):
        if ":" in value:
            value = int(value.replace(":", ""), 16)
        else:
            parts = [int(p) for p in value.split(".")]
            value = int.from_bytes(bytes(parts), "big")
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


class Names:
    """P4Info by alias."""

    def __init__(self, p4info: p4i.P4Info) -> None:
        self.p4info = p4info
        self.tables = {t.preamble.alias: t for t in p4info.tables}
        self.actions = {a.preamble.alias: a for a in p4info.actions}
        self.counters = {c.preamble.alias: c.preamble.id for c in p4info.counters}

    @classmethod
    def of(cls, path: Path) -> Names:
        return cls(text_format.Parse(path.read_text(), p4i.P4Info()))

    def entry(
        self,
        table: str,
        match: dict[str, int | str],
        action: str | None = None,
        *parameters: int | str,
        priority: int = 0,
    ) -> p4r.TableEntry:
        info = self.tables[table]
        result = p4r.TableEntry(table_id=info.preamble.id, priority=priority)
        for field in info.match_fields:
            if field.name in match:
                result.match.append(_match(field, match[field.name]))
        if action is not None:
            chosen = self.actions[action]
            result.action.action.action_id = chosen.preamble.id
            for parameter, value in zip(chosen.params, parameters, strict=True):
                result.action.action.params.add(param_id=parameter.id, value=value_bytes(value))
        return result


def _match(field: p4i.MatchField, value: int | str) -> p4r.FieldMatch:
    result = p4r.FieldMatch(field_id=field.id)
    text, _, second = str(value).partition("/") if "/" in str(value) else (value, "", "")
    if field.match_type == p4i.MatchField.LPM:
        result.lpm.value = value_bytes(text)
        result.lpm.prefix_len = int(second) if second else field.bitwidth
    elif field.match_type == p4i.MatchField.TERNARY:
        result.ternary.value = value_bytes(int(text))
        result.ternary.mask = value_bytes(int(second))
    elif field.match_type == p4i.MatchField.RANGE:
        result.range.low = value_bytes(int(text))
        result.range.high = value_bytes(int(second))
    elif field.match_type == p4i.MatchField.OPTIONAL:
        result.optional.value = value_bytes(text)
    else:
        result.exact.value = value_bytes(text)
    return result


class Controller:
    """A P4Runtime client with one stream."""

    def __init__(
        self, address: str, names: Names, election: int | None = 1, role: str = ""
    ) -> None:
        self.names = names
        self.election = election
        self.channel = grpc.insecure_channel(address)
        self.stub = p4r_grpc.P4RuntimeStub(self.channel)
        self.arbitrations: queue.Queue[p4r.MasterArbitrationUpdate] = queue.Queue()
        self.packets: queue.Queue[p4r.PacketIn] = queue.Queue()
        self.errors: queue.Queue[p4r.StreamError] = queue.Queue()
        self.others: queue.Queue[p4r.StreamMessageResponse] = queue.Queue()
        """Digests and idle timeouts."""
        self.ended: queue.Queue[grpc.RpcError] = queue.Queue()
        self._outbox: queue.Queue[p4r.StreamMessageRequest | None] = queue.Queue()
        self._stream = self.stub.StreamChannel(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.arbitrate(election, role=role)

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> None:
        try:
            for message in self._stream:
                kind = message.WhichOneof("update")
                if kind == "arbitration":
                    self.arbitrations.put(message.arbitration)
                elif kind == "packet":
                    self.packets.put(message.packet)
                elif kind == "error":
                    self.errors.put(message.error)
                else:
                    self.others.put(message)
        except grpc.RpcError as error:
            self.ended.put(error)

    def arbitrate(self, election: int | None, device: int = 1, role: str = "") -> None:
        request = p4r.StreamMessageRequest()
        request.arbitration.device_id = device
        if election is not None:
            request.arbitration.election_id.high = election >> 64
            request.arbitration.election_id.low = election & (1 << 64) - 1
        if role:
            request.arbitration.role.name = role
        self.election = election
        self._outbox.put(request)

    def answer(self) -> p4r.MasterArbitrationUpdate:
        try:
            return self.arbitrations.get(timeout=DEADLINE)
        except queue.Empty:
            said = self.ended.get_nowait() if not self.ended.empty() else "the stream goes on"
            raise AssertionError(f"no answer to the arbitration: {said}") from None

    def election_id(self) -> p4r.Uint128:
        number = self.election or 0
        return p4r.Uint128(high=number >> 64, low=number & (1 << 64) - 1)

    def set_pipeline(
        self,
        program: Path = PROGRAM,
        p4info: p4i.P4Info | None = None,
        action: str = "VERIFY_AND_COMMIT",
        cookie: int = 0,
    ) -> None:
        request = p4r.SetForwardingPipelineConfigRequest(
            device_id=1, election_id=self.election_id(), action=action
        )
        if action != "COMMIT":
            request.config.p4info.CopyFrom(p4info or self.names.p4info)
            request.config.p4_device_config = program.read_bytes()
            request.config.cookie.cookie = cookie
        self.stub.SetForwardingPipelineConfig(request, timeout=DEADLINE)

    def write(self, kind: str, *entries: p4r.TableEntry) -> None:
        updates = [p4r.Update(type=kind, entity=p4r.Entity(table_entry=e)) for e in entries]
        self.write_updates(updates)

    def write_updates(self, updates: Sequence[p4r.Update]) -> None:
        request = p4r.WriteRequest(device_id=1, election_id=self.election_id(), updates=updates)
        self.stub.Write(request, timeout=DEADLINE)

    def insert(
        self, table: str, match: dict[str, int | str], action: str, *parameters: int | str
    ) -> None:
        self.write("INSERT", self.names.entry(table, match, action, *parameters))

    def read(self, entity: p4r.Entity) -> list[p4r.Entity]:
        request = p4r.ReadRequest(device_id=1, entities=[entity])
        return [e for r in self.stub.Read(request, timeout=DEADLINE) for e in r.entities]

    def read_entries(self, entry: p4r.TableEntry) -> list[p4r.TableEntry]:
        return [e.table_entry for e in self.read(p4r.Entity(table_entry=entry))]

    def direct_packets(self, table: str) -> int:
        """Packets counted by all entries of a table."""
        wanted = p4r.TableEntry(table_id=self.names.tables[table].preamble.id)
        wanted.counter_data.SetInParent()
        return sum(e.counter_data.packet_count for e in self.read_entries(wanted))

    def counter(self, name: str, index: int) -> int:
        entry = p4r.CounterEntry(counter_id=self.names.counters[name])
        entry.index.index = index
        (found,) = self.read(p4r.Entity(counter_entry=entry))
        return found.counter_entry.data.packet_count

    def packet_out(self, payload: bytes, port: int = 0, past_hold: int = 0) -> None:
        request = p4r.StreamMessageRequest()
        request.packet.payload = payload
        request.packet.metadata.add(metadata_id=1, value=value_bytes(port))
        request.packet.metadata.add(metadata_id=2, value=value_bytes(past_hold))
        self._outbox.put(request)

    def close(self) -> None:
        """The switch has seen the end when this returns: a next one may have the election id."""
        self._outbox.put(None)
        self._reader.join(DEADLINE)
        self._stream.cancel()
        self.channel.close()


def batch_errors(error: grpc.RpcError) -> list[tuple[int, str]]:
    """Code and message of each update of a failed Write."""
    for name, value in error.trailing_metadata():
        if name == "grpc-status-details-bin":
            status = rpc_status.Status.FromString(value)
            result = []
            for detail in status.details:
                one = p4r.Error()
                assert detail.Unpack(one)
                result.append((one.canonical_code, one.message))
            return result
    raise AssertionError("the error has no details")


class Bench:
    """Hosts on a switch with the project's program and its routes."""

    def __init__(self, directory: Path, hosts: int = 2, more: Sequence[str] = ("--no-p4",)) -> None:
        self.directory = directory
        self.more = more
        self.python: Sequence[str] = ("-m", "flowferry_p4.switch")
        self.stack = contextlib.ExitStack()
        try:
            self.switch_namespace = Namespace("ffsw")
            self.stack.callback(self.switch_namespace.remove)
            self.hosts = []
            for number in range(1, hosts + 1):
                host = Host(number, self.switch_namespace)
                self.stack.callback(host.remove)
                self.hosts.append(host)
            self.switch = self.start()
            self.stack.callback(lambda: self.switch.end())
            self.switch.wait_ready()
        except BaseException:
            self.stack.close()
            raise
        self.names = Names.of(P4INFO)

    def start(self, *more: str) -> SwitchProcess:
        """A switch on the ports, with options of its own or the usual ones."""
        ports = [f"{h.number}@port{h.number}" for h in self.hosts]
        socket = self.directory / "p4rt.sock"
        return SwitchProcess(
            self.switch_namespace, socket, ports, *(more or self.more), python=self.python
        )

    def controller(self, election: int | None = 1) -> Controller:
        return Controller(self.switch.address, self.names, election)

    def add_routes(self, controller: Controller) -> None:
        """What makes all hosts reach each other."""
        controller.insert("arp", {"target": "198.19.9.0/24"}, "answer", GATEWAY_MAC)
        for host in self.hosts:
            controller.insert(
                "route", {"destination": f"{host.address}/32"},
                "forward", host.number, GATEWAY_MAC, host.mac,
            )  # fmt: skip

    def close(self) -> None:
        self.stack.close()


@contextlib.contextmanager
def bench(directory: Path, hosts: int = 2, more: Sequence[str] = ("--no-p4",)) -> Iterator[Bench]:
    made = Bench(directory, hosts, more)
    try:
        yield made
    finally:
        made.close()
