# SPDX-License-Identifier: Apache-2.0
"""Entities that the project's own program has not: ternary tables, profiles, meters, registers,
replication, value sets, digests, idle timeouts, constant tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from finsy.proto import p4r

from tests.integration.switch_bench import (
    DEADLINE,
    Bench,
    Controller,
    batch_errors,
    bench,
    wait_until,
)
from tests.integration.switch_entities import (
    COMPILED,
    NAMES,
    digest,
    everything,
    group,
    member,
    multicast,
    number,
    one_shot,
    rule,
    send,
    update,
)

OK, INVALID, NOT_FOUND, EXISTS, DENIED, EXHAUSTED, PRECONDITION, ABORTED, RANGE, UNIMPLEMENTED = (
    0, 3, 5, 6, 7, 8, 9, 10, 11, 12,
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("switch"), hosts=1) as made:
        yield made


_elections = iter(range(1, 1000))


@pytest.fixture
def primary(running: Bench) -> Iterator[Controller]:
    """The primary of a switch whose pipeline is as good as new."""
    with Controller(running.switch.address, NAMES, next(_elections)) as controller:
        assert controller.answer().status.code == OK
        controller.set_pipeline(COMPILED / "p4runtime.json")
        yield controller


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """Code and message of the one update, or request, that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    ((code, message),) = batch_errors(caught.value)
    return code, message


# --- tables ---------------------------------------------------------------------------------------
def test_priorities_and_wildcards(primary: Controller) -> None:
    some = rule(5, **{"h.data.a": "256/65280", "h.data.b": "7/9"})
    every = rule(9)
    primary.write("INSERT", some, every)
    table = p4r.TableEntry(table_id=some.table_id)
    assert {e.priority for e in primary.read_entries(table)} == {5, 9}
    table.priority = 9
    assert primary.read_entries(table) == [every]
    some.ClearField("action")
    some.priority = 0
    assert [e.priority for e in primary.read_entries(some)] == [5], "any priority"


@pytest.mark.parametrize(
    ("match", "priority", "message"),
    [
        ({"h.data.a": "1/65534"}, 1, "bits are set outside of the mask"),
        ({"h.data.a": "0/0"}, 1, "the mask is zero"),
        ({"h.data.b": "9/7"}, 1, "the range 9..7 is empty"),
        ({"h.data.b": "0/65535"}, 1, "the range is everything"),
        ({}, 0, "need a priority greater than zero"),
    ],
)
def test_matches_that_are_not_canonical(
    primary: Controller, match: dict[str, int | str], priority: int, message: str
) -> None:
    code, text = refusal(lambda: primary.write("INSERT", rule(priority, **match)))
    assert code == INVALID
    assert message in text


def test_reads_filter(primary: Controller) -> None:
    one, two = rule(1), rule(2)
    one.metadata, two.controller_metadata = b"mine", 7
    primary.write("INSERT", one, two, NAMES.entry("rules", {}, "drop", priority=3))
    asked = p4r.TableEntry(table_id=one.table_id, metadata=b"mine")
    assert primary.read_entries(asked) == [one]
    asked = p4r.TableEntry(table_id=one.table_id, controller_metadata=7)
    assert primary.read_entries(asked) == [two]
    asked = p4r.TableEntry(table_id=one.table_id)
    asked.action.action.action_id = number("actions", "drop")
    assert [e.priority for e in primary.read_entries(asked)] == [3]


def test_a_searched_table_changes_as_one(primary: Controller) -> None:
    request = p4r.WriteRequest(
        device_id=1,
        election_id=primary.election_id(),
        atomicity="DATAPLANE_ATOMIC",
        updates=[update("INSERT", table_entry=rule(n)) for n in (1, 2, 2)],
    )
    with pytest.raises(grpc.RpcError) as caught:
        primary.stub.Write(request)
    assert [c for c, _ in batch_errors(caught.value)] == [ABORTED, ABORTED, EXISTS]
    assert primary.read_entries(p4r.TableEntry()) == initial(primary)
    del request.updates[2:]
    primary.stub.Write(request)
    assert len(primary.read_entries(p4r.TableEntry(table_id=rule(1).table_id))) == 2


def initial(primary: Controller) -> list[p4r.TableEntry]:
    """The entries that the program itself has."""
    fixed, begun = (number("tables", name) for name in ("fixed", "begun"))
    entries = primary.read_entries(p4r.TableEntry())
    return [e for e in entries if e.table_id in (fixed, begun)]


