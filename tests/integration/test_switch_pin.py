# SPDX-License-Identifier: Apache-2.0
"""A switch with --pin: packets and entries survive its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4r
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.compiler import compile_program
from flowferry_p4.switch.encoding import FieldMatch, Key, encode_key
from flowferry_p4.switch.libbpf import Map, get_pinned
from flowferry_p4.switch.port_service import PortClient

from tests.integration.switch_bench import (
    DEADLINE,
    GATEWAY_MAC,
    P4INFO,
    PROGRAM,
    ROOT,
    Bench,
    Controller,
    Host,
    Namespace,
    SwitchProcess,
    batch_errors,
    bench,
    run,
    wait_until,
)
from tests.integration.switch_entities import (
    COMPILED,
    NAMES,
    digest,
    group,
    member,
    multicast,
    number,
    one_shot,
    readable,
    rule,
    send,
    update,
)
from tests.integration.switch_traffic import UDP_ECHO, line, ping

NUMBERED = r"""
import select, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
number = 0
print("sending")
while not select.select([sys.stdin], [], [], 0)[0]:
    s.send(number.to_bytes(4, "big") + bytes(200))
    number += 1
    time.sleep(0.0003)
print(number)
"""
"""Sends numbered packets until it is told to stop; their number."""

COUNTING = r"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
s.bind((sys.argv[1], int(sys.argv[2])))
print("listening")
expected = 0
s.settimeout(60)
while data := s.recv(2048):
    number = int.from_bytes(data[:4], "big")
    assert number == expected, f"{number} instead of {expected}"
    expected += 1
    if expected % 500 == 0:
        print(expected)
    s.settimeout(3)
"""

