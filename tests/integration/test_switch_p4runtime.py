# SPDX-License-Identifier: Apache-2.0
"""The embedded switch's P4Runtime service, as the specification has it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4i, p4r
from google.protobuf import text_format

from tests.integration.switch_bench import (
    DEADLINE,
    GATEWAY_MAC,
    PROGRAM,
    Bench,
    Controller,
    batch_errors,
    bench,
)

OK, INVALID, NOT_FOUND, EXISTS, DENIED, EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED = (
    0, 3, 5, 6, 7, 8, 11, 12,
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("switch")) as made:
        yield made


_elections = iter(range(1, 1000))


@pytest.fixture
def made(running: Bench) -> Bench:
    """The running switch with the project's program and no entries."""
    with running.controller(next(_elections)) as controller:
        controller.answer()
        controller.set_pipeline(cookie=7)
    return running


@pytest.fixture
def primary(made: Bench) -> Iterator[Controller]:
    with made.controller(next(_elections)) as controller:
        assert controller.answer().status.code == OK
        yield controller


def failure(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def code(call: Callable[[], object]) -> int:
    return int(failure(call).code().value[0])


def route(controller: Controller, destination: str, port: int = 1) -> p4r.TableEntry:
    return controller.names.entry(
        "route", {"destination": destination}, "forward", port, GATEWAY_MAC, "02:00:00:00:00:05"
    )


# --- arbitration ----------------------------------------------------------------------------------
def test_higher_election_id_takes_over(made: Bench) -> None:
    low, high = next(_elections), next(_elections)
    with made.controller(low) as first:
        assert first.answer().status.code == OK
        with made.controller(high) as second:
            assert second.answer().status.code == OK
            told = first.answer()
            assert told.status.code == EXISTS
            assert told.election_id.low == high
            assert code(lambda: first.write("INSERT", route(first, "192.0.2.0/24"))) == DENIED
            second.write("INSERT", route(second, "192.0.2.0/24"))
        gone = first.answer()
        assert gone.status.code == NOT_FOUND, "the backup learns that the primary is gone"
        assert code(lambda: first.write("INSERT", route(first, "192.0.3.0/24"))) == DENIED


def test_lower_election_id_becomes_backup(made: Bench) -> None:
    low, high = next(_elections), next(_elections)
    with made.controller(high) as first:
        assert first.answer().status.code == OK
        with made.controller(low) as second:
            assert second.answer().status.code == EXISTS
            second.arbitrate(next(_elections))
            assert second.answer().status.code == OK
            assert first.answer().status.code == EXISTS


def test_primary_can_step_down(made: Bench) -> None:
    with made.controller(next(_elections)) as first:
        assert first.answer().status.code == OK
        first.arbitrate(0)
        assert first.answer().status.code == NOT_FOUND
        assert code(lambda: first.write("INSERT", route(first, "192.0.2.0/24"))) == DENIED


def test_equal_election_id_is_refused(made: Bench) -> None:
    same = next(_elections)
    with made.controller(same) as first:
        assert first.answer().status.code == OK
        with made.controller(same) as second:
            error = second.ended.get(timeout=DEADLINE)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "used by another controller" in error.details()


def test_zero_is_always_backup(made: Bench) -> None:
    with made.controller(None) as idle:
        assert idle.answer().status.code == NOT_FOUND
        assert code(lambda: idle.write("INSERT", route(idle, "192.0.2.0/24"))) == DENIED
        assert idle.read_entries(p4r.TableEntry()) == []


def test_roles_have_elections_of_their_own(made: Bench, primary: Controller) -> None:
    with made.controller(None) as other:
        other.answer()
    with made.controller(None) as other:
        other.answer()
        other.arbitrate(1, role="monitor")
        assert other.ended.get(timeout=DEADLINE).code() is grpc.StatusCode.FAILED_PRECONDITION
    assert primary.arbitrations.qsize() <= 1


def test_other_device_is_not_found(made: Bench) -> None:
    with made.controller(None) as controller:
        controller.answer()
        controller.arbitrate(5, device=2)
        error = controller.ended.get(timeout=DEADLINE)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "device 1, not 2" in error.details()
        request = p4r.WriteRequest(device_id=2)
        assert code(lambda: controller.stub.Write(request)) == NOT_FOUND


def test_packets_from_a_backup_are_refused(made: Bench, primary: Controller) -> None:
    with made.controller(None) as backup:
        backup.answer()
        backup.packet_out(b"frame", port=1)
        assert backup.errors.get(timeout=DEADLINE).canonical_code == DENIED


def test_incomplete_packet_out_is_reported(primary: Controller) -> None:
    request = p4r.StreamMessageRequest()
    request.packet.payload = b"frame"
    request.packet.metadata.add(metadata_id=1, value=b"\x01")
    primary._outbox.put(request)
    error = primary.errors.get(timeout=DEADLINE)
    assert error.canonical_code == INVALID
    assert "past_hold" in error.message
    assert error.packet_out.packet_out.payload == b"frame"


# --- writing and reading --------------------------------------------------------------------------
def test_insert_modify_delete(primary: Controller) -> None:
    wanted = route(primary, "192.0.2.0/24")
    primary.write("INSERT", wanted)
    assert primary.read_entries(wanted) == [wanted]
    changed = route(primary, "192.0.2.0/24", port=2)
    primary.write("MODIFY", changed)
    assert primary.read_entries(p4r.TableEntry(table_id=wanted.table_id)) == [changed]
    primary.write("DELETE", wanted)
    assert primary.read_entries(p4r.TableEntry()) == []


def test_batch_reports_each_update(primary: Controller) -> None:
    one, two = route(primary, "192.0.2.0/24"), route(primary, "192.0.3.0/24")
    primary.write("INSERT", one)
    updates = [
        p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry))
        for kind, entry in (
            ("INSERT", one),
            ("INSERT", two),
            ("MODIFY", route(primary, "9.9.9.9/32")),
        )
    ]
    updates.append(
        p4r.Update(type="DELETE", entity=p4r.Entity(table_entry=route(primary, "8.8.8.8/32")))
    )
    error = failure(lambda: primary.write_updates(updates))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert [c for c, _ in batch_errors(error)] == [EXISTS, OK, NOT_FOUND, NOT_FOUND]
    assert batch_errors(error)[0][1] == "table ingress.route already has this entry"
    assert len(primary.read_entries(p4r.TableEntry())) == 2, "the others were applied"


