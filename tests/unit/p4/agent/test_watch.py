# SPDX-License-Identifier: Apache-2.0
"""Lists that are kept up to date by watching, whatever the API server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flowferry_p4.agent.watch import Watched

from tests.unit.p4.agent import kube
from tests.unit.p4.agent.fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    made = FakeApi()
    yield made
    made.stop()


@pytest.fixture
def changes() -> threading.Event:
    return threading.Event()


@pytest.fixture
def watched(api: FakeApi, changes: threading.Event) -> Iterator[Watched]:
    api.put("pods", kube.pod("a", "node1", "198.19.1.1"))
    api.put("nodes", kube.node("node1"))
    made = Watched(api.client, changes.set)
    assert made.wait(10)
    yield made
    made.end()


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def pods(watched: Watched) -> set[str]:
    return {pod.name for pod in watched.cluster().pods}


def test_what_is_there_is_listed(watched: Watched) -> None:
    assert watched.synced
    assert pods(watched) == {"default/a"}
    assert [node.name for node in watched.cluster().nodes] == ["node1"]


def test_what_changes_is_seen(api: FakeApi, watched: Watched, changes: threading.Event) -> None:
    changes.clear()
    added = kube.pod("b", "node1", "198.19.1.2")
    api.put("pods", added)
    until("the pod is seen", lambda: pods(watched) == {"default/a", "default/b"})
    assert changes.is_set()
    api.put("pods", kube.pod("b", "node1", "198.19.1.9"))
    until(
        "its address has changed",
        lambda: ("198.19.1.9",) in [pod.addresses for pod in watched.cluster().pods],
    )
    api.remove("pods", added)
    until("the pod is gone", lambda: pods(watched) == {"default/a"})
    assert api.lists == 4, "one for each kind: the rest came by watching"


def test_a_heartbeat_is_nothing_that_changes(api: FakeApi) -> None:
    told: list[float] = []
    api.put("nodes", kube.node("node1"))
    watched = Watched(api.client, lambda: told.append(time.monotonic()))
    assert watched.wait(10)
    try:
        node = kube.node("node1")
        node["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:10Z"
        api.put("nodes", node)
        api.put("nodes", kube.node("node2"))  # by the same watch, after it
        until("the other node is seen", lambda: len(watched.cluster().nodes) == 2)
        until("it is told", lambda: len(told) >= 5)
        assert len(told) == 5, "four lists, and the other node"
    finally:
        watched.end()


def test_a_server_that_forgot_is_asked_for_everything(api: FakeApi, watched: Watched) -> None:
    api.forget()
    until("everything is listed again", lambda: api.lists >= 8)
    api.put("pods", kube.pod("b", "node1", "198.19.1.2"))
    until("the pod is seen", lambda: pods(watched) == {"default/a", "default/b"})


def test_without_a_server_what_was_known_stays(api: FakeApi, watched: Watched) -> None:
    gone = api.get("pods", "default/a")
    api.stop()
    api.put("pods", kube.pod("b", "node1", "198.19.1.2"))
    api.remove("pods", gone)
    assert pods(watched) == {"default/a"}
    api.start()
    until("what happened meanwhile is seen", lambda: pods(watched) == {"default/b"})


def test_before_everything_is_listed_it_is_not_synced() -> None:
    api = FakeApi()
    api.stop()
    watched = Watched(api.client, lambda: None)
    assert not watched.wait(0.2)
    assert not watched.synced
    watched.end()


def test_a_node_tells_where_it_is_once(api: FakeApi, watched: Watched) -> None:
    watched.annotate("node1", "02:ff:00:00:00:11", ("198.19.0.11",))
    until("the annotation is seen", lambda: watched.cluster().nodes[0].uplink_mac != "")
    (node,) = watched.cluster().nodes
    assert (node.uplink_mac, node.addresses) == ("02:ff:00:00:00:11", ("198.19.0.11",))
    before = api.get("nodes", "/node1")["metadata"]["resourceVersion"]
    watched.annotate("node1", "02:ff:00:00:00:11", ("198.19.0.11",))
    assert api.get("nodes", "/node1")["metadata"]["resourceVersion"] == before
