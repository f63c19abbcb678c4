# SPDX-License-Identifier: Apache-2.0
"""What is missing is what was to come, less what has: compared with a set of single addresses."""

from __future__ import annotations

from ansible_collections.flowferry.core.plugins.module_utils.memory.missing import (
    Intervals,
    Missing,
)
from hypothesis import given
from hypothesis import strategies as st

SPACE = 64
RANGE = st.tuples(st.integers(0, SPACE - 1), st.integers(1, 16))
STEP = st.one_of(
    st.tuples(st.just("comes"), RANGE),
    st.tuples(st.just("cut"), RANGE),
    st.tuples(st.just("move"), RANGE, st.integers(0, SPACE)),
)


@given(st.lists(st.tuples(st.booleans(), RANGE), max_size=20), RANGE)
def test_intervals_are_a_set(
    steps: list[tuple[bool, tuple[int, int]]], look: tuple[int, int]
) -> None:
    found, wanted = Intervals(), set()
    for adds, (start, size) in steps:
        if adds:
            found.add(start, start + size)
            wanted |= set(range(start, start + size))
        else:
            found.cut(start, start + size)
            wanted -= set(range(start, start + size))
    assert {at for a, b in found for at in range(a, b)} == wanted
    pairs = list(found)
    assert all(b < c for (_, b), (c, _) in zip(pairs, pairs[1:])), "none touches another"
    start, size = look
    seen = {at for a, b in found.within(start, start + size) for at in range(a, b)}
    assert seen == wanted & set(range(start, start + size))


@given(st.lists(RANGE, max_size=6), st.lists(STEP, max_size=12), RANGE)
def test_memory_comes_to_where_the_process_has_it(
    ranges: list[tuple[int, int]], steps: list[tuple[object, ...]], look: tuple[int, int]
) -> None:
    """A model has, for each address that misses something, what that is called at the source."""
    missing = Missing(ranges)
    model = {at: at for start, size in ranges for at in range(start, start + size)}
    for name, (start, size), *more in steps:  # type: ignore[misc]  # of a mixed strategy
        if name == "comes":
            pieces = missing.pieces(start, size)
            got = {p.start + n: start + p.offset + n for p in pieces for n in range(p.size)}
            assert got == {a: b for a, b in model.items() if start <= b < start + size}
            for piece in pieces:
                missing.cut(piece.start, piece.size)
            model = {a: b for a, b in model.items() if not start <= b < start + size}
        elif name == "cut":
            missing.cut(start, size)
            model = {a: b for a, b in model.items() if not start <= a < start + size}
        elif abs(start - more[0]) >= size:  # mremap does not take ranges that overlap
            missing.move(start, more[0], size)
            moved = {a - start + more[0]: b for a, b in model.items() if start <= a < start + size}
            gone = {*range(start, start + size), *range(more[0], more[0] + size)}
            model = {a: b for a, b in model.items() if a not in gone} | moved
    start, size = look
    asked = missing.at_source(start, size)
    there = [a for a in sorted(model) if start <= a < start + size]
    assert bool(missing) == bool(model) and missing.is_in(start, start + size) == bool(there)
    assert (asked is None) == (not there)
    if asked is not None:
        assert asked[0] == model[there[0]]
        assert [model.get(there[0] + n) for n in range(asked[1])] == [
            asked[0] + n for n in range(asked[1])
        ]


def test_a_child_goes_its_own_way() -> None:
    parent = Missing([(0, 10)])
    child = parent.copy()
    parent.cut(0, 10)
    assert not parent and child.pieces(4, 2) == [(4, 2, 0)]