def test_bytes_are_canonical(primary: Controller) -> None:
    padded = primary.names.entry("hold_to", {"address": 0}, "buffer")
    padded.match[0].exact.value = b"\x00\x00\x00\x07"
    primary.write("INSERT", padded)
    (found,) = primary.read_entries(p4r.TableEntry(table_id=padded.table_id))
    assert found.match[0].exact.value == b"\x07"


def _no_match(entry: p4r.TableEntry) -> None:
    del entry.match[:]


def _too_wide(entry: p4r.TableEntry) -> None:
    entry.match[0].lpm.value = b"\x01\x00\x00\x00\x00"


def _wide_parameter(entry: p4r.TableEntry) -> None:
    entry.action.action.params[0].value = b"\x02\x00"


def _bits_behind(entry: p4r.TableEntry) -> None:
    entry.match[0].lpm.prefix_len = 8


def _prefix_zero(entry: p4r.TableEntry) -> None:
    entry.match[0].lpm.prefix_len = 0


def _empty(entry: p4r.TableEntry) -> None:
    entry.match[0].lpm.value = b""


def _other_kind(entry: p4r.TableEntry) -> None:
    entry.match[0].exact.value = b"\x01"


def _unknown_field(entry: p4r.TableEntry) -> None:
    entry.match[0].field_id = 99


def _twice(entry: p4r.TableEntry) -> None:
    entry.match.append(entry.match[0])


def _priority(entry: p4r.TableEntry) -> None:
    entry.priority = 1


