# SPDX-License-Identifier: Apache-2.0
"""The protocol, whatever fails: one copy serves, and what was done is undone.

The helpers and the switch are played here. Each operation of theirs fails once, before it has done
anything or after; what happens to the workload follows from what they were asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import journal as journals
from ansible_collections.flowferry.core.plugins.plugin_utils.migration import move as moves
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.move import Aborted, Move

ENDPOINT = {"namespace": "ff-it", "address": "198.19.0.1", "mac": "02:fe:00:00:00:01"}
PLAN = {
    "workload": "podman:it",
    "about": {"id": "1", "volumes": [{"name": "data", "way": "copy"}]},
    "strategy": "keep",
    "endpoint": ENDPOINT,
    "destination_endpoint": ENDPOINT,
    "warm": False,
    "source": {"name": "a", "switch_port": 1, "mac": "02:ff:00:00:00:0a"},
    "destination": {
        "name": "b",
        "switch_port": 2,
        "mac": "02:ff:00:00:00:0b",
        "address": "",
        "port": 0,
    },
}


class World:
    """Two nodes and a switch; ``fault`` is the operation that fails, and when."""

    def __init__(self, fault: str = "", after: bool = False) -> None:
        self.fault = fault
        self.after = after
        self.source = "running"
        self.copy = "absent"
        self.redirected = False
        self.holds: set[str] = set()
        self.guards: set[int] = set()
        self.routed: set[str] = set()
        """Addresses of copies that the switch has entries for."""
        self.chosen: dict[str, Any] | None = None
        """The endpoint that the destination chooses for the copy."""
        self.memory: dict[str, Any] = {}
        """What the destination says of memory that follows the copy."""
        self.log: list[str] = []

    def do(self, operation: str, change: dict[str, Any]) -> None:
        self.log.append(operation)
        failing = operation == self.fault
        if failing and not self.after:
            self.fault = ""
            raise FlowferryError("test", operation)
        for name, value in change.items():
            setattr(self, name, value)
        if failing:
            self.fault = ""
            raise FlowferryError("test", operation)

    def heard(self) -> list[str]:
        """Whom clients can hear."""
        voices = {"source": (self.source == "running", 1), "copy": (self.copy == "running", 2)}
        return [
            name
            for name, (speaks, port) in voices.items()
            if speaks and port not in self.guards and "from" not in self.holds
        ]


EFFECTS = {
    "prepare_destination": {"copy": "prepared"},
    "freeze": {"source": "frozen"},
    "restore": {"copy": "running"},
    "resume": {"source": "running"},
    "remove": {"source": "absent"},
    "discard": {"copy": "absent"},
}


OWN_MS = 5000.0
"""What a helper says that it has worked for each request; the move itself works much less."""


class Helper:
    """One node of the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.own_ms = 0.0

    def call(self, operation: str, **_: Any) -> Any:
        self.own_ms += OWN_MS
        self.world.do(operation, EFFECTS.get(operation, {}))
        chosen = self.world.chosen
        answers: dict[str, Any] = {"transfer": {"size": 1}, "freeze": True}
        answers |= {"prepare_destination": chosen, "volume_state": {"done": True, "bytes": 7}}
        answers |= {"checkpoint": {"volume_bytes": 2}, "memory_state": self.world.memory}
        return answers.get(operation)

    def begin(self, operation: str, **arguments: Any) -> Callable[[], Any]:
        """It is done before what happens meanwhile; its result comes afterwards."""
        try:
            result = self.call(operation, **arguments)
        except FlowferryError as error:
            return partial(_raise, error)
        return lambda: result


def _raise(error: Exception) -> None:
    raise error


