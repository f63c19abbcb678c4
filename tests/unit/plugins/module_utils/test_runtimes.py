# SPDX-License-Identifier: Apache-2.0
"""How a workload is named, and what every runtime says of itself."""

from __future__ import annotations

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.registry import (
    RUNTIMES,
    open_workload,
)


@pytest.mark.parametrize(
    ("text", "full"), [("redis", "podman:redis"), ("process:ff-web", "process:ff-web")]
)
def test_a_name_alone_is_a_podman_container(text: str, full: str) -> None:
    assert str(open_workload(text)) == full


def test_an_unknown_runtime_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(FlowferryError, match=r"one of .*podman.*process") as refused:
        open_workload("nspawn:web")
    assert refused.value.code == "unknown_runtime"


@pytest.mark.parametrize("name", ["", "../web", "-web", "we b", "web\n", "a/../../b", "w:eb"])
@pytest.mark.parametrize("runtime", ["podman", "process"])
def test_a_name_that_could_mean_something_else_is_refused(runtime: str, name: str) -> None:
    with pytest.raises(FlowferryError, match="cannot be the name") as refused:
        open_workload(f"{runtime}:{name}")
    assert refused.value.code == "bad_workload"


def test_workloads_of_different_runtimes_share_no_files() -> None:
    """Journals, helpers and checkpoints go by it; a dot is in no runtime's name."""
    assert open_workload("podman:a.b").file_name == "podman.a.b"
    assert all("." not in runtime for runtime in RUNTIMES)


@pytest.mark.parametrize("kind", RUNTIMES.values(), ids=RUNTIMES.keys())
def test_every_runtime_has_words_for_messages(kind: type) -> None:
    for word in ("noun", "listing", "removal", "start", "program"):
        assert getattr(kind, word), word
    assert "{name}" in kind.removal