def _no_such_table(entry: p4r.TableEntry) -> None:
    entry.table_id = 1


def _no_such_action(entry: p4r.TableEntry) -> None:
    entry.action.action.action_id = 1


def _missing_parameter(entry: p4r.TableEntry) -> None:
    del entry.action.action.params[0]


def _idle(entry: p4r.TableEntry) -> None:
    entry.idle_timeout_ns = 1


def _member(entry: p4r.TableEntry) -> None:
    entry.action.action_profile_member_id = 1


@pytest.mark.parametrize(
    ("spoil", "expected", "message"),
    [
        (_too_wide, OUT_OF_RANGE, "does not fit in 32 bits"),
        (_wide_parameter, OUT_OF_RANGE, "forward.port: 0x200 does not fit in 9 bits"),
        (_bits_behind, INVALID, "bits are set behind the prefix of 8"),
        (_prefix_zero, INVALID, "leave the field out"),
        (_empty, OUT_OF_RANGE, "empty value"),
        (_other_kind, INVALID, "matches by lpm, not by exact"),
        (_unknown_field, INVALID, "no match field 99"),
        (_twice, INVALID, "given twice"),
        (_priority, INVALID, "have no priority"),
        (_no_such_table, NOT_FOUND, "no table 1"),
        (_no_such_action, INVALID, "no action 1"),
        (_missing_parameter, INVALID, "port, source_mac, destination_mac"),
        (_idle, INVALID, "idle timeout"),
        (_member, INVALID, "takes an action"),
    ],
)
def test_bad_entries_are_refused(
    primary: Controller, spoil: Callable[[p4r.TableEntry], None], expected: int, message: str
) -> None:
    entry = route(primary, "192.0.2.0/24")
    spoil(entry)
    ((got, text),) = batch_errors(failure(lambda: primary.write("INSERT", entry)))
    assert got == expected
    assert message in text
    assert primary.read_entries(p4r.TableEntry()) == []


def test_exact_fields_must_be_given(primary: Controller) -> None:
    entry = primary.names.entry("guard", {"source": "192.0.2.1"}, "drop")
    ((got, text),) = batch_errors(failure(lambda: primary.write("INSERT", entry)))
    assert got == INVALID
    assert "guard.ingress_port is an exact match" in text


def test_match_everything_by_leaving_lpm_out(primary: Controller) -> None:
    entry = route(primary, "0.0.0.0/32")
    _no_match(entry)
    primary.write("INSERT", entry)
    assert primary.read_entries(p4r.TableEntry(table_id=entry.table_id)) == [entry]


def test_default_only_actions(primary: Controller) -> None:
    entry = primary.names.entry("hold_to", {"address": "192.0.2.1"}, "NoAction")
    ((got, text),) = batch_errors(failure(lambda: primary.write("INSERT", entry)))
    assert got == DENIED
    assert "NoAction cannot be the action of an entry" in text


@pytest.mark.parametrize("kind", ["INSERT", "DELETE"])
def test_default_entries_are_only_modified(primary: Controller, kind: str) -> None:
    entry = p4r.TableEntry(
        table_id=primary.names.tables["route"].preamble.id, is_default_action=True
    )
    entry.action.CopyFrom(route(primary, "0.0.0.0/32").action)
    ((got, text),) = batch_errors(failure(lambda: primary.write(kind, entry)))
    assert got == INVALID
    assert "can only be modified" in text


def test_default_entry_is_read(primary: Controller) -> None:
    table = primary.names.tables["route"].preamble.id
    asked = p4r.TableEntry(table_id=table, is_default_action=True)
    (before,) = primary.read_entries(asked)
    assert before.action.action.action_id == primary.names.actions["drop"].preamble.id
    asked.action.CopyFrom(route(primary, "0.0.0.0/32").action)
    primary.write("MODIFY", asked)
    (after,) = primary.read_entries(p4r.TableEntry(table_id=table, is_default_action=True))
    assert after.action == asked.action