class Traffic:
    """The switch's holds and guards."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.buffer = SimpleNamespace(packets=0, overflow=0)
        self.released_at = 0.0

    def listen(self) -> None:
        """Nothing changes at the switch."""

    def hold_ingress(self) -> None:
        self.world.do("hold_ingress", {"holds": self.world.holds | {"to"}})

    def hold_egress(self) -> None:
        self.world.do("hold_egress", {"holds": self.world.holds | {"from"}})

    def let_through(self) -> None:
        self.world.do("let_through", {})


class Strategy:
    """The redirect alone."""

    def __init__(self, world: World, plan: dict[str, Any]) -> None:
        self.world = world
        self.plan = plan
        self.traffic = Traffic(world)

    @property
    def new(self) -> set[str]:
        return {self.plan["destination_endpoint"]["address"]} - {""}

    def release(self, heard_until: dict[str, float]) -> None:
        self.world.do("release", {"holds": set()})

    def guard(self, end: str) -> None:
        port = self.plan[end]["switch_port"]
        self.world.do(f"guard {port}", {"guards": self.world.guards | {port}})

    def unguard(self, end: str) -> None:
        port = self.plan[end]["switch_port"]
        self.world.do(f"unguard {port}", {"guards": self.world.guards - {port}})

    def learn(self, endpoint: dict[str, Any]) -> None:
        self.world.do("learn", {})
        self.plan["destination_endpoint"] = endpoint

    def changed_addresses(self) -> dict[str, str]:
        return {"198.19.0.1": "198.19.0.2"}

    def prepare(self) -> None:
        self.world.do("prepare_switch", {"routed": self.world.routed | self.new})

    def look(self) -> None:
        self.world.do("look", {})

    def redirect(self) -> None:
        self.world.do("redirect", {"redirected": True})

    def is_redirected(self) -> bool:
        return self.world.redirected

    def lead_back(self) -> None:
        self.world.do("lead_back", {})

    def forget_old(self) -> None:
        self.world.do("forget_old", {})

    def forget_new(self) -> None:
        self.world.do("forget_new", {"routed": self.world.routed - self.new})


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> journals.Journal:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return journals.Journal("switch:9559", "podman.it")


def move(
    world: World,
    journal: journals.Journal,
    aborted: list[bool] | None = None,
    accept_timeout: float = 1.0,
) -> Move:
    """Of an unfinished migration, as the journal has it; else the one of PLAN."""
    flags = iter(aborted or [])
    plan = copy.deepcopy((journal.read() or {"plan": PLAN})["plan"])
    return Move(
        plan,
        Strategy(world, plan),  # type: ignore[arg-type]  # played, not subclassed
        Helper(world),  # type: ignore[arg-type]
        Helper(world),  # type: ignore[arg-type]
        journal,
        lambda event: None,
        lambda: next(flags, False),
        accept_timeout,
    )


def test_everything_in_its_order(journal: journals.Journal) -> None:
    world = World()
    result = move(world, journal).run()
    moved = ["checkpoint", "transfer", "rewrite", "restore", "redirect", "release"]
    names = [phase["name"] for phase in result["phases"]]
    assert names == ["prepare", "volumes", "hold", *moved, "clean"]
    # One step each of a helper, while it is held: freeze, checkpoint, transfer, rewrite, restore.
    assert 5 * OWN_MS <= result["own_ms"] < 5.9 * OWN_MS
    assert all("own_ms" in phase for phase in result["phases"])
    for steps in (
        ["copy_volumes", "volume_state", "hold_ingress", "freeze", *moved, "settle_volumes"],
        ["settle_volumes", "remove"],
        ["freeze", "hold_egress", "transfer"],  # beside the checkpoint
        ["transfer", "guard 1", "look", "redirect"],  # beside the restore
    ):
        positions = [world.log.index(step) for step in steps]
        assert positions == sorted(positions)
    assert world.log.index("remove") < world.log.index("unguard 1")
    assert (world.heard(), world.guards, world.holds) == (["copy"], set(), set())
    assert journal.read() is None and result["warnings"] == []
    assert (result["volume_bytes"], result["volume_bytes_held"]) == (9, 2)


def test_without_volumes_there_is_nothing_of_them(
    journal: journals.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLAN, "about", {"id": "1", "volumes": [{"name": "x", "way": "shared"}]})
    world = World()
    result = move(world, journal).run()
    assert not [step for step in world.log if "volume" in step]
    assert "volume_bytes" not in result


def test_what_the_destination_chooses_is_known_before_the_switch_is_written_to(
    journal: journals.Journal,
) -> None:
    """And it is in the journal by then, for whoever has to undo it."""
    world = World("prepare_switch")
    world.chosen = {**ENDPOINT, "address": "198.19.0.2"}
    written: list[str] = []
    moving = move(world, journal)
    moving.journal.write = (
        lambda plan, phase: written.append(  # type: ignore[method-assign]
            f"{phase} after {world.log[-1:]}"
        )
    )
    with pytest.raises(FlowferryError, match="prepare_switch"):
        moving.run()
    assert written == ["prepare after []", "prepare after ['learn']"]
    assert world.log[:4] == ["prepare_destination", "learn", "prepare_source", "prepare_switch"]


def test_a_chosen_address_that_is_refused_is_no_harm(journal: journals.Journal) -> None:
    world = World("learn")
    world.chosen = ENDPOINT
    with pytest.raises(FlowferryError, match="The source serves on"):
        move(world, journal).run()
    assert (world.heard(), world.copy, journal.read()) == (["source"], "absent", None)


@pytest.fixture
def follows(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which memory follows the copy."""
    monkeypatch.setitem(PLAN, "about", {"id": "1", "post_copy": True})
    world = World()
    world.memory = {"done": True, "bytes": 9, "faults": 3, "longest_ms": 1.5}
    return world


