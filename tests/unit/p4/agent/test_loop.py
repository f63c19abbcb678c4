# SPDX-License-Identifier: Apache-2.0
"""When passes are made, and what is told of them."""

from __future__ import annotations

import logging
import threading
import urllib.error
import urllib.request

import pytest
from flowferry_p4.agent import Problem, Result
from flowferry_p4.agent.loop import Loop
from flowferry_p4.agent.metrics import Metrics, serve
from flowferry_p4.client import SwitchUnreachable

PROBLEM = Problem("table_full", "Service default/web", "no room")


class Passes:
    """Passes that succeed, but for those that were told to fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fail = False
        self.problems: list[Problem] = []
        self.made = threading.Semaphore(0)

    def __call__(self) -> tuple[Result, int]:
        self.count += 1
        self.made.release()
        if self.fail:
            raise SwitchUnreachable("switch s: no P4Runtime server answers")
        return Result(3, 40, self.problems, []), 2


def test_a_pass_is_made_when_it_is_woken_and_now_and_then() -> None:
    passes = Passes()
    loop = Loop(passes, Metrics(), every=0.2)
    thread = threading.Thread(target=loop.run)
    thread.start()
    for _ in range(3):
        assert passes.made.acquire(timeout=5), "no pass without being woken"
    loop.end()
    thread.join(5)
    assert not thread.is_alive()

    passes = Passes()
    loop = Loop(passes, Metrics(), every=60)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert passes.made.acquire(timeout=5)
    loop.wake()
    assert passes.made.acquire(timeout=5), "it was not woken"
    loop.end()
    thread.join(5)


def test_after_a_failure_it_tries_again_by_itself() -> None:
    passes = Passes()
    passes.fail = True
    metrics = Metrics()
    loop = Loop(passes, metrics, every=60)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert passes.made.acquire(timeout=5)
    assert passes.made.acquire(timeout=5), "no second attempt"
    loop.end()
    thread.join(5)
    assert metrics.ready == (False, "switch s: no P4Runtime server answers")


def test_a_problem_is_told_when_it_comes_and_when_it_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    passes = Passes()
    loop = Loop(passes, Metrics())
    passes.problems = [PROBLEM]
    assert loop.once()
    assert loop.once()
    passes.problems = []
    assert loop.once()
    told = [r.message for r in caplog.records if "table_full" in r.message]
    assert told == [
        "Service default/web: no room (table_full)",
        "no more: Service default/web: no room (table_full)",
    ]


def test_metrics_and_probes() -> None:
    metrics = Metrics()
    server = serve("127.0.0.1", 0, metrics)

    def get(path: str) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{server.server_address[1]}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        assert get("/healthz") == (200, "ok\n")
        assert get("/readyz") == (503, "no pass has succeeded yet\n")
        metrics.passed(Result(3, 40, [PROBLEM], ["default/web"]), 2, 0.5)
        metrics.called("ADD", 0, 0.25)
        metrics.called("no such thing", 4, 0.0)
        assert get("/readyz") == (200, "ok\n")
        lines = get("/metrics")[1].splitlines()
        assert "# TYPE flowferry_agent_writes_total counter" in lines
        assert "flowferry_agent_writes_total 3" in lines
        assert 'flowferry_agent_problems{code="table_full"} 1' in lines
        assert 'flowferry_agent_cni_calls_total{command="ADD",code="0"} 1' in lines
        assert 'flowferry_agent_cni_calls_total{command="other",code="4"} 1' in lines
        assert 'flowferry_agent_cni_seconds_total{command="ADD"} 0.25' in lines
        metrics.failed("the switch is gone")
        assert get("/readyz") == (503, "the switch is gone\n")
        metrics.passed(Result(0, 40, [], []), 2, 0.5)
        assert "problems{" not in get("/metrics")[1]
    finally:
        server.shutdown()
        server.server_close()