def test_table_full(primary: Controller) -> None:
    size = primary.names.tables["hold_to"].size
    entries = [
        primary.names.entry("hold_to", {"address": 0x0A000000 + i}, "buffer")
        for i in range(size + 1)
    ]
    primary.write("INSERT", *entries[:-2])
    error = failure(lambda: primary.write("INSERT", *entries[-2:]))
    assert batch_errors(error)[0][0] == OK
    assert batch_errors(error)[1] == (EXHAUSTED, f"table ingress.hold_to is full ({size} entries)")
    assert len(primary.read_entries(p4r.TableEntry())) == size, "read in several answers"
    primary.write("DELETE", entries[0])
    primary.write("INSERT", entries[-1])


@pytest.mark.parametrize(("count", "details"), [(150, 150), (330, 330), (1000, 0)])
def test_long_batches_fail_readably(primary: Controller, count: int, details: int) -> None:
    """Details that gRPC would choke on are shortened, then left out; the message names the rest."""
    entries = [route(primary, f"10.0.{i // 250}.{i % 250}/32") for i in range(count)]
    primary.write("INSERT", *entries)
    error = failure(lambda: primary.write("INSERT", *entries))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert f"{count} of {count} updates failed, first #0: table ingress.route" in error.details()
    found = [m for m in error.trailing_metadata() if m[0] == "grpc-status-details-bin"]
    if details:
        assert [c for c, _ in batch_errors(error)] == [EXISTS] * details
    else:
        assert not found
        assert f"too many for details of each: failed are #0-{count - 1}" in error.details()


def test_wildcard_reads(primary: Controller) -> None:
    primary.write("INSERT", route(primary, "192.0.2.0/24"), route(primary, "192.0.3.0/24"))
    primary.insert("hold_to", {"address": "192.0.2.1"}, "buffer")
    assert len(primary.read_entries(p4r.TableEntry())) == 3
    assert len(primary.read(p4r.Entity(direct_counter_entry=p4r.DirectCounterEntry()))) == 3
    counters = primary.read(p4r.Entity(counter_entry=p4r.CounterEntry()))
    assert len(counters) == 16
    defaults = primary.read_entries(p4r.TableEntry(is_default_action=True))
    assert len(defaults) == len(primary.names.tables)


def test_counters_can_be_set(primary: Controller) -> None:
    entry = route(primary, "192.0.2.0/24")
    entry.counter_data.packet_count = 5
    entry.counter_data.byte_count = 500
    primary.write("INSERT", entry)
    assert primary.read_entries(entry) == [entry]
    bare = route(primary, "192.0.2.0/24", port=2)
    primary.write("MODIFY", bare)
    entry.action.CopyFrom(bare.action)
    assert primary.read_entries(entry) == [entry], "a MODIFY keeps the counter"
    update = p4r.Update(type="MODIFY")
    update.entity.direct_counter_entry.table_entry.CopyFrom(bare)
    update.entity.direct_counter_entry.data.packet_count = 9
    primary.write_updates([update])
    assert primary.direct_packets("route") == 9
    indexed = p4r.Update(type="MODIFY")
    indexed.entity.counter_entry.counter_id = primary.names.counters["dropped"]
    indexed.entity.counter_entry.index.index = 3
    indexed.entity.counter_entry.data.packet_count = 4
    primary.write_updates([indexed])
    assert [primary.counter("dropped", i) for i in (2, 3)] == [0, 4]


def test_entry_metadata_is_kept(primary: Controller) -> None:
    entry = route(primary, "192.0.2.0/24")
    entry.metadata = b"mine"
    primary.write("INSERT", entry)
    assert primary.read_entries(entry) == [entry]


def test_unknown_entities(primary: Controller) -> None:
    extern = p4r.Entity(extern_entry=p4r.ExternEntry(extern_type_id=1))
    ((got, _),) = batch_errors(failure(lambda: primary.read(extern)))
    assert got == UNIMPLEMENTED
    updates = [p4r.Update(type="INSERT", entity=extern)]
    ((got, _),) = batch_errors(failure(lambda: primary.write_updates(updates)))
    assert got == UNIMPLEMENTED