def test_a_copy_needs_its_source_until_its_memory_has_followed(
    journal: journals.Journal, follows: World
) -> None:
    result = move(follows, journal).run()
    names = [phase["name"] for phase in result["phases"]]
    assert names[-3:] == ["release", "settle", "clean"]
    assert follows.log.index("release") < follows.log.index("memory_state")
    assert follows.log.index("memory_state") < follows.log.index("remove")
    figures = [result[f"memory_{name}"] for name in ("bytes", "faults", "longest_ms")]
    assert figures == [9, 3, 1.5]
    assert result["own_ms"] < 5.9 * OWN_MS  # as without it


@pytest.mark.parametrize("what", ["fails", "stands still"])
def test_memory_that_does_not_follow_takes_the_source_back(
    journal: journals.Journal, follows: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "fails":
        follows.fault = "memory_state"
    else:
        monkeypatch.setattr(moves, "STALLED", 0.05)
        follows.memory = {"done": False, "bytes": 9, "faults": 3, "longest_ms": 1.5}
    with pytest.raises(FlowferryError, match="goes on from where it stood still"):
        move(follows, journal).run()
    assert (follows.source, follows.copy, follows.heard()) == ("running", "absent", ["source"])
    assert follows.log.index("lead_back") < follows.log.index("resume")
    assert (follows.guards, follows.holds, journal.read()) == (set(), set(), None)


def test_whoever_comes_later_waits_for_memory_too(
    journal: journals.Journal, follows: World
) -> None:
    follows.redirected, follows.source, follows.copy = True, "frozen", "running"
    assert move(follows, journal).recover() == ("finished", [])
    assert follows.log.index("memory_state") < follows.log.index("remove")


BEFORE = ["prepare_destination", "prepare_source", "prepare_switch"]
BEFORE += ["copy_volumes", "volume_state"]
BEFORE += ["hold_ingress", "freeze", "hold_egress"]
BEFORE += ["checkpoint", "transfer", "rewrite", "restore", "guard 1", "look"]


@pytest.mark.parametrize("after", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("fault", BEFORE)
def test_a_failure_before_the_redirect_is_undone(
    journal: journals.Journal, fault: str, after: bool
) -> None:
    world = World(fault, after)
    with pytest.raises(FlowferryError, match="The source serves on"):
        move(world, journal).run()
    assert (world.source, world.copy, world.redirected) == ("running", "absent", False)
    assert (world.heard(), world.guards, world.holds) == (["source"], set(), set())
    assert world.log[-1] in ("unguard 2", "forget_new")
    assert journal.read() is None


def test_a_redirect_that_did_not_take_place_is_undone(journal: journals.Journal) -> None:
    world = World("redirect", after=False)
    with pytest.raises(FlowferryError, match="The source serves on"):
        move(world, journal).run()
    assert (world.heard(), world.copy, world.guards) == (["source"], "absent", set())


def test_a_redirect_that_did_is_the_commit(journal: journals.Journal) -> None:
    """It failed to say so, but the switch knows."""
    world = World("redirect", after=True)
    move(world, journal).run()
    assert (world.heard(), world.source, world.holds) == (["copy"], "absent", set())
    assert journal.read() is None


@pytest.mark.parametrize("fault", ["settle_volumes", "remove", "forget_old", "unguard 1"])
def test_a_source_that_remains_is_reported_and_kept_quiet(
    journal: journals.Journal, fault: str
) -> None:
    world = World(fault)
    result = move(world, journal).run()
    assert "Run the playbook again" in result["warnings"][0]
    assert world.heard() == ["copy"] and world.guards == {1}
    found = journal.read()
    assert found is not None and found["phase"] == "clean"
    assert move(world, journal).recover() == ("finished", [])
    assert (world.heard(), world.guards, journal.read()) == (["copy"], set(), None)


def test_a_clean_that_fails_again_is_reported_again(journal: journals.Journal) -> None:
    world = World("remove")
    move(world, journal).run()
    world.fault = "remove"
    what, warnings = move(world, journal).recover()
    assert what == "finished" and "the source was not removed" in warnings[0]
    assert journal.read() is not None and world.guards == {1}


def test_a_copy_that_cannot_be_removed_is_kept_quiet(journal: journals.Journal) -> None:
    world = World("restore", after=True)
    helper = move(world, journal)
    helper.destination.call = _failing_discard(world)  # type: ignore[method-assign]
    with pytest.raises(FlowferryError):
        helper.run()
    assert world.copy == "running" and world.heard() == ["source"]
    assert world.guards == {2} and journal.read() is not None
    assert move(world, journal).recover() == ("rolled back", [])
    assert (world.copy, world.guards, journal.read()) == ("absent", set(), None)


def _failing_discard(world: World) -> Any:
    def call(operation: str, **arguments: Any) -> Any:
        if operation == "discard":
            raise FlowferryError("discard_failed", "the copy is still there")
        return Helper(world).call(operation, **arguments)

    return call


def _busy_source(world: World, answers: list[bool]) -> Any:
    """Its kernel has connections that the program has not accepted, until there is no answer."""

    def call(operation: str, **arguments: Any) -> Any:
        if operation != "freeze":
            return Helper(world).call(operation, **arguments)
        if arguments["last"]:
            raise FlowferryError("not_accepted", "2 at 198.19.0.1:80")
        frozen = not answers or answers.pop(0)
        return Helper(world).call(operation) if frozen else False

    return call


def test_connections_are_accepted_before_the_source_is_frozen(journal: journals.Journal) -> None:
    """Those that there are go on meanwhile, and the switch keeps new ones."""
    world = World()
    begun = move(world, journal, accept_timeout=60.0)
    begun.source.call = _busy_source(world, [False, False])  # type: ignore[method-assign]
    begun.run()
    held = world.log[world.log.index("hold_ingress") : world.log.index("hold_egress") + 1]
    assert held == [
        "hold_ingress",
        "let_through",
        "let_through",
        "freeze",
        "checkpoint",
        "hold_egress",
    ]
    assert world.heard() == ["copy"]


def test_a_source_that_accepts_nothing_is_not_moved(journal: journals.Journal) -> None:
    world = World()
    begun = move(world, journal, accept_timeout=0.5)
    begun.source.call = _busy_source(world, [False] * 1000)  # type: ignore[method-assign]
    with pytest.raises(
        FlowferryError, match=r"2 at 198\.19\.0\.1:80\. The source serves on"
    ) as raised:
        begun.run()
    assert raised.value.code == "not_accepted"
    assert "let_through" in world.log and "freeze" not in world.log
    assert (world.heard(), world.guards, world.holds) == (["source"], set(), set())
    assert journal.read() is None


@pytest.mark.parametrize("phases_before", range(8))
def test_whoever_asked_is_gone(journal: journals.Journal, phases_before: int) -> None:
    world = World()
    with pytest.raises(Aborted):
        move(world, journal, [False] * phases_before + [True]).run()
    assert (world.heard(), world.copy, world.guards) == (["source"], "absent", set())
    assert journal.read() is None


@pytest.mark.parametrize("chooses", [False, True], ids=["known", "chosen"])
@pytest.mark.parametrize("step", range(1, 60))
def test_a_keeper_that_dies_at_any_step_leaves_what_the_next_one_can_end(
    journal: journals.Journal, monkeypatch: pytest.MonkeyPatch, step: int, chooses: bool
) -> None:
    """Killed between two operations; then one serves, everywhere the same one."""
    world = World()
    if chooses:
        world.chosen = {**ENDPOINT, "address": "198.19.0.2"}
        monkeypatch.setitem(PLAN, "destination_endpoint", {**ENDPOINT, "address": ""})

    class Killed(BaseException):
        pass

    done = world.do

    def counted(operation: str, change: dict[str, Any]) -> None:
        if len(world.log) == step:
            raise Killed
        done(operation, change)

    write = journal.write

    def journaled(plan: dict[str, Any], phase: str) -> None:
        counted("journal", {})
        write(plan, phase)

    world.do, journal.write = counted, journaled  # type: ignore[method-assign]
    try:
        move(world, journal).run()
    except Killed:
        assert len(world.heard()) <= 1
        world.do, journal.write = done, write  # type: ignore[method-assign]
        if journal.read() is not None:
            move(world, journal).recover()
    assert world.heard() == ["copy" if world.redirected else "source"]
    assert (world.copy == "running") is world.redirected
    assert bool(world.routed) is world.redirected
    assert (world.guards, world.holds, journal.read()) == (set(), set(), None)