BOUNCING = r"""
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
s.settimeout(20)
longest, count = 0.0, 0
print("bouncing")
while True:
    start = time.monotonic()
    s.send(count.to_bytes(4, "big"))
    assert int.from_bytes(s.recv(64), "big") == count
    longest, count = max(longest, time.monotonic() - start), count + 1
    if count % 100 == 0:
        print(count, longest)
"""


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A directory for --pin. Its bpffs is mounted here, since `ip netns exec`, by which the
    switches run, gives each a mount namespace of its own."""
    directory = tmp_path / "pins"
    (directory / "maps").mkdir(parents=True)
    run("mount", "-t", "bpf", "bpf", str(directory / "maps"))
    try:
        yield directory
    finally:
        run("umount", "--lazy", str(directory / "maps"), check=False)


@pytest.fixture
def made(tmp_path: Path, pins: Path) -> Iterator[Bench]:
    with bench(tmp_path, more=("--no-p4", "--pin", str(pins))) as running:
        for host in running.hosts:  # which would count packets of its own accord
            host.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/data0/disable_ipv6")
        yield running


def again(made: Bench, number: int = signal.SIGKILL) -> str:
    """End the switch and start it again; what the one that ended said on standard error."""
    _, errors = made.switch.end(number)
    made.switch = made.start()
    made.switch.wait_ready()
    return errors


def controller_of(made: Bench) -> Controller:
    """The primary, of the test program."""
    controller = Controller(made.switch.address, NAMES)
    assert controller.answer().status.code == 0
    return controller


def programmed(made: Bench) -> None:
    with made.controller() as controller:
        controller.answer()
        controller.set_pipeline()
        made.add_routes(controller)


def unpin(namespace: Namespace, pins: Path) -> str:
    return run(
        "env", f"PYTHONPATH={ROOT / 'p4'}",
        *namespace.command(sys.executable, "-m", "flowferry_p4.switch", "--unpin", str(pins)),
    )  # fmt: skip


def refusal(made: Bench, *more: str) -> str:
    """What a switch says that does not start."""
    code, errors = made.start(*more).end_by_itself()
    assert code == 1, errors
    assert "Traceback" not in errors
    return errors


# --- packets --------------------------------------------------------------------------------------
def test_forwarding_has_no_gap(made: Bench) -> None:
    """Killed, started, stopped and started: no numbered packet is lost, and each is counted."""
    programmed(made)
    one, two = made.hosts
    counting = two.python(COUNTING, two.address, "7001")
    echo = one.python(UDP_ECHO, one.address, "7002")
    assert line(counting) == line(echo) == "listening"
    sending = one.python(NUMBERED, two.address, "7001")
    bouncing = two.python(BOUNCING, one.address, "7002")
    assert line(sending) == "sending"
    assert line(bouncing) == "bouncing"

    def more() -> None:
        """Both go on: what is lost would end them with an error."""
        for _ in range(3):
            line(counting)
            line(bouncing)

    more()
    for how in (signal.SIGKILL, signal.SIGTERM):
        made.switch.end(how)
        more()
        made.switch = made.start()
        made.switch.wait_ready()
        more()
    assert sending.stdin is not None
    sending.stdin.write("\n")
    sending.stdin.flush()
    sent = int(line(sending))
    bouncing.kill()
    with made.controller() as controller:
        controller.answer()
        wanted = controller.names.entry("route", {"destination": f"{two.address}/32"})
        wanted.counter_data.SetInParent()

        def counted() -> int:
            (entry,) = controller.read_entries(wanted)
            return entry.counter_data.packet_count

        wait_until(f"{sent} and the answers are counted", lambda: counted() > sent)


def test_packets_to_nobody_are_counted(made: Bench) -> None:
    """What the program sends to controllers while no switch runs is lost, and said to be."""
    programmed(made)
    one, two = made.hosts
    with made.controller() as controller:
        controller.answer()
        controller.insert("hold_to", {"address": two.address}, "buffer")
        assert ping(one, two.address, count=1, seconds=0.2) == 0
        controller.packets.get(timeout=DEADLINE)
    made.switch.end(signal.SIGKILL)
    assert ping(one, two.address, count=5, seconds=0.2) == 0
    made.switch = made.start()
    made.switch.wait_ready()
    assert ping(one, two.address, count=1, seconds=0.2) == 0
    assert "5 packet-ins were lost while no switch ran" in again(made)
    assert "were lost while no switch" not in again(made), "told once"


# --- state ----------------------------------------------------------------------------------------
def one_of_everything(primary: Controller) -> list[p4r.Update]:
    register = p4r.RegisterEntry(register_id=number("registers", "notes"))
    register.index.index = 2
    register.data.bitstring = b"\7"
    meter = p4r.MeterEntry(meter_id=number("meters", "allowed"))
    meter.index.index = 3
    meter.config.cir = meter.config.pir = 9
    counter = p4r.CounterEntry(counter_id=number("counters", "seen"))
    counter.index.index = 1
    counter.data.packet_count, counter.data.byte_count = 5, 500
    values = p4r.ValueSetEntry(value_set_id=number("value_sets", "specials"))
    for value in (b"\x99", b"\1"):
        values.members.add().match.add(field_id=1).exact.value = value
    session = p4r.PacketReplicationEngineEntry()
    session.clone_session_entry.session_id = 5
    session.clone_session_entry.class_of_service = 2
    session.clone_session_entry.packet_length_bytes = 60
    session.clone_session_entry.replicas.add(egress_port=2, instance=1)
    exact = NAMES.entry("exact_keys", {"h.data.a": 0x101}, "counted", 1)
    exact.metadata, exact.counter_data.packet_count = b"mine", 7
    metered = NAMES.entry("rates", {"h.data.b": 5}, "metered", 1)
    metered.meter_config.cir = metered.meter_config.pir = 1000
    aged = NAMES.entry("ages", {"h.data.c": 9}, "send", 1)
    aged.idle_timeout_ns = 10**15
    default = NAMES.entry("rules", {}, "send", 2)
    default.is_default_action, default.controller_metadata = True, 77
    by_member = NAMES.entry("members", {"h.data.b": 5})
    by_member.action.action_profile_member_id = 3
    low, high = rule(1, 1, **{"h.data.a": "256/65280"}), rule(1, 2, **{"h.data.b": "7/9"})
    high.metadata = b"\0\xff"
    return [
        *(update("INSERT", table_entry=e) for e in (exact, metered, aged, low, high, rule(9))),
        update("INSERT", table_entry=one_shot(1, 2, 2)),
        update("MODIFY", table_entry=default),
        update("MODIFY", table_entry=NAMES.entry("begun", {"h.data.c": 2}, "send", 4)),
        update("DELETE", table_entry=NAMES.entry("begun", {"h.data.c": 1})),
        update("INSERT", action_profile_member=member("shared", 3)),
        update("INSERT", table_entry=by_member),
        update("MODIFY", register_entry=register),
        update("MODIFY", meter_entry=meter),
        update("MODIFY", counter_entry=counter),
        update("MODIFY", value_set_entry=values),
        update("INSERT", packet_replication_engine_entry=multicast(3, (1, 0), (2, 7))),
        update("INSERT", packet_replication_engine_entry=session),
        update("INSERT", digest_entry=digest(4, 10**15)),
    ]


def all_of(primary: Controller) -> list[bytes]:
    """Everything that can be read, without the order, which is not kept."""
    found = [entity for one in readable() for entity in primary.read(one)]
    return sorted(e.SerializeToString(deterministic=True) for e in found)


def test_everything_is_read_back(made: Bench) -> None:
    primary = controller_of(made)
    primary.set_pipeline(COMPILED / "p4runtime.json", cookie=42)
    primary.write_updates(one_of_everything(primary))
    send(made, "0303 0003 0a 00", "0101 0000 01 00")
    exact = NAMES.entry("exact_keys", {"h.data.a": 0x101})
    exact.counter_data.SetInParent()
    wait_until(
        "the packet is counted",
        lambda: primary.read_entries(exact)[0].counter_data.packet_count == 8,
    )
    before = all_of(primary)
    config = primary.stub.GetForwardingPipelineConfig(
        p4r.GetForwardingPipelineConfigRequest(device_id=1)
    )
    primary.close()
    again(made)
    with controller_of(made) as primary:  # with the election id of before: it begins afresh
        assert set(all_of(primary)) ^ set(before) == set()
        assert config == primary.stub.GetForwardingPipelineConfig(
            p4r.GetForwardingPipelineConfigRequest(device_id=1)
        )
        with pytest.raises(grpc.RpcError) as caught:
            primary.write_updates(one_of_everything(primary))
        codes = [code for code, _ in batch_errors(caught.value)]
        inserts = [u.type == p4r.Update.INSERT for u in one_of_everything(primary)]
        assert [c == 6 for c in codes] == inserts, "what is there cannot be inserted"
        # What is changed now is there after the next kill, and what is deleted is not.
        exact = NAMES.entry("exact_keys", {"h.data.a": 0x101}, "drop")
        shot = one_shot(3)
        primary.write("MODIFY", exact, shot)
        primary.write("DELETE", rule(9))
        send(made, "0404 0000 00 00")
        told = primary.others.get
        send(made, "0505 0000 00 00", "0606 0000 00 00", "0707 0000 00 00")
        assert len(told(timeout=DEADLINE).digest.data) == 4, "the digest is enabled"
        before = all_of(primary)
    again(made)
    with controller_of(made) as primary:
        assert set(all_of(primary)) ^ set(before) == set()
        primary.write("DELETE", NAMES.entry("exact_keys", {"h.data.a": 0x101}))
        primary.write("INSERT", NAMES.entry("exact_keys", {"h.data.a": 0x101}, "counted", 1))
    again(made)
    with controller_of(made) as primary:
        (plain,) = primary.read_entries(NAMES.entry("exact_keys", {"h.data.a": 0x101}))
        assert plain.metadata == b"", "not that of the entry before"


def test_groups_keep_their_weights(made: Bench) -> None:
    """The map has a list in which members stand as often as their share says."""
    with controller_of(made) as primary:
        primary.set_pipeline(COMPILED / "p4runtime.json")
        groups = [group(1, (1, 1), (2, 2)), group(2, (1, 2), (2, 2))]
        updates = [update("INSERT", action_profile_member=member("spread", n)) for n in (1, 2)]
        updates += [update("INSERT", action_profile_group=g) for g in groups]
        entry = NAMES.entry("groups", {"h.data.b": 5})
        entry.action.action_profile_group_id = 2
        primary.write_updates([*updates, update("INSERT", table_entry=entry)])
        before = all_of(primary)
    again(made)
    with controller_of(made) as primary:
        assert set(all_of(primary)) ^ set(before) == set()
        delete = update("DELETE", action_profile_group=groups[1])
        with pytest.raises(grpc.RpcError) as caught:
            primary.write_updates([delete])
        assert batch_errors(caught.value)[0][1] == "group 2 is used by an entry"


BATCH = 10_000


def with_room(directory: Path) -> Path:
    """The project's program with more routes."""
    document = json.loads(PROGRAM.read_text())
    for table in document["pipelines"][0]["tables"]:
        if table["name"] == "ingress.route":
            table["max_size"] = 2 * BATCH
    result = directory / "roomy.json"
    result.write_text(json.dumps(document))
    return result