def test_several_hash_table_entries_are_not_atomic(primary: Controller) -> None:
    updates = [
        p4r.Update(type="INSERT", entity=p4r.Entity(table_entry=route(primary, network)))
        for network in ("192.0.2.0/24", "192.0.3.0/24")
    ]
    request = p4r.WriteRequest(
        device_id=1,
        election_id=primary.election_id(),
        atomicity="DATAPLANE_ATOMIC",
        updates=updates,
    )
    assert code(lambda: primary.stub.Write(request)) == UNIMPLEMENTED
    assert primary.read_entries(p4r.TableEntry()) == []
    del request.updates[1:]
    primary.stub.Write(request)
    assert len(primary.read_entries(p4r.TableEntry())) == 1, "one update is atomic"


def test_rollback_leaves_no_trace(primary: Controller) -> None:
    old, gone = route(primary, "192.0.2.0/24"), route(primary, "192.0.4.0/24")
    old.metadata = b"old"
    for number, entry in enumerate((old, gone), 1):
        entry.counter_data.packet_count = number
        entry.counter_data.byte_count = 60 * number
    primary.write("INSERT", old, gone)
    default = p4r.TableEntry(table_id=old.table_id, is_default_action=True)
    changed_default = p4r.TableEntry(table_id=old.table_id, is_default_action=True)
    changed_default.action.CopyFrom(old.action)
    (before,) = primary.read_entries(default)
    counter = p4r.Update(type="MODIFY")
    counter.entity.counter_entry.counter_id = primary.names.counters["dropped"]
    counter.entity.counter_entry.data.packet_count = 7
    updates = [
        p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry))
        for kind, entry in (
            ("DELETE", gone),
            ("INSERT", route(primary, "192.0.3.0/24")),
            ("MODIFY", route(primary, "192.0.2.0/24", port=2)),
            ("MODIFY", changed_default),
            ("MODIFY", route(primary, "9.9.9.9/32")),
            ("INSERT", route(primary, "192.0.5.0/24")),
        )
    ]
    updates.insert(4, counter)
    request = p4r.WriteRequest(
        device_id=1,
        election_id=primary.election_id(),
        atomicity="ROLLBACK_ON_ERROR",
        updates=updates,
    )
    error = failure(lambda: primary.stub.Write(request))
    aborted, missing = grpc.StatusCode.ABORTED.value[0], NOT_FOUND
    assert [c for c, _ in batch_errors(error)] == [*[aborted] * 5, missing, aborted]
    wanted = p4r.TableEntry(table_id=old.table_id)
    wanted.counter_data.SetInParent()
    left = {e.match[0].lpm.value: e for e in primary.read_entries(wanted)}
    assert left == {e.match[0].lpm.value: e for e in (old, gone)}
    assert primary.read_entries(default) == [before]
    assert primary.counter("dropped", 0) == 0
    del request.updates[5:]
    primary.stub.Write(request)
    assert primary.counter("dropped", 15) == 7


def test_capabilities(primary: Controller) -> None:
    answer = primary.stub.Capabilities(p4r.CapabilitiesRequest())
    assert answer.p4runtime_api_version.startswith("1.5")


def test_a_write_is_quick(primary: Controller) -> None:
    primary.write("INSERT", route(primary, "192.0.2.0/24"))
    times = []
    for number in range(200):
        entry = route(primary, "192.0.2.0/24", port=1 + number % 2)
        start = time.perf_counter()
        primary.write("MODIFY", entry)
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.005


# --- pipeline -------------------------------------------------------------------------------------
def get_config(controller: Controller, kind: str) -> p4r.ForwardingPipelineConfig:
    request = p4r.GetForwardingPipelineConfigRequest(device_id=1, response_type=kind)
    return controller.stub.GetForwardingPipelineConfig(request).config


