# SPDX-License-Identifier: Apache-2.0
"""Entries by name: normal forms, and what is said about entries that are wrong."""

from __future__ import annotations

from typing import Any

import pytest
from flowferry_p4.client import (
    BadValue,
    Entry,
    P4Error,
    Schema,
    UnknownName,
    Update,
    cookie_of,
    parse_p4info,
)

FORWARD = {"port": 1, "source_mac": 1, "destination_mac": 2}


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("198.19.0.0/24", "198.19.0.0/24"),
        ("198.19.0.7", "198.19.0.7/32"),
        ("0xc6130000/16", "198.19.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        (None, "0.0.0.0/0"),
    ],
)
def test_prefixes(schema: Schema, written: object, normal: str) -> None:
    entry = Entry("route", {"destination": written}, "drop")
    assert schema.normalise(entry).match == {"destination": normal}


@pytest.mark.parametrize(
    ("field", "written", "normal"),
    [
        ("source", "10.0.0.0/8", "10.0.0.0&&&255.0.0.0"),
        ("source", "10.1.2.3", "10.1.2.3"),
        ("source", "10.1.2.3&&&0xffffffff", "10.1.2.3"),
        ("source", "0.0.0.5&&&0.0.0.255", "0.0.0.5&&&0.0.0.255"),
        ("source", "0.0.0.0/0", None),
        ("port", "80..90", "80..90"),
        ("port", 80, "80..80"),
        ("port", "0..65535", None),
        ("ethernet", "02:ff:00:00:00:01", "02:ff:00:00:00:01"),
        ("six", "2001:db8::/32", "2001:db8::&&&ffff:ffff::"),
    ],
)
def test_fields_of_overlapping_tables(
    schema: Schema, field: str, written: str, normal: str | None
) -> None:
    entry = schema.normalise(Entry("filter", {field: written}, "drop", priority=5))
    assert entry.match == ({} if normal is None else {field: normal})
    assert schema.normalise(entry) == entry


def test_full_names_are_understood_and_short_ones_come_back(schema: Schema) -> None:
    entry = schema.normalise(Entry("ingress.backend", {"backend_id": "7"}, "ingress.translate",
                                   {"address": "0xc613000b", "port": "6379"}))  # fmt: skip
    assert entry == Entry(
        "backend", {"backend_id": 7}, "translate", {"address": "198.19.0.11", "port": 6379}
    )
    assert entry.key == ("backend", (("backend_id", 7),), 0)
    assert entry.label == "backend backend_id=7"


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (Entry(table="rute"), UnknownName,
         'the p4info has no table "rute"; did you mean "route"? it has: backend, filter, route'),
        (Entry(table="route", match={"dest": 1}), UnknownName,
         'table "route" has no match field "dest"; it has: destination'),
        (Entry(table="route", match={"destination": "198.19.0.1/24"}), BadValue,
         'table "route", match field "destination": \'198.19.0.1/24\' has bits beyond its prefix '
         "length; write 198.19.0.0/24"),
        (Entry(table="route", match={"destination": "198.19.0.0/33"}), BadValue,
         "the prefix length must be a number from 0 to 32"),
        (Entry(table="service", match={"address": 1, "protocol": 6}), BadValue,
         'table "service", match field "port": a value is missing'),
        (Entry(table="backend", match={"backend_id": 65536}), BadValue,
         'match field "backend_id": 65536 is out of range, allowed is 0 to 65535 (bit<16>)'),
        (Entry(table="backend", match={"backend_id": 1}, action="forward"), UnknownName,
         'table "backend" has no action "forward"; it has: NoAction, translate'),
        (Entry(table="backend", match={"backend_id": 1}, action="NoAction"), BadValue,
         "the program allows this action as the default only"),
        (Entry(table="backend", action="translate", is_default=True), BadValue,
         "the program does not allow this action as the default"),
        (Entry(table="backend", match={"backend_id": 1}, action="translate", params={"port": 1}),
         BadValue, 'action "translate": parameter "address" is missing'),
        (Entry(table="backend", match={"backend_id": 1}, action="translate", params={"prt": 1}),
         UnknownName, 'has no parameter "prt"; did you mean "port"?'),
        (Entry(table="backend", match={"backend_id": 1}, action="translate",
              params={"port": "x", "address": 1}),
         BadValue, 'action "translate", parameter "port": \'x\' is not an integer'),
        (Entry(table="backend", match={"backend_id": 1}, params={"port": 1}), BadValue,
         "parameters are given, but no action"),
        (Entry(table="backend", match={"backend_id": 1}, action="translate",
              params={"port": 1, "address": 1}, priority=2), BadValue,
         "its entries have no priority"),
        (Entry(table="filter", match={"port": 80}, action="drop"), BadValue,
         "each needs a priority above 0; the highest wins"),
        (Entry(table="filter", match={"port": "90..80"}, action="drop", priority=1), BadValue,
         "'90..80' ends before it begins; write 80..90"),
        (Entry(table="filter", match={"source": "10.1.0.0&&&255.0.0.0"}, action="drop", priority=1),
         BadValue, "has bits outside its mask; write 10.0.0.0&&&255.0.0.0"),
        (Entry(table="route", match={"destination": 1}, action="drop", is_default=True), BadValue,
         "the default entry has neither match nor priority"),
    ],
)  # fmt: skip
def test_wrong_entries_are_explained(
    schema: Schema, entry: Entry, error: type[P4Error], message: str
) -> None:
    with pytest.raises(error) as caught:
        schema.normalise(entry)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["INSERT", "DELETE"])