def test_constant_tables(primary: Controller) -> None:
    entry = NAMES.entry("fixed", {"h.data.c": 1}, "send", 1)
    found = primary.read_entries(p4r.TableEntry(table_id=entry.table_id))
    assert [e.is_const for e in found] == [True, True]
    for kind in ("MODIFY", "DELETE"):
        assert refusal(lambda k=kind: primary.write(k, entry))[0] == DENIED
    other = NAMES.entry("fixed", {"h.data.c": 9}, "send", 1)
    assert refusal(lambda: primary.write("INSERT", other))[0] == DENIED
    entry.ClearField("action")
    primary.write("MODIFY", entry)
    default = p4r.TableEntry(table_id=entry.table_id, is_default_action=True)
    assert refusal(lambda: primary.write("MODIFY", default))[0] == DENIED


def test_initial_entries_can_be_changed(primary: Controller) -> None:
    entry = NAMES.entry("begun", {"h.data.c": 2}, "send", 4)
    primary.write("MODIFY", entry)
    assert primary.read_entries(entry) == [entry]
    primary.write("DELETE", entry)
    primary.set_pipeline(COMPILED / "p4runtime.json", action="RECONCILE_AND_COMMIT")
    left = primary.read_entries(p4r.TableEntry(table_id=entry.table_id))
    assert [e.match[0].exact.value for e in left] == [b"\1"], "what was deleted stays so"


def test_is_const_is_not_for_controllers(primary: Controller) -> None:
    entry = rule(1)
    entry.is_const = True
    assert refusal(lambda: primary.write("INSERT", entry))[0] == INVALID


def test_a_table_without_key_has_no_entries(primary: Controller) -> None:
    entry = NAMES.entry("without_key", {}, "send", 1)
    assert refusal(lambda: primary.write("INSERT", entry))[0] == INVALID


def test_modify_without_action_keeps_it(primary: Controller) -> None:
    entry = rule(1, port=6)
    primary.write("INSERT", entry)
    bare = rule(1)
    bare.ClearField("action")
    bare.metadata = b"new"
    primary.write("MODIFY", bare)
    (found,) = primary.read_entries(p4r.TableEntry(table_id=entry.table_id))
    assert (found.action, found.metadata) == (entry.action, b"new")


# --- idle timeouts --------------------------------------------------------------------------------
def test_idle_entries_are_told(running: Bench, primary: Controller) -> None:
    entry = NAMES.entry("ages", {"h.data.c": 9}, "send", 1)
    entry.idle_timeout_ns = 300_000_000
    entry.metadata = b"who"
    primary.write("INSERT", entry)
    told = primary.others.get(timeout=DEADLINE)
    assert list(told.idle_timeout_notification.table_entry) == [entry]
    primary.others.get(timeout=DEADLINE)  # the timer starts again
    asked = p4r.TableEntry(table_id=entry.table_id)
    asked.time_since_last_hit.SetInParent()
    (before,) = primary.read_entries(asked)
    assert before.time_since_last_hit.elapsed_ns >= 300_000_000
    send(running, "0000 0000 09 00")
    wait_until(
        "the entry was hit",
        lambda: (
            primary.read_entries(asked)[0].time_since_last_hit.elapsed_ns
            < before.time_since_last_hit.elapsed_ns
        ),
    )


def test_tables_without_idle_timeout(primary: Controller) -> None:
    asked = p4r.TableEntry(table_id=rule(1).table_id)
    asked.time_since_last_hit.SetInParent()
    assert refusal(lambda: primary.read_entries(asked))[0] == INVALID
    entry = rule(1)
    entry.idle_timeout_ns = 1
    assert refusal(lambda: primary.write("INSERT", entry))[0] == INVALID


# --- action profiles ------------------------------------------------------------------------------
def test_members_are_kept_while_used(primary: Controller) -> None:
    one = member("shared", 3)
    primary.write_updates([update("INSERT", action_profile_member=one)])
    entry = NAMES.entry("members", {"h.data.b": 5})
    entry.action.action_profile_member_id = 3
    primary.write("INSERT", entry)
    delete = update("DELETE", action_profile_member=one)
    code, text = refusal(lambda: primary.write_updates([delete]))
    assert (code, text) == (PRECONDITION, "member 3 is used by an entry")
    again = update("INSERT", action_profile_member=one)
    assert refusal(lambda: primary.write_updates([again]))[0] == EXISTS
    changed = member("shared", 3, port=6)
    primary.write_updates([update("MODIFY", action_profile_member=changed)])
    wanted = p4r.Entity(action_profile_member=p4r.ActionProfileMember())
    assert [e.action_profile_member for e in primary.read(wanted)] == [changed]
    primary.write("DELETE", entry)
    primary.write_updates([delete])
    assert refusal(lambda: primary.write_updates([delete]))[0] == NOT_FOUND