def test_killed_in_the_midst_of_a_batch(made: Bench, pins: Path, tmp_path: Path) -> None:
    """What is read is what forwards: acknowledged writes, and the beginning of the last batch."""
    program = with_room(tmp_path)
    with made.controller() as controller:
        controller.answer()
        controller.set_pipeline(program)
        made.add_routes(controller)
    one, two = made.hosts
    compiled = compile_program(load(program.read_bytes()), 510)
    layout = compiled.tables["ingress.route"]
    routes = Map(get_pinned(pins / "maps/1" / f"table_{layout.ident}"), "routes")

    def address(n: int) -> int:
        return 198 << 24 | 18 << 16 | 1 + n

    def is_there(n: int) -> bool:
        try:
            key = encode_key(layout, Key((FieldMatch(address(n), 32),)))
            return bool(routes.lookup(key, 8 + 8 * layout.arguments))
        except FileNotFoundError:
            return False

    with made.controller() as controller:
        controller.answer()

        def route(n: int) -> p4r.TableEntry:
            match = {"destination": f"{'.'.join(map(str, address(n).to_bytes(4, 'big')))}/32"}
            return controller.names.entry("route", match, "forward", 2, GATEWAY_MAC, two.mac)

        controller.write("INSERT", *(route(n) for n in range(1000)))
        batch = [
            p4r.Update(type="INSERT", entity=p4r.Entity(table_entry=route(n)))
            for n in range(1000, 1000 + BATCH)
        ]
        request = p4r.WriteRequest(device_id=1, election_id=controller.election_id(), updates=batch)
        write = controller.stub.Write.future(request)
        wait_until("the batch is under way", lambda: is_there(3000))
        made.switch.end(signal.SIGKILL)
        assert write.exception().code() == grpc.StatusCode.UNAVAILABLE
    made.switch = made.start()
    made.switch.wait_ready()
    with made.controller() as controller:
        controller.answer()
        table = p4r.TableEntry(table_id=controller.names.tables["route"].preamble.id)
        read = {int.from_bytes(e.match[0].lpm.value, "big") for e in controller.read_entries(table)}
        there = [n for n in range(1000 + BATCH) if address(n) in read]
        assert there == [n for n in range(1000 + BATCH) if is_there(n)]
        assert there == list(range(len(there))), "the beginning of what was written"
        assert 3000 < len(there) < 1000 + BATCH, "killed too late: the batch was complete"
        two.run("ip", "address", "add", "198.18.0.0/16", "dev", "lo")
        for n, answers in ((0, 1), (len(there) - 1, 1), (len(there), 0)):
            text = ".".join(map(str, address(n).to_bytes(4, "big")))
            assert ping(one, text, count=1, seconds=1) == answers, text
        controller.write_updates(batch[len(there) - 1000 :])
        assert len(controller.read_entries(table)) == 1000 + BATCH + 2


