# SPDX-License-Identifier: Apache-2.0
"""However often a pod moves, and by whichever of its names: it has two by turns, and one label."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.pod_aliases import (
    WORKLOAD_LABEL,
    first_name,
    label_of,
    labels_of,
    names_of,
)


def pod(name: str, label: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {WORKLOAD_LABEL: label} if label else {}}}


@pytest.mark.parametrize("first", ["redis", "redis-moved", "r" * 80])
def test_names_do_not_grow(first: str) -> None:
    found, called = pod(first), [first]
    for _ in range(5):
        name = next(one for one in names_of(first_name(found)) if one != called[-1])
        found = pod(name, label_of(first_name(found)))
        called.append(name)
    assert called == [first, f"{first}-moved"] * 3


@pytest.mark.parametrize("first", ["redis", "redis-moved", "r" * 80])
def test_it_is_found_by_each_of_its_names(first: str) -> None:
    label = label_of(first)
    assert all(label in labels_of(name) for name in names_of(first))


def test_a_label_is_no_longer_than_may_be_and_tells_long_names_apart() -> None:
    labels = {label_of("r" * 80), label_of("r" * 81), label_of("r" * 63)}
    assert len(labels) == 3 and {len(label) for label in labels} == {63}


def test_a_pod_that_never_moved_has_its_name_whatever_that_is() -> None:
    assert first_name(pod("redis-moved")) == "redis-moved"
    assert first_name(pod("redis-moved", "another")) == "redis-moved"