def test_entries_need_their_member(primary: Controller) -> None:
    entry = NAMES.entry("members", {"h.data.b": 5})
    entry.action.action_profile_member_id = 99
    assert refusal(lambda: primary.write("INSERT", entry))[0] == NOT_FOUND
    entry.action.action_profile_group_id = 1
    assert refusal(lambda: primary.write("INSERT", entry))[0] == INVALID, "no selector"
    direct = NAMES.entry("members", {"h.data.b": 5}, "send", 1)
    assert refusal(lambda: primary.write("INSERT", direct))[0] == INVALID


def test_groups(primary: Controller) -> None:
    primary.write_updates(
        [update("INSERT", action_profile_member=member("spread", n)) for n in (1, 2)]
    )
    made = group(1, (1, 1), (2, 2))
    primary.write_updates([update("INSERT", action_profile_group=made)])
    wanted = p4r.Entity(action_profile_group=p4r.ActionProfileGroup())
    assert [e.action_profile_group for e in primary.read(wanted)] == [made]
    for spoilt, code in (
        (group(2, (9, 1)), NOT_FOUND),
        (group(2, (1, 0)), INVALID),
        (group(2, (1, 1), (1, 1)), INVALID),
        (group(2, (1, 5)), INVALID),
        (group(2, (1, 1), size=5), INVALID),
    ):
        insert = update("INSERT", action_profile_group=spoilt)
        assert refusal(lambda i=insert: primary.write_updates([i]))[0] == code
    smaller = update("MODIFY", action_profile_group=group(1, (1, 1), size=3))
    assert refusal(lambda: primary.write_updates([smaller]))[0] == INVALID
    delete = update("DELETE", action_profile_member=member("spread", 1))
    assert refusal(lambda: primary.write_updates([delete]))[0] == PRECONDITION


def test_one_shot_entries(primary: Controller) -> None:
    entry = one_shot(1, 2, 2)
    primary.write("INSERT", entry)
    assert primary.read_entries(p4r.TableEntry(table_id=entry.table_id)) == [entry]
    members = p4r.Entity(action_profile_member=p4r.ActionProfileMember())
    assert primary.read(members) == [], "what was made for the entry is nobody's business"
    insert = update("INSERT", action_profile_member=member("spread", 1))
    code, text = refusal(lambda: primary.write_updates([insert]))
    assert (code, text) == (INVALID, "the entries of ingress.spread are one-shot")
    for _ in range(20):  # what is replaced is forgotten, or the profile would be full
        primary.write("MODIFY", one_shot(3, 4))
    primary.write("DELETE", entry)
    primary.write_updates([insert])


# --- meters, registers ----------------------------------------------------------------------------
def test_meters(primary: Controller) -> None:
    cell = p4r.MeterEntry(meter_id=number("meters", "allowed"))
    cell.index.index = 2
    cell.config.cir, cell.config.cburst, cell.config.pir, cell.config.pburst = 1, 2, 3, 4
    primary.write_updates([update("MODIFY", meter_entry=cell)])
    every = p4r.Entity(meter_entry=p4r.MeterEntry())
    found = [e.meter_entry for e in primary.read(every)]
    assert [e.HasField("config") for e in found] == [False, False, True, False]
    assert found[2] == cell
    assert (
        refusal(lambda: primary.write_updates([update("INSERT", meter_entry=cell)]))[0] == INVALID
    )
    cell.config.eburst = 1
    assert (
        refusal(lambda: primary.write_updates([update("MODIFY", meter_entry=cell)]))[0] == INVALID
    )
    cell.ClearField("config")
    primary.write_updates([update("MODIFY", meter_entry=cell)])
    assert not any(e.meter_entry.HasField("config") for e in primary.read(every))