# --- pipelines, ports -----------------------------------------------------------------------------
def test_pipelines_survive(made: Bench, pins: Path) -> None:
    """The one that runs, and the one that is saved with its entries."""
    programmed(made)
    one, two = made.hosts
    with made.controller() as controller:
        controller.answer()
        controller.set_pipeline(action="VERIFY_AND_SAVE", cookie=5)
        controller.insert("hold_to", {"address": "192.0.2.1"}, "buffer")
    again(made)
    assert ping(one, two.address) == 3
    with made.controller() as controller:
        controller.answer()
        controller.set_pipeline(action="COMMIT")
        assert ping(one, two.address, count=1, seconds=0.3) == 0, "the saved one has no routes"
        made.add_routes(controller)
    again(made)
    assert ping(one, two.address) == 3
    with made.controller() as controller:
        controller.answer()
        table = p4r.TableEntry(table_id=controller.names.tables["hold_to"].preamble.id)
        assert len(controller.read_entries(table)) == 1
        controller.set_pipeline(action="RECONCILE_AND_COMMIT")
    again(made)
    assert ping(one, two.address) == 3
    kept = [path.name for path in (pins / "maps").iterdir() if path.name.isdigit()]
    assert len(kept) == 1, "those before are removed"


def test_ports_survive_and_change(made: Bench) -> None:
    programmed(made)
    one, two = made.hosts
    three, four = Host(3, made.switch_namespace), Host(4, made.switch_namespace)
    try:
        with grpc.insecure_channel(made.switch.address) as channel:
            PortClient(channel).add("3@port3")
            PortClient(channel).add("4@port4")
        with made.controller() as controller:
            controller.answer()
            for host in (three, four):
                controller.insert(
                    "route", {"destination": f"{host.address}/32"},
                    "forward", host.number, GATEWAY_MAC, host.mac,
                )  # fmt: skip
        made.switch.end(signal.SIGKILL)
        assert ping(one, three.address) == 3
        four.remove()  # while nobody looks
        made.switch_namespace.run("ip", "link", "del", "port4", check=False)
        two.run("ip", "link", "del", "data0")
        made.switch = made.start("--no-p4", *made.more[1:])
        made.switch.wait_ready()
        assert ping(one, three.address) == 3
        with grpc.insecure_channel(made.switch.address) as channel:
            ports = PortClient(channel)
            assert ports.list() == ["1@port1", "2@port2", "3@port3", "4@port4"], "two wait"
            ports.remove(3)
        assert ping(one, three.address, count=1, seconds=0.3) == 0
        four = Host(4, made.switch_namespace)
        wait_until("the port is there again", lambda: ping(one, four.address, 1, 0.5) == 1)
        again(made)
        assert ping(one, four.address) == 3
        assert ping(one, three.address, count=1, seconds=0.3) == 0, "it stays removed"
    finally:
        three.remove()
        four.remove()


