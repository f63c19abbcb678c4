# SPDX-License-Identifier: Apache-2.0
"""Where the arguments of an action lie in a table's value: u64 slots, two for a wide parameter.

The upper half of a wide argument comes first. The C of an action and the control plane that fills
entries both take it from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model import Action, ActionParameter
from .names import Placed, is_wide, mask


def slot_count(parameters: Sequence[ActionParameter]) -> int:
    return sum(2 if is_wide(p.width) else 1 for p in parameters)


def argument(action: Action, index: int) -> Placed:
    """C expression of a parameter, where `argument` is the value's array of slots."""
    first = slot_count(action.parameters[:index])
    width = action.parameters[index].width
    if is_wide(width):
        return f"wide(argument[{first}], argument[{first + 1}])", width
    return f"argument[{first}]", width


def fill(action: Action, values: Sequence[int]) -> list[int]:
    """Arguments of an action, cut into slots."""
    slots: list[int] = []
    for parameter, value in zip(action.parameters, values, strict=True):
        if is_wide(parameter.width):
            slots.append(value >> 64)
        slots.append(value & mask(64))
    return slots


def join(action: Action, slots: Sequence[int]) -> tuple[int, ...]:
    """The arguments that were cut into slots; there may be more slots than they take."""
    rest = iter(slots)
    return tuple(
        next(rest) << 64 | next(rest) if is_wide(parameter.width) else next(rest)
        for parameter in action.parameters
    )
