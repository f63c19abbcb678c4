# SPDX-License-Identifier: Apache-2.0
"""Primitives: what the statements of an action became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .checksums import Checksums
from .expressions import Evaluator
from .state import Json, Stack, State, Unsupported
from .storage import Storage

DROP_PORT = 511
_NONDETERMINISTIC = ("modify_field_rng_uniform",)


class Failed(Exception):
    """An assertion failed: the packet is dropped."""


class Actions:
    """Runs actions of a program."""

    def __init__(self, storage: Storage, checksums: Checksums) -> None:
        self.storage = storage
        self.checksums = checksums

    def run(self, action: Json, data: Sequence[int], state: State) -> None:
        primitives = action["primitives"]
        at = 0
        while at < len(primitives) and not state.exited:
            node = primitives[at]
            at += 1
            if node["op"] == "_jump":
                at = Evaluator(state, data).value(node["parameters"][0])
            elif node["op"] == "_jump_if_zero":
                condition, target = node["parameters"]
                if not Evaluator(state, data).value(condition):
                    at = Evaluator(state, data).value(target)
            else:
                self.primitive(node, data, state)

    def primitive(self, node: Json, data: Sequence[int], state: State, ahead: bytes = b"") -> None:
        op = node["op"]
        if op in _NONDETERMINISTIC:
            raise Unsupported(op)
        handler = getattr(self, f"_do_{op}", None)
        if handler is None:
            raise Unsupported(f"the primitive {op}")
        handler(node["parameters"], Evaluator(state, data, ahead))

    def _assign(self, target: Json, value: int, e: Evaluator) -> None:
        if target["type"] == "expression":  # a field of a stack's element
            inner = target["value"]
            header = e.header(inner["left"])
            header.write(list(header.widths)[inner["right"]], value)
            return
        if target["type"] != "field":
            raise Unsupported(f"an assignment to {target['type']}")
        name, field = target["value"]
        header = e.state.headers[name]
        if field == "$valid$":
            header.valid = bool(value)
        else:
            header.write(field, value)

    def _do_assign(self, p: list[Any], e: Evaluator) -> None:
        self._assign(p[0], e.value(p[1]), e)

    _do_modify_field = _do_assign

    def _do_no_op(self, p: list[Any], e: Evaluator) -> None:
        """Nothing."""

    def _do_exit(self, p: list[Any], e: Evaluator) -> None:
        e.state.exited = True

    def _do_mark_to_drop(self, p: list[Any], e: Evaluator) -> None:
        e.state.set_metadata("egress_spec", DROP_PORT)
        e.state.set_metadata("mcast_grp", 0)

    _do_drop = _do_mark_to_drop

    # headers
    def _do_add_header(self, p: list[Any], e: Evaluator) -> None:
        header = e.header(p[0])
        if not header.valid:
            header.values.clear()
        header.valid = True

    def _do_remove_header(self, p: list[Any], e: Evaluator) -> None:
        header = e.header(p[0])
        header.valid = False

    def _do_assign_header(self, p: list[Any], e: Evaluator) -> None:
        target, source = e.header(p[0]), e.header(p[1])
        target.valid = source.valid
        target.values = dict(source.values) if source.valid else {}

    _do_copy_header = _do_assign_header

    def _do_assign_header_stack(self, p: list[Any], e: Evaluator) -> None:
        target, source = (e.state.stacks[node["value"]] for node in p)
        for to, origin in zip(target.headers, source.headers, strict=True):
            known = e.state.headers[origin]
            e.state.headers[to].valid = known.valid
            e.state.headers[to].values = dict(known.values) if known.valid else {}
        target.next = source.next

    def _do_push(self, p: list[Any], e: Evaluator) -> None:
        self._shift(e.state, e.state.stacks[p[0]["value"]], -e.value(p[1]))

    def _do_pop(self, p: list[Any], e: Evaluator) -> None:
        self._shift(e.state, e.state.stacks[p[0]["value"]], e.value(p[1]))

    def _shift(self, state: State, stack: Stack, by: int) -> None:
        """Element i becomes what i + by was; what comes from outside is invalid."""
        before = [state.headers[name].copy() for name in stack.headers]
        for i, name in enumerate(stack.headers):
            known = before[i + by] if 0 <= i + by < len(before) else None
            state.headers[name].valid = bool(known and known.valid)
            state.headers[name].values = dict(known.values) if known and known.valid else {}
        stack.next = min(max(stack.next - by, 0), len(stack.headers))

    # state of the program
    def _do_count(self, p: list[Any], e: Evaluator) -> None:
        self.storage.count(p[0]["value"], e.value(p[1]), e.state)

    def _do_execute_meter(self, p: list[Any], e: Evaluator) -> None:
        self._assign(p[2], 0, e)  # a meter without rates: green

    def _do_register_read(self, p: list[Any], e: Evaluator) -> None:
        self._assign(p[0], self.storage.register(p[1]["value"], e.value(p[2])), e)

    def _do_register_write(self, p: list[Any], e: Evaluator) -> None:
        self.storage.set_register(p[0]["value"], e.value(p[1]), e.value(p[2]))

    def _do_modify_field_with_hash_based_offset(self, p: list[Any], e: Evaluator) -> None:
        size = e.value(p[3])
        value = self.checksums.calculate(p[2]["value"], e.state)
        self._assign(p[0], e.value(p[1]) + (value % size if size else value), e)

    # what happens to the packet
    def _do_clone_ingress_pkt_to_egress(self, p: list[Any], e: Evaluator) -> None:
        e.state.requests["clone"] = (e.value(p[0]), _list(p, 1, e))

    _do_clone_egress_pkt_to_egress = _do_clone_ingress_pkt_to_egress

    def _do_resubmit(self, p: list[Any], e: Evaluator) -> None:
        e.state.requests["resubmit"] = _list(p, 0, e)

    def _do_recirculate(self, p: list[Any], e: Evaluator) -> None:
        e.state.requests["recirculate"] = _list(p, 0, e)

    def _do_truncate(self, p: list[Any], e: Evaluator) -> None:
        e.state.requests["truncate"] = e.value(p[0])

    def _do_generate_digest(self, p: list[Any], e: Evaluator) -> None:
        """Digests leave no trace in the packet."""

    def _do_log_msg(self, p: list[Any], e: Evaluator) -> None:
        """Neither do messages."""

    def _do_assert(self, p: list[Any], e: Evaluator) -> None:
        if not e.value(p[0]):
            raise Failed

    _do_assume = _do_assert


def _list(parameters: list[Any], place: int, e: Evaluator) -> int | None:
    """The number of a field list, where one is given."""
    return e.value(parameters[place]) if len(parameters) > place else None
