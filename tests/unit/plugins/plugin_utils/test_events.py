# SPDX-License-Identifier: Apache-2.0
"""Events reach a watcher, and never stand in the way of a migration."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.events import (
    EventReceiver,
    EventSender,
)


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    listening = EventReceiver()
    yield listening
    listening.close()


def received(receiver: EventReceiver, ends: int) -> dict[int, list[dict[str, Any]]]:
    """What each of so many migrations said, by its number."""
    events: dict[int, list[dict[str, Any]]] = {}
    deadline = time.monotonic() + 10
    while ends:
        assert time.monotonic() < deadline, f"{ends} migrations did not end: {events}"
        for number, event in receiver.receive(timeout=0.1):
            if event is None:
                ends -= 1
            else:
                events.setdefault(number, []).append(event)
    return events


def test_events_arrive_whole_and_in_order(receiver: EventReceiver) -> None:
    long = [{"event": "phase", "name": "x" * 30000, "ms": float(number)} for number in range(20)]

    def talk() -> None:
        sender = EventSender()
        for event in long:
            sender.send(event)
        sender.close()

    thread = threading.Thread(target=talk)
    thread.start()
    (events,) = received(receiver, ends=1).values()
    thread.join()
    assert events == long


def test_migrations_are_kept_apart(receiver: EventReceiver) -> None:
    def talk(name: str) -> None:
        sender = EventSender()
        sender.send({"event": "order", "workload": name})
        sender.close()

    threads = [threading.Thread(target=talk, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    events = received(receiver, ends=2)
    for thread in threads:
        thread.join()
    assert sorted(told[0]["workload"] for told in events.values()) == ["a", "b"]


def test_the_action_waits_until_its_end_was_noticed(receiver: EventReceiver) -> None:
    noticed: list[str] = []

    def talk() -> None:
        sender = EventSender()
        sender.close()
        noticed.append("the action goes on")

    thread = threading.Thread(target=talk)
    thread.start()
    deadline = time.monotonic() + 10
    while len(noticed) < 2:
        assert time.monotonic() < deadline
        for _, event in receiver.receive(timeout=0.1):
            assert event is None
            noticed.append("the watcher writes")
        if noticed:
            thread.join(timeout=10)
    assert noticed == ["the watcher writes", "the action goes on"]


def test_nobody_need_watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLOWFERRY_EVENTS", raising=False)
    EventSender().send({"event": "order"})
    monkeypatch.setenv("FLOWFERRY_EVENTS", str(tmp_path / "nobody"))
    sender = EventSender()
    sender.send({"event": "order"})
    sender.close()


def test_a_closed_receiver_leaves_nothing() -> None:
    listening = EventReceiver()
    address = Path(os.environ["FLOWFERRY_EVENTS"])
    assert address.is_socket()
    listening.close()
    assert not address.parent.exists() and "FLOWFERRY_EVENTS" not in os.environ