def test_unpin_leaves_nothing(made: Bench, pins: Path) -> None:
    programmed(made)
    one, two = made.hosts
    made.switch.end()
    assert ping(one, two.address) == 3
    assert "is of a switch with device 1" in refusal(
        made, "--no-p4", *made.more[1:], "--device-id", "2"
    )
    assert "has the program of a switch that was pinned" in refusal(made, "--no-p4")
    unpin(made.switch_namespace, pins)
    assert ping(one, two.address, count=1, seconds=0.3) == 0
    assert not pins.exists()
    assert "ffcpu1" not in made.switch_namespace.run("ip", "-o", "link")
    made.switch = made.start("--no-p4")
    made.switch.wait_ready()


def test_another_code_is_refused(made: Bench, pins: Path) -> None:
    """As another version of the switch would make it of the same program."""
    programmed(made)
    made.switch.end()
    (pins / "1/code").write_text("another")
    assert "makes other code of the program pinned" in refusal(made)
    assert ping(*made.hosts[:1], made.hosts[1].address) == 3, "it forwards on"


def test_the_program_of_the_command_line(tmp_path: Path, pins: Path) -> None:
    """It is for a start without a state; another one than then is refused."""
    ours = ("--p4info", str(P4INFO), str(PROGRAM), "--pin", str(pins))
    other = (
        "--p4info", str(COMPILED / "p4runtime.p4info.txtpb"), str(COMPILED / "p4runtime.json"),
        "--pin", str(pins),
    )  # fmt: skip
    with bench(tmp_path, more=ours) as made:
        with made.controller() as controller:
            controller.answer()
            made.add_routes(controller)
        again(made)
        assert ping(made.hosts[0], made.hosts[1].address) == 3
        made.switch.end(signal.SIGKILL)
        assert f"has another program than {other[2]}" in refusal(made, *other, "-i", "3@lo")
        state = json.loads((pins / "state").read_text())
        assert state["ports"] == ["1@port1", "2@port2"], "what is refused changes nothing"
        made.switch = made.start()
        made.switch.wait_ready()
        with made.controller() as controller:  # a controller may change it
            controller.answer()
            controller.set_pipeline(COMPILED / "p4runtime.json", NAMES.p4info)
        again(made)
        with controller_of(made) as controller:
            controller.write("INSERT", rule(1))