def test_direct_meters(primary: Controller) -> None:
    entry = NAMES.entry("rates", {"h.data.b": 5}, "metered", 1)
    entry.meter_config.cir = entry.meter_config.pir = 1000
    primary.write("INSERT", entry)
    asked = p4r.TableEntry(table_id=entry.table_id)
    asked.meter_config.SetInParent()
    assert primary.read_entries(asked) == [entry]
    entry.ClearField("meter_config")
    primary.write("MODIFY", entry)
    assert primary.read_entries(asked) == [entry], "a MODIFY without rates resets them"
    direct = p4r.DirectMeterEntry(table_entry=entry)
    direct.table_entry.ClearField("action")
    direct.config.cir = direct.config.pir = 5
    primary.write_updates([update("MODIFY", direct_meter_entry=direct)])
    found = primary.read(p4r.Entity(direct_meter_entry=p4r.DirectMeterEntry()))
    assert [e.direct_meter_entry for e in found] == [direct]


def test_registers(primary: Controller) -> None:
    cell = p4r.RegisterEntry(register_id=number("registers", "notes"))
    cell.data.bitstring = b"\x12\x34"
    primary.write_updates([update("MODIFY", register_entry=cell)])
    every = primary.read(p4r.Entity(register_entry=p4r.RegisterEntry()))
    assert [e.register_entry.data.bitstring for e in every] == [b"\x12\x34"] * 4
    cell.data.bitstring = b"\1\0\0\0\0"
    wide = update("MODIFY", register_entry=cell)
    assert refusal(lambda: primary.write_updates([wide]))[0] == RANGE
    for index, code in ((4, RANGE), (-1, INVALID)):
        cell.index.index = index
        asked = p4r.Entity(register_entry=cell)
        assert refusal(lambda a=asked: primary.read(a))[0] == code


# --- replication ----------------------------------------------------------------------------------
def test_multicast_groups(primary: Controller) -> None:
    made = multicast(7, (1, 0), (1, 1), (2, 0))
    made.multicast_group_entry.metadata = b"mine"
    insert = update("INSERT", packet_replication_engine_entry=made)
    primary.write_updates([insert])
    assert refusal(lambda: primary.write_updates([insert]))[0] == EXISTS
    asked = p4r.PacketReplicationEngineEntry()
    asked.multicast_group_entry.SetInParent()
    found = primary.read(p4r.Entity(packet_replication_engine_entry=asked))
    assert [e.packet_replication_engine_entry for e in found] == [made]
    for spoilt, code in (
        (multicast(0, (1, 0)), INVALID),
        (multicast(8, (1, 0), (1, 0)), INVALID),
        (multicast(8, *((1, i) for i in range(129))), EXHAUSTED),
    ):
        one = update("INSERT", packet_replication_engine_entry=spoilt)
        assert refusal(lambda o=one: primary.write_updates([o]))[0] == code
    backup = multicast(8, (1, 0))
    backup.multicast_group_entry.replicas[0].backup_replicas.add(port=b"\2")
    one = update("INSERT", packet_replication_engine_entry=backup)
    assert refusal(lambda: primary.write_updates([one]))[0] == UNIMPLEMENTED
    missing = update("MODIFY", packet_replication_engine_entry=multicast(9))
    assert refusal(lambda: primary.write_updates([missing]))[0] == NOT_FOUND


def test_clone_sessions(primary: Controller) -> None:
    made = p4r.PacketReplicationEngineEntry()
    made.clone_session_entry.session_id = 5
    made.clone_session_entry.packet_length_bytes = 64
    made.clone_session_entry.replicas.add(egress_port=3, instance=1)
    primary.write_updates([update("INSERT", packet_replication_engine_entry=made)])
    asked = p4r.PacketReplicationEngineEntry()
    found = primary.read(p4r.Entity(packet_replication_engine_entry=asked))
    assert [e.packet_replication_engine_entry for e in found] == [made]
    primary.write_updates([update("DELETE", packet_replication_engine_entry=made)])
    assert primary.read(p4r.Entity(packet_replication_engine_entry=asked)) == []


# --- value sets -----------------------------------------------------------------------------------
def test_value_sets(primary: Controller) -> None:
    made = p4r.ValueSetEntry(value_set_id=number("value_sets", "specials"))
    for value in (b"\1", b"\2"):
        made.members.add().match.add(field_id=1).exact.value = value
    primary.write_updates([update("MODIFY", value_set_entry=made)])
    every = p4r.Entity(value_set_entry=p4r.ValueSetEntry())
    assert [e.value_set_entry for e in primary.read(every)] == [made]
    assert refusal(lambda: primary.write_updates([update("INSERT", value_set_entry=made)]))[0] == (
        INVALID
    )
    made.members.add().match.add(field_id=1).exact.value = b"\3"
    assert refusal(lambda: primary.write_updates([update("MODIFY", value_set_entry=made)]))[0] == (
        EXHAUSTED
    )
    made.members[2].match[0].exact.value = b"\1"
    assert refusal(lambda: primary.write_updates([update("MODIFY", value_set_entry=made)]))[0] == (
        EXISTS
    )


