# SPDX-License-Identifier: Apache-2.0
"""Entities of tests/p4programs/p4runtime.p4, which has one of everything."""

from __future__ import annotations

from typing import Any

from finsy.proto import p4r

from tests.integration.switch_bench import ROOT, Bench, Controller, Names

COMPILED = ROOT / "tests/p4programs/compiled"
NAMES = Names.of(COMPILED / "p4runtime.p4info.txtpb")


_SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("data0", 0))
for text in sys.argv[1:]:
    s.send(bytes.fromhex(text))
print("sent")
"""


def number(kind: str, name: str) -> int:
    """The id of an object of P4Info."""
    (found,) = (o.preamble.id for o in getattr(NAMES.p4info, kind) if o.preamble.alias == name)
    return int(found)


def update(kind: str, **entity: Any) -> p4r.Update:
    return p4r.Update(type=kind, entity=p4r.Entity(**entity))


def send(running: Bench, *packets: str) -> None:
    """Packets of the test program, padded to what Ethernet carries, arrive at port 1."""
    process = running.hosts[0].python(_SEND, *(p.replace(" ", "").ljust(28, "0") for p in packets))
    assert process.stdout is not None
    assert process.stdout.readline() == "sent\n"


def rule(priority: int, port: int = 1, **match: int | str) -> p4r.TableEntry:
    return NAMES.entry("rules", match, "send", port, priority=priority)


def member(profile: str, n: int, port: int = 1) -> p4r.ActionProfileMember:
    result = p4r.ActionProfileMember(
        action_profile_id=number("action_profiles", profile), member_id=n
    )
    result.action.CopyFrom(NAMES.entry("begun", {"h.data.c": 1}, "send", port).action.action)
    return result


def group(n: int, *members: tuple[int, int], size: int = 4) -> p4r.ActionProfileGroup:
    result = p4r.ActionProfileGroup(
        action_profile_id=number("action_profiles", "spread"), group_id=n, max_size=size
    )
    for one, weight in members:
        result.members.add(member_id=one, weight=weight)
    return result


def one_shot(*ports: int) -> p4r.TableEntry:
    entry = NAMES.entry("groups", {"h.data.b": 5})
    for port in ports:
        action = entry.action.action_profile_action_set.action_profile_actions.add(weight=1)
        action.action.CopyFrom(member("spread", 1, port).action)
    return entry


def multicast(n: int, *replicas: tuple[int, int]) -> p4r.PacketReplicationEngineEntry:
    result = p4r.PacketReplicationEngineEntry()
    result.multicast_group_entry.multicast_group_id = n
    for port, instance in replicas:
        result.multicast_group_entry.replicas.add(port=bytes([port]), instance=instance)
    return result


def digest(size: int, acknowledged_ns: int = 0) -> p4r.DigestEntry:
    result = p4r.DigestEntry(digest_id=number("digests", "learned_t"))
    result.config.max_list_size = size
    result.config.max_timeout_ns = 10**15
    result.config.ack_timeout_ns = acknowledged_ns
    return result


def readable() -> list[p4r.Entity]:
    """Wildcards for whatever can be read, what the data plane counts included."""
    entry = p4r.TableEntry()
    entry.counter_data.SetInParent()
    entry.meter_config.SetInParent()
    return [
        p4r.Entity(table_entry=entry),
        p4r.Entity(table_entry=p4r.TableEntry(is_default_action=True)),
        p4r.Entity(counter_entry=p4r.CounterEntry()),
        p4r.Entity(action_profile_group=p4r.ActionProfileGroup()),
        *_written(),
    ]


def everything(primary: Controller) -> list[p4r.Entity]:
    """All that a controller can have written."""
    wanted = [p4r.Entity(table_entry=p4r.TableEntry()), *_written()]
    return [entity for one in wanted for entity in primary.read(one)]


def _written() -> list[p4r.Entity]:
    return [
        p4r.Entity(action_profile_member=p4r.ActionProfileMember()),
        p4r.Entity(register_entry=p4r.RegisterEntry()),
        p4r.Entity(meter_entry=p4r.MeterEntry()),
        p4r.Entity(value_set_entry=p4r.ValueSetEntry()),
        p4r.Entity(packet_replication_engine_entry=p4r.PacketReplicationEngineEntry()),
        p4r.Entity(digest_entry=p4r.DigestEntry()),
    ]