def test_a_mount_that_would_end_is_refused(tmp_path: Path) -> None:
    made = Namespace("ffmount")
    try:
        switch = SwitchProcess(made, tmp_path / "s", [], "--no-p4", "--pin", str(tmp_path / "p"))
        code, errors = switch.end_by_itself()
        assert code == 1
        assert f"mount it before: mount -t bpf bpf {tmp_path / 'p/maps'}" in errors
    finally:
        made.remove()


WITHOUT_TCX = """
import errno, sys
from flowferry_p4.switch import libbpf
from flowferry_p4.switch.__main__ import main
def refuse(*_):
    raise OSError(errno.EINVAL, "no tcx")
libbpf.create_link = refuse
sys.exit(main())
"""


def test_filters_survive_where_there_is_no_tcx(tmp_path: Path, pins: Path) -> None:
    with bench(tmp_path, more=("--no-p4", "--pin", str(pins))) as made:
        made.switch.end()
        unpin(made.switch_namespace, pins)
        (pins / "maps").mkdir(parents=True)
        run("mount", "-t", "bpf", "bpf", str(pins / "maps"))
        made.python = ("-c", WITHOUT_TCX)
        made.switch = made.start()
        made.switch.wait_ready()
        programmed(made)
        one, two = made.hosts
        made.switch.end(signal.SIGKILL)
        assert ping(one, two.address) == 3
        made.switch = made.start()
        made.switch.wait_ready()
        assert ping(one, two.address) == 3
        assert made.switch_namespace.run("bpftool", "net").count("clsact/ingress flowferry") == 3
        made.switch.end()
        unpin(made.switch_namespace, pins)
        assert "flowferry" not in made.switch_namespace.run("bpftool", "net")
        assert "clsact" not in made.switch_namespace.run("tc", "qdisc", "show")
        made.python = ("-m", "flowferry_p4.switch")
        made.switch = made.start("--no-p4")
        made.switch.wait_ready()


def test_a_kill_at_any_moment(pins: Path) -> None:
    """Before each step of each kind of write in turn: see switch_crash.py."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.switch_crash", str(pins)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'p4'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    word, kills = done.stdout.split()
    assert word == "ok"
    assert int(kills) >= 100
