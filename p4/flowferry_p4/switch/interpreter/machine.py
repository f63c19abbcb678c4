# SPDX-License-Identifier: Apache-2.0
"""A whole program at work: parser, controls, deparser, and what happens to packets in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from finsy.proto import p4i, p4r

from .actions import DROP_PORT, Actions, Failed
from .checksums import Checksums
from .expressions import Evaluator, TooShort, number
from .state import Json, State, Unsupported
from .storage import Storage
from .tables import Table

Leaving: TypeAlias = tuple[int, bytes]
"""A port, and the packet that leaves by it."""

NORMAL, INGRESS_CLONE, EGRESS_CLONE, _, RECIRCULATED, REPLICATION, RESUBMIT = range(7)
PASSES = 8
"""Passes through the program that a packet may have."""
_TOO_SHORT, _STACK_FULL = "PacketTooShort", "StackOutOfBounds"
_UNPREDICTABLE = {
    ("standard_metadata", name)
    for name in (
        "ingress_global_timestamp", "egress_global_timestamp", "enq_timestamp", "deq_timedelta",
        "enq_qdepth", "deq_qdepth",
    )
}  # fmt: skip


class _Reject(Exception):
    """The parser stops with an error."""

    def __init__(self, error: int) -> None:
        self.error = error
        super().__init__(error)


class Machine:
    """A program with its entries and its storage."""

    def __init__(self, document: Json, p4info: p4i.P4Info, ports: Sequence[int]) -> None:
        self.document = document
        self.ports = frozenset(ports)
        self.storage = Storage(document)
        self.checksums = Checksums(document)
        self.actions = Actions(self.storage, self.checksums)
        self.fresh = State.fresh(document)
        self._refuse_unpredictable(document)
        self._action_nodes = {a["id"]: a for a in document["actions"]}
        self._states = {s["name"]: s for s in document["parsers"][0]["parse_states"]}
        self._errors = {name: value for name, value, *_ in document.get("errors", [])}
        self._lists = {f["id"]: f for f in document.get("field_lists", [])}
        self._pipelines = {p["name"]: p for p in document["pipelines"]}
        self.tables = {
            t["name"]: Table(t, [self._width(k) for k in t["key"]])
            for p in document["pipelines"]
            for t in p["tables"]
        }
        self._infos = {t.preamble.id: t for t in p4info.tables}
        self._action_names = {a.preamble.id: a.preamble.name for a in p4info.actions}
        self.groups: dict[int, list[tuple[int, int]]] = {}
        self.sessions: dict[int, list[tuple[int, int]]] = {}

    def _refuse_unpredictable(self, node: Any) -> None:
        if isinstance(node, dict):
            place: Any = node.get("value")
            of_standard = node.get("type") == "field" and isinstance(place, list)
            if of_standard and tuple(place) in _UNPREDICTABLE:
                raise Unsupported(place[1])
            for inner in node.values():
                self._refuse_unpredictable(inner)
        elif isinstance(node, list):
            for inner in node:
                self._refuse_unpredictable(inner)

    def _width(self, key: Json) -> int:
        if key["match_type"] == "valid" or key["target"][1] == "$valid$":
            return 1
        return self.fresh.headers[key["target"][0]].widths[key["target"][1]]

    # the control plane
    def insert(self, message: p4r.TableEntry) -> None:
        """Write a table entry, or a default entry."""
        info = self._infos[message.table_id]
        table = self.tables[info.preamble.name]
        name = self._action_names[message.action.action.action_id]
        action = dict(zip(table.node["actions"], table.node["action_ids"], strict=True))[name]
        if message.is_default_action:
            table.set_default(message, action)
        else:
            table.insert(message, info, action)

    # packets
    def process(self, port: int, packet: bytes) -> list[Leaving]:
        """What leaves after a packet has arrived."""
        state = self.fresh.copy()
        state.set_metadata("ingress_port", port)
        return self._pass(state, packet, 0)

    def _pass(self, state: State, packet: bytes, passes: int) -> list[Leaving]:
        if passes == PASSES:
            return []
        state.set_metadata("packet_length", len(packet))
        try:
            self._parse(state, packet)
            arrived = state.copy()
            self._control("ingress", state)
        except Failed:
            return []
        if "resubmit" in state.requests:
            again = self.fresh.copy()
            self._carry(again, state, state.requests["resubmit"], RESUBMIT)
            return self._pass(again, packet, passes + 1)
        leaving: list[Leaving] = []
        clone = state.requests.pop("clone", None)
        truncated = state.requests.get("truncate", 0)
        if state.metadata("mcast_grp"):
            for to, instance in self.groups.get(state.metadata("mcast_grp"), []):
                copy = state.copy()
                copy.requests["truncate"] = truncated
                copy.set_metadata("instance_type", REPLICATION)
                copy.set_metadata("egress_rid", instance)
                leaving += self._leave(copy, to, passes)
        elif state.metadata("egress_spec") != DROP_PORT:
            leaving += self._leave(state, state.metadata("egress_spec"), passes)
        if clone:
            session, kept = clone
            for to, instance in self.sessions.get(session, []):
                copy = arrived.copy()
                self._carry(copy, state, kept, INGRESS_CLONE)
                copy.set_metadata("packet_length", len(packet))
                copy.set_metadata("egress_rid", instance)
                leaving += self._leave(copy, to, passes)
        return leaving

    def _carry(self, to: State, origin: State, kept: int | None, reason: int) -> None:
        """Metadata of a packet that starts anew, or of a copy."""
        fields: list[tuple[str, str]] = []
        if kept is not None and kept in self._lists:
            for element in self._lists[kept]["elements"]:
                if element["type"] != "field":
                    raise Unsupported(f"{element['type']} in a field list")
                fields.append((element["value"][0], element["value"][1]))
        values = [(h, f, origin.headers[h].read(f)) for h, f in fields]
        port = origin.metadata("ingress_port")
        to.forget_metadata([])
        for header, name, value in values:
            to.headers[header].write(name, value)
        to.set_metadata("ingress_port", port)
        to.set_metadata("instance_type", reason)
        to.requests.clear()

    def _leave(self, state: State, port: int, passes: int) -> list[Leaving]:
        """Egress, and the copies that it makes."""
        state.exited = False
        state.set_metadata("egress_port", port)
        state.set_metadata("egress_spec", 0)
        try:
            self._control("egress", state)
        except Failed:
            return []
        leaving: list[Leaving] = []
        clone = state.requests.pop("clone", None)
        copies = []
        if clone:
            for to, instance in self.sessions.get(clone[0], []):
                copy = state.copy()
                self._carry(copy, state, clone[1], EGRESS_CLONE)
                copy.set_metadata("packet_length", state.metadata("packet_length"))
                copy.set_metadata("egress_rid", instance)
                copies.append((copy, to))
        if state.metadata("egress_spec") != DROP_PORT:
            leaving += self._send(state, port, passes)
        for copy, to in copies:
            leaving += self._leave(copy, to, passes)
        return leaving

    def _send(self, state: State, port: int, passes: int) -> list[Leaving]:
        packet = self._deparse(state)
        limit = state.requests.get("truncate", 0)
        if limit:
            packet = packet[:limit]
        if "recirculate" in state.requests:
            again = self.fresh.copy()
            self._carry(again, state, state.requests["recirculate"], RECIRCULATED)
            return self._pass(again, packet, passes + 1)
        return [(port, packet)] if port in self.ports else []

    # parser
    def _parse(self, state: State, packet: bytes) -> None:
        offset = 0
        error = 0
        name: str | None = self.document["parsers"][0]["init_state"]
        try:
            while name is not None:
                node = self._states[name]
                for op in node["parser_ops"]:
                    offset = self._parser_op(op, state, packet, offset)
                name = self._next(node, state, packet[offset:])
        except TooShort:
            error = self._errors.get(_TOO_SHORT, 1)
        except _Reject as reject:
            error = reject.error
        state.set_metadata("parser_error", error)
        state.payload = packet[offset:]
        state.arrived = {n: h.copy() for n, h in state.headers.items() if h.valid}
        self.checksums.verify(state)

    def _parser_op(self, op: Json, state: State, packet: bytes, offset: int) -> int:
        """Do one operation; return where the parser stands."""
        kind, parameters = op["op"], op["parameters"]
        e = Evaluator(state, (), packet[offset:])
        match kind:
            case "extract":
                return self._extract(parameters[0], state, packet, offset)
            case "set":
                target = {"type": "field", "value": parameters[0]["value"]}
                self.actions._assign(target, e.value(parameters[1]), e)
            case "verify":
                if not e.value(parameters[0]):
                    raise _Reject(e.value(parameters[1]))
            case "advance":
                bits = e.value(parameters[0])
                if bits % 8:
                    raise Unsupported("an advance by parts of bytes")
                if offset + bits // 8 > len(packet):
                    raise TooShort
                return offset + bits // 8
            case "shift":
                return offset + int(parameters[0])
            case "primitive":
                self.actions.primitive(parameters[0], (), state, packet[offset:])
            case other:
                raise Unsupported(f"the parser operation {other}")
        return offset

    def _extract(self, parameter: Json, state: State, packet: bytes, offset: int) -> int:
        if parameter["type"] == "stack":
            stack = state.stacks[parameter["value"]]
            if stack.next == len(stack.headers):
                raise _Reject(self._errors.get(_STACK_FULL, 3))
            header = state.headers[stack.headers[stack.next]]
        elif parameter["type"] == "regular":
            stack, header = None, state.headers[parameter["value"]]
        else:
            raise Unsupported(f"an extraction of {parameter['type']}")
        size = header.bits // 8
        if offset + size > len(packet):
            raise TooShort
        header.load(int.from_bytes(packet[offset : offset + size], "big"))
        header.valid = True
        if stack:
            stack.next += 1
        return offset + size

    def _next(self, node: Json, state: State, ahead: bytes) -> str | None:
        e = Evaluator(state, (), ahead)
        keys = [(e.value(k), self._key_size(k, state)) for k in node["transition_key"]]
        whole = 0
        for value, size in keys:
            whole = whole << size | value & (1 << size) - 1
        for transition in node["transitions"]:
            kind = transition.get("type", "hexstr")
            if kind == "default" or transition["value"] == "default":
                return transition["next_state"]  # type: ignore[no-any-return]  # a name or null
            if kind == "parse_vset":
                continue  # the set is empty: nobody fills it here
            wanted = number(transition["value"])
            mask = number(transition["mask"]) if transition.get("mask") else ~0
            if whole & mask == wanted & mask:
                return transition["next_state"]  # type: ignore[no-any-return]  # as above
        raise _Reject(self._errors.get("NoMatch", 2))

    def _key_size(self, key: Json, state: State) -> int:
        """Each part of a key takes whole bytes."""
        place = key["value"]
        match key["type"]:
            case "field":
                width = 1 if place[1] == "$valid$" else state.headers[place[0]].widths[place[1]]
            case "stack_field":
                stack = state.stacks[place[0]]
                width = state.headers[stack.headers[0]].widths[place[1]]
            case "lookahead":
                width = place[1]
            case other:
                raise Unsupported(f"a transition on {other}")
        return 8 * ((width + 7) // 8)

    # controls
    def _control(self, pipeline: str, state: State) -> None:
        node = self._pipelines[pipeline]
        conditionals = {c["name"]: c for c in node["conditionals"]}
        calls = {c["name"]: c for c in node.get("action_calls", [])}
        at: str | None = node["init_table"]
        while at is not None and not state.exited:
            if at in conditionals:
                here = conditionals[at]
                holds = Evaluator(state).value(here["expression"])
                at = here["true_next" if holds else "false_next"]
            elif at in calls:
                self.actions.run(self._action_nodes[calls[at]["action_id"]], (), state)
                at = calls[at]["next_node"]
            else:
                at = self._apply(self.tables[at], state)

    def _apply(self, table: Table, state: State) -> str | None:
        entry = table.lookup(Evaluator(state))
        if entry:
            entry.hits[0] += 1
            entry.hits[1] += state.metadata("packet_length")
        called = (entry.action, entry.data) if entry else table.default
        following = table.node["next_tables"]
        after = table.node.get("base_default_next")
        if called:
            self.actions.run(self._action_nodes[called[0]], called[1], state)
            names = dict(zip(table.node["action_ids"], table.node["actions"], strict=True))
            after = following.get(names.get(called[0], ""), after)
        if "__HIT__" in following or "__MISS__" in following:
            after = following.get("__HIT__" if entry else "__MISS__")
        return after

    def _deparse(self, state: State) -> bytes:
        self.checksums.update(state)
        order = self.document["deparsers"][0]["order"]
        emitted = b"".join(state.headers[n].bytes() for n in order if state.headers[n].valid)
        return emitted + state.payload