def test_a_default_entry_is_only_modified(schema: Schema, kind: Any) -> None:
    with pytest.raises(BadValue, match=f"changed by MODIFY, not by {kind}"):
        schema.encode_update(Update(kind, Entry("route", action="drop", is_default=True)))


def test_an_insert_needs_an_action_and_a_delete_sends_none(schema: Schema) -> None:
    entry = Entry("route", {"destination": "198.19.0.0/24"})
    with pytest.raises(BadValue, match=r"INSERT route .*: the entry has no action; name one"):
        schema.encode_update(Update("INSERT", entry))
    entry.action, entry.params = "forward", FORWARD
    message = schema.encode_update(Update("DELETE", entry))
    assert not message.entity.table_entry.HasField("action")


def test_the_defaults_of_the_program_are_known(schema: Schema) -> None:
    defaults = {name: table.initial_default for name, table in schema.tables.items()}
    assert defaults == {
        "route": Entry("route", action="drop", is_default=True),
        "backend": Entry("backend", action="NoAction", is_default=True),
        "service": Entry("service", action="NoAction", is_default=True),
        "filter": None,
    }
    assert schema.tables["service"].const_default
    assert schema.tables["route"].has_counter
    assert not schema.tables["backend"].has_counter


def test_packet_metadata_by_name(schema: Schema) -> None:
    packet = schema.encode_packet(b"frame", {"egress_port": "0x1fe", "past_hold": 1})
    assert [(item.metadata_id, item.value) for item in packet.metadata] == [
        (1, b"\x01\xfe"),
        (2, b"\x01"),
        (3, b"\x00"),
    ]
    with pytest.raises(UnknownName, match='the packet_out header has no metadata "egress"'):
        schema.encode_packet(b"", {"egress": 1})
    with pytest.raises(BadValue, match='packet_out metadata "past_hold": 2 is out of range'):
        schema.encode_packet(b"", {"past_hold": 2})


def test_the_cookie_tells_programs_apart(sample: str) -> None:
    assert cookie_of(sample, b"one") == cookie_of(parse_p4info(sample), b"one")
    assert cookie_of(sample, b"one") != cookie_of(sample, b"two")
    assert 0 <= cookie_of(sample, b"one") < 1 << 64


def test_what_is_no_p4info_is_refused() -> None:
    with pytest.raises(BadValue, match="this is not a p4info in text form: 1:1"):
        Schema("{}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("match_type: RANGE", 'other_match_type: "fuzzy"',
         'table "filter", match field "port": fuzzy is not supported'),
        ("bitwidth: 16 match_type: RANGE", "match_type: EXACT",
         'table "filter", match field "port": a translated string is not supported'),
    ],
)  # fmt: skip
def test_what_it_does_not_know_it_refuses_by_name(
    sample: str, old: str, new: str, message: str
) -> None:
    with pytest.raises(P4Error, match=message):
        Schema(sample.replace(old, new))


def test_action_profiles_are_refused_on_use(sample: str) -> None:
    with_profile = Schema(sample.replace("  size: 4\n", "  size: 4\n  implementation_id: 9\n", 1))
    with pytest.raises(P4Error, match='table "backend" selects its actions through an action prof'):
        with_profile.normalise(Entry("backend", {"backend_id": 1}))
