# SPDX-License-Identifier: Apache-2.0
"""Expressions over whole numbers without a limit, as BMv2 computes; p4c's JSON cuts them itself."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from .state import Header, Json, State, Unsupported

_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
}
_UNARY: dict[str, Callable[[int], int]] = {
    "not": lambda a: int(not a),
    "~": operator.invert,
    "-": operator.neg,
    "+": operator.pos,
    "d2b": lambda a: int(a != 0),
    "b2d": lambda a: a,
}


def number(text: str) -> int:
    """A hexstr; p4c writes negative ones with a sign."""
    return int(text, 16)


class Evaluator:
    """Evaluates expressions for one packet; `data` are the arguments of the action at hand."""

    def __init__(self, state: State, data: Sequence[int] = (), ahead: bytes = b"") -> None:
        self.state = state
        self.data = data
        self.ahead = ahead
        """Bytes that lookahead sees."""

    def value(self, node: Json) -> int:
        kind: Any = node.get("type")
        value: Any = node.get("value")
        if kind is None and "op" in node:
            return self._operation(node)
        match kind:
            case "hexstr":
                return number(str(value))
            case "bool":
                return int(bool(value))
            case "field":
                return self._field(value)
            case "local" | "runtime_data":
                return self.data[int(value)]
            case "expression":
                return self.value(value)
            case "lookahead":
                return self._lookahead(value)
            case "stack_field":
                return self._last(value)
        raise Unsupported(f"a value of type {kind}")

    def _field(self, place: Any) -> int:
        header, name = place
        if name == "$valid$":
            return int(self.state.headers[header].valid)
        return self.state.headers[header].read(name)

    def _lookahead(self, place: Sequence[int]) -> int:
        offset, width = place
        available = 8 * len(self.ahead)
        if offset + width > available:
            raise TooShort
        whole = int.from_bytes(self.ahead, "big")
        return whole >> available - offset - width & (1 << width) - 1

    def _last(self, place: Any) -> int:
        stack, name = place
        known = self.state.stacks[stack]
        if not known.next:
            raise Unsupported("the last of an empty stack")
        return self.state.headers[known.headers[known.next - 1]].read(name)

    def _operation(self, node: Json) -> int:
        op = node["op"]
        left: Any = node.get("left")
        right: Any = node.get("right")
        match op:
            case "valid":
                return int(self.header(right).valid)
            case "?":
                return self.value(left if self.value(node["cond"]) else right)
            case "last_stack_index":
                return int(self.state.stacks[right["value"]].next) - 1
            case "size_stack":
                return len(self.state.stacks[right["value"]].headers)
            case "access_field":
                header = self.header(left)
                return header.read(list(header.widths)[right])
            case "two_comp_mod":
                width = self.value(right)
                cut = self.value(left) & (1 << width) - 1
                return cut - (1 << width) if cut >> width - 1 else cut
            case "usat_cast":
                return min(max(self.value(left), 0), (1 << self.value(right)) - 1)
            case "sat_cast":
                half = 1 << self.value(right) - 1
                return min(max(self.value(left), -half), half - 1)
        if left is None and op in _UNARY:
            return _UNARY[op](self.value(right))
        if op in _BINARY:
            a, b = self.value(left), self.value(right)
            if op in ("<<", ">>") and b > 4096:
                return 0 if op == "<<" or a >= 0 else -1
            return _BINARY[op](a, b)
        raise Unsupported(f"the operation {op}")

    def header(self, node: Json) -> Header:
        """The header that an operand names."""
        if node["type"] == "header":
            return self.state.headers[node["value"]]
        inner = node.get("value", node)
        if isinstance(inner, dict) and inner.get("op") == "dereference_header_stack":
            stack = self.state.stacks[inner["left"]["value"]]
            index = self.value(inner["right"])
            if not 0 <= index < len(stack.headers):
                raise Unsupported("an index outside of a stack")
            return self.state.headers[stack.headers[index]]
        raise Unsupported(f"a header given as {node['type']}")


class TooShort(Exception):
    """The packet ends before what the parser wants to see."""
