# SPDX-License-Identifier: Apache-2.0
"""Multicast groups and clone sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finsy.proto import p4r

from ..dataplane import Dataplane
from ..entries import EntryExists, EntryMissing
from ..notebook import Notebook, Place
from ..replication import Replica, ReplicationMap
from ..rpc_errors import invalid, unimplemented
from .handler import DELETE, INSERT, MODIFY, Undo

_PORT_BITS = 9
_INSTANCE_BITS = 16


class _Lists:
    """Messages by number, as they were written, beside the map that holds their replicas."""

    def __init__(self, replicas: ReplicationMap, what: str, notes: Notebook) -> None:
        self.replicas = replicas
        self.what = what
        self.messages: dict[int, p4r.PacketReplicationEngineEntry] = {}
        self._notes = notes

    def _place(self, number: int) -> Place:
        return (self.what, number)

    def recall(self) -> None:
        """Find the messages that fit what a process before this one left in the map."""
        for number, replicas, limit in self.replicas.items():
            for line in self._notes.candidates(self._place(number)):
                message = p4r.PacketReplicationEngineEntry.FromString(bytes.fromhex(line))
                if _content(message) == (replicas, limit):
                    self.messages[number] = message
                    self._notes.recall(self._place(number), line)
                    break

    def write(
        self,
        kind: int,
        number: int,
        replicas: Sequence[Replica],
        limit: int,
        message: p4r.PacketReplicationEngineEntry,
    ) -> Undo:
        if kind not in (INSERT, MODIFY, DELETE):
            raise invalid("an update is INSERT, MODIFY or DELETE")
        if not number:
            raise invalid(f"0 is no {self.what}")
        before = self.messages.get(number)
        if kind == INSERT and before:
            raise EntryExists(f"{self.what} {number} exists already")
        if kind != INSERT and not before:
            raise EntryMissing(f"there is no {self.what} {number}")
        if kind == DELETE:
            self._delete(number)
        else:
            self._put(number, replicas, limit, message)

        def undo() -> None:
            if before is None:
                self._delete(number)
            else:
                self._put(number, *_content(before), before)

        return undo

    def _put(
        self,
        number: int,
        replicas: Sequence[Replica],
        limit: int,
        message: p4r.PacketReplicationEngineEntry,
    ) -> None:
        self._notes.write(self._place(number), message.SerializeToString().hex())
        self.replicas.write(number, replicas, limit)
        self.messages[number] = message

    def _delete(self, number: int) -> None:
        self.replicas.delete(number)
        del self.messages[number]
        self._notes.forget(self._place(number))

    def read(self, number: int) -> Iterator[p4r.Entity]:
        numbers = (
            list(self.messages) if not number else [n for n in (number,) if n in self.messages]
        )
        for found in numbers:
            yield p4r.Entity(packet_replication_engine_entry=self.messages[found])


class Replication:
    """The packet replication engine."""

    def __init__(self, dataplane: Dataplane) -> None:
        notes = dataplane.backing.notes
        self._groups = _Lists(dataplane.multicast_groups, "multicast group", notes)
        self._sessions = _Lists(dataplane.clone_sessions, "clone session", notes)
        if dataplane.backing.resumed:
            self._groups.recall()
            self._sessions.recall()

    def write(self, kind: int, message: p4r.PacketReplicationEngineEntry) -> Undo:
        lists, number = self._of(message)
        kept = p4r.PacketReplicationEngineEntry()
        kept.CopyFrom(message)
        if kind == DELETE:
            return lists.write(kind, number, (), 0, kept)
        return lists.write(kind, number, *_content(message), kept)

    def read(self, message: p4r.PacketReplicationEngineEntry) -> Iterator[p4r.Entity]:
        if message.WhichOneof("type") is None:
            yield from self._groups.read(0)
            yield from self._sessions.read(0)
            return
        lists, number = self._of(message)
        yield from lists.read(number)

    def _of(self, message: p4r.PacketReplicationEngineEntry) -> tuple[_Lists, int]:
        match message.WhichOneof("type"):
            case "multicast_group_entry":
                return self._groups, message.multicast_group_entry.multicast_group_id
            case "clone_session_entry":
                return self._sessions, message.clone_session_entry.session_id
        raise invalid("the packet replication engine's entry is empty")


def _content(message: p4r.PacketReplicationEngineEntry) -> tuple[list[Replica], int]:
    """The replicas of a message, and what copies are cut to."""
    if message.HasField("multicast_group_entry"):
        given, limit = message.multicast_group_entry.replicas, 0
    else:
        given = message.clone_session_entry.replicas
        limit = message.clone_session_entry.packet_length_bytes
        if limit < 0:
            raise invalid("packet_length_bytes is not negative")
    replicas = [_replica(r) for r in given]
    if len(set(replicas)) != len(replicas):
        raise invalid("two replicas have the same port and the same instance")
    return replicas, limit


def _replica(message: p4r.Replica) -> Replica:
    if message.backup_replicas:
        raise unimplemented("backup replicas are not supported")
    port = int.from_bytes(message.port, "big") if message.port else message.egress_port
    if port >> _PORT_BITS:
        raise invalid(f"{port} is not a port")
    if message.instance >> _INSTANCE_BITS:
        raise invalid(f"the instance {message.instance} does not fit in {_INSTANCE_BITS} bits")
    return Replica(port, message.instance)