def test_pipeline_is_read_back(primary: Controller) -> None:
    everything = get_config(primary, "ALL")
    assert everything.cookie.cookie == 7
    assert everything.p4info == primary.names.p4info
    assert everything.p4_device_config == PROGRAM.read_bytes()
    only = get_config(primary, "COOKIE_ONLY")
    assert only.cookie.cookie == 7
    assert not only.p4_device_config
    assert not only.HasField("p4info")


def test_commit_clears_and_reconcile_keeps(primary: Controller) -> None:
    primary.write("INSERT", route(primary, "192.0.2.0/24"))
    primary.set_pipeline(action="RECONCILE_AND_COMMIT", cookie=8)
    assert len(primary.read_entries(p4r.TableEntry())) == 1
    assert get_config(primary, "COOKIE_ONLY").cookie.cookie == 8
    primary.set_pipeline(action="VERIFY_AND_COMMIT")
    assert primary.read_entries(p4r.TableEntry()) == []


def test_verify_changes_nothing(primary: Controller) -> None:
    primary.write("INSERT", route(primary, "192.0.2.0/24"))
    primary.set_pipeline(action="VERIFY", cookie=99)
    assert get_config(primary, "COOKIE_ONLY").cookie.cookie == 7
    primary.set_pipeline(action="VERIFY_AND_SAVE", cookie=9)
    assert get_config(primary, "COOKIE_ONLY").cookie.cookie == 7, "what runs is as it was"
    assert primary.read_entries(p4r.TableEntry()) == [], "reads refer to what is saved"
    later = route(primary, "192.0.9.0/24")
    primary.write("INSERT", later)
    primary.set_pipeline(action="COMMIT")
    assert get_config(primary, "COOKIE_ONLY").cookie.cookie == 9
    assert primary.read_entries(p4r.TableEntry()) == [later], "writes since the save count"
    assert code(lambda: primary.set_pipeline(action="COMMIT")) == NOT_FOUND


def test_config_is_needed_but_for_commit(primary: Controller) -> None:
    request = p4r.SetForwardingPipelineConfigRequest(
        device_id=1, election_id=primary.election_id(), action="VERIFY"
    )
    assert code(lambda: primary.stub.SetForwardingPipelineConfig(request)) == INVALID
    primary.set_pipeline(action="VERIFY_AND_SAVE")
    request.action = p4r.SetForwardingPipelineConfigRequest.COMMIT
    request.config.SetInParent()
    assert code(lambda: primary.stub.SetForwardingPipelineConfig(request)) == INVALID


def test_pipeline_needs_the_primary(made: Bench, primary: Controller) -> None:
    with made.controller(None) as backup:
        backup.answer()
        assert code(backup.set_pipeline) == DENIED


def test_broken_programs_are_refused(primary: Controller, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    error = failure(lambda: primary.set_pipeline(broken))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "version 0.0 is unknown" in error.details()
    other = p4i.P4Info()
    other.CopyFrom(primary.names.p4info)
    other.tables[0].preamble.name = "ingress.nowhere"
    error = failure(lambda: primary.set_pipeline(p4info=other))
    assert "no table ingress.nowhere" in error.details()
    assert get_config(primary, "COOKIE_ONLY").cookie.cookie == 7, "the old one stays"


def test_without_a_pipeline(tmp_path: Path) -> None:
    with bench(tmp_path, hosts=1) as made, made.controller() as controller:
        controller.answer()
        precondition = grpc.StatusCode.FAILED_PRECONDITION
        asked = p4r.GetForwardingPipelineConfigRequest(device_id=1)
        assert not controller.stub.GetForwardingPipelineConfig(asked).HasField("config")
        entry = route(controller, "192.0.2.0/24")
        error = failure(lambda: controller.write("INSERT", entry))
        assert error.code() is precondition
        assert error.details() == "no forwarding pipeline is set on this device"


def test_p4info_as_text_is_what_we_compare(primary: Controller) -> None:
    """The server hands back P4Info unchanged, also in its text form."""
    text = text_format.MessageToString(get_config(primary, "ALL").p4info)
    assert text == text_format.MessageToString(primary.names.p4info)