# --- digests --------------------------------------------------------------------------------------
def test_digests_are_told_once(running: Bench, primary: Controller) -> None:
    entry = digest(2, acknowledged_ns=10**15)
    primary.write_updates([update("INSERT", digest_entry=entry)])
    found = primary.read(p4r.Entity(digest_entry=p4r.DigestEntry()))
    assert [e.digest_entry for e in found] == [entry]
    send(running, "0101 0000 00 00", "0101 0000 00 00", "0202 0000 00 00")
    told = primary.others.get(timeout=DEADLINE).digest
    assert [m.struct.members[0].bitstring for m in told.data] == [b"\1\1", b"\2\2"]
    assert told.data[0].struct.members[1].bitstring == b"\1", "the port"
    send(running, "0101 0000 00 00", "0202 0000 00 00")
    acknowledge = p4r.StreamMessageRequest()
    acknowledge.digest_ack.digest_id, acknowledge.digest_ack.list_id = told.digest_id, told.list_id
    primary._outbox.put(acknowledge)
    primary.arbitrate(primary.election)  # its answer says that the acknowledgement was read
    primary.answer()
    send(running, "0202 0000 00 00", "0303 0000 00 00")
    again = primary.others.get(timeout=DEADLINE).digest
    assert [m.struct.members[0].bitstring for m in again.data] == [b"\2\2", b"\3\3"]
    primary.write_updates([update("DELETE", digest_entry=entry)])
    assert primary.read(p4r.Entity(digest_entry=p4r.DigestEntry())) == []


def test_unknown_digests(primary: Controller) -> None:
    acknowledge = p4r.StreamMessageRequest()
    acknowledge.digest_ack.digest_id = 1
    primary._outbox.put(acknowledge)
    error = primary.errors.get(timeout=DEADLINE)
    assert error.canonical_code == INVALID
    assert error.WhichOneof("details") == "digest_list_ack"
    missing = update("MODIFY", digest_entry=digest(1))
    assert refusal(lambda: primary.write_updates([missing]))[0] == NOT_FOUND


# --- batches --------------------------------------------------------------------------------------
def test_every_entity_rolls_back(primary: Controller) -> None:
    """A batch with one of everything fails at its end, and leaves what was there before."""
    register = p4r.RegisterEntry(register_id=number("registers", "notes"))
    register.data.bitstring = b"\7"
    meter = p4r.MeterEntry(meter_id=number("meters", "allowed"))
    meter.config.cir = 9
    values = p4r.ValueSetEntry(value_set_id=number("value_sets", "specials"))
    values.members.add().match.add(field_id=1).exact.value = b"\1"
    shot = one_shot(1, 2)
    updates = [
        update("INSERT", table_entry=rule(1)),
        update("INSERT", table_entry=shot),
        update("INSERT", action_profile_member=member("shared", 1)),
        update("MODIFY", register_entry=register),
        update("MODIFY", meter_entry=meter),
        update("MODIFY", value_set_entry=values),
        update("INSERT", packet_replication_engine_entry=multicast(3, (1, 0))),
        update("INSERT", digest_entry=digest(1)),
        update("DELETE", table_entry=shot),
        update("DELETE", table_entry=rule(77)),
    ]
    request = p4r.WriteRequest(
        device_id=1,
        election_id=primary.election_id(),
        atomicity="ROLLBACK_ON_ERROR",
        updates=updates,
    )
    before = everything(primary)
    with pytest.raises(grpc.RpcError) as caught:
        primary.stub.Write(request)
    assert [c for c, _ in batch_errors(caught.value)] == [*[ABORTED] * 9, NOT_FOUND]
    assert everything(primary) == before
    del request.updates[8:]
    primary.stub.Write(request)
    assert everything(primary) != before


def test_a_read_tells_each_request_its_fate(primary: Controller) -> None:
    entities = [
        p4r.Entity(table_entry=p4r.TableEntry(table_id=number("tables", "fixed"))),
        p4r.Entity(table_entry=p4r.TableEntry(table_id=1)),
        p4r.Entity(),
    ]
    answers = primary.stub.Read(p4r.ReadRequest(device_id=1, entities=entities))
    found = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in answers:
            found += list(answer.entities)
    assert len(found) == 2, "what could be read is read"
    assert [c for c, _ in batch_errors(caught.value)] == [OK, NOT_FOUND, INVALID]
