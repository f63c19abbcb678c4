# SPDX-License-Identifier: Apache-2.0
"""Kills a process that writes to a pinned pipeline, before each of its steps in turn.

A step is whatever outlives the process: a change of a map, a line of the notebook (which may also
be written in part), a file. After each kill another process takes over, and has to find the state
from before the update or the one after it, and nothing that belongs to neither.

A script of its own, since the process that is killed is forked, and that wants no threads:
`python -m tests.integration.switch_crash DIRECTORY`, with a bpffs on DIRECTORY/maps.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from finsy.proto import p4r
from flowferry_p4.switch import dataplane, libbpf, pipeline
from flowferry_p4.switch.bmv2_json import load
from flowferry_p4.switch.compiler import compile_program
from flowferry_p4.switch.pins import Identity, Pins
from flowferry_p4.switch.pipeline import Pipeline, config_from_files
from flowferry_p4.switch.profiles import HIDDEN

from tests.integration.switch_entities import (
    COMPILED,
    NAMES,
    digest,
    group,
    member,
    multicast,
    number,
    one_shot,
    readable,
    rule,
    update,
)

CONFIG = config_from_files(
    (COMPILED / "p4runtime.p4info.txtpb").read_bytes(), (COMPILED / "p4runtime.json").read_bytes()
)
HERE = Identity.here(1, 510)


class Steps:
    """Counts steps, and kills the process before one of them."""

    def __init__(self, last: int) -> None:
        self._left = last
        for owner, name in (
            (libbpf.Map, "update"), (libbpf.Map, "update_many"), (libbpf.Map, "delete"),
            (libbpf, "pin"), (libbpf.Object, "pin"), (Path, "replace"), (Path, "mkdir"),
            (Path, "write_text"), (Path, "write_bytes"), (shutil, "rmtree"),
        ):  # fmt: skip
            self._count(owner, name)
        write = os.write

        def torn(fd: int, data: bytes) -> int:
            self._step(lambda: write(fd, data[: len(data) // 2]))
            self._step()
            return write(fd, data)

        os.write = torn

    def _count(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self._step()
            return original(*arguments, **named)

        setattr(owner, name, counted)

    def _step(self, instead: Callable[[], object] = lambda: None) -> None:
        if not self._left:
            instead()
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def killed(act: Callable[[], object], last: int) -> bool:
    """Do something in a process that is killed before a step; False: it was done before that."""
    child = os.fork()
    if not child:
        Steps(last)
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert status == 0, "the process failed by itself"
    return False


def everything(found: Pipeline) -> frozenset[bytes]:
    """Whatever can be read, without an order."""
    entities, results = found.read(readable())
    assert not any(results)
    return frozenset(e.SerializeToString(deterministic=True) for e in entities)


def check_hidden(found: Pipeline) -> None:
    """Of one-shot entries that were never written, or are no more, nothing is left."""
    for name, profile in found.dataplane.profiles.items():
        used = {
            call.arguments[0]
            for store in found.dataplane.tables.values()
            if store.layout.profile == name
            for call, count in store.references.items()
            if count
        }
        groups = {n: g for n, g in profile.groups.items() if n >= HIDDEN}
        assert set(groups) <= used
        in_groups = {m for g in groups.values() for m, _ in g.members}
        assert {n for n in profile.members if n >= HIDDEN} == in_groups


def written(found: Pipeline, updates: list[p4r.Update]) -> None:
    results = found.write(updates)
    assert not any(results), results


def changes() -> list[tuple[str, list[p4r.Update], list[p4r.Update]]]:
    """Updates with those that undo them; each in a batch of its own, or together one update."""
    plain = NAMES.entry("exact_keys", {"h.data.a": 7}, "counted", 1)
    noted = NAMES.entry("exact_keys", {"h.data.a": 7}, "drop")
    noted.metadata, noted.controller_metadata = b"mine", 5
    same = NAMES.entry("exact_keys", {"h.data.a": 7}, "counted", 1)
    same.metadata = b"another note, the same action"
    counted = NAMES.entry("exact_keys", {"h.data.a": 8}, "counted", 1)
    counted.counter_data.packet_count, counted.metadata = 9, b"x"
    metered = NAMES.entry("rates", {"h.data.b": 5}, "metered", 1)
    metered.meter_config.cir = metered.meter_config.pir = 1000
    default = NAMES.entry("rules", {}, "send", 2)
    default.is_default_action, default.metadata = True, b"d"
    original = NAMES.entry("rules", {}, "drop")
    original.is_default_action = True
    rules = [rule(n) for n in (1, 2, 3)]
    for one in rules:
        one.metadata = b"r"
    other = rule(2, 4)
    other.metadata = b"s"
    by_member = NAMES.entry("members", {"h.data.b": 5})
    by_member.action.action_profile_member_id = 3
    empty = p4r.ValueSetEntry(value_set_id=number("value_sets", "specials"))
    values = p4r.ValueSetEntry(value_set_id=number("value_sets", "specials"))
    values.members.add().match.add(field_id=1).exact.value = b"\1"
    shared, spread = member("shared", 3), [member("spread", n) for n in (1, 2)]
    return [
        ("insert", [update("INSERT", table_entry=plain)], []),
        ("modify", [update("MODIFY", table_entry=noted)], [update("MODIFY", table_entry=plain)]),
        ("note", [update("MODIFY", table_entry=same)], [update("MODIFY", table_entry=plain)]),
        *both("counted", table_entry=counted),
        *both("metered", table_entry=metered),
        ("default", [update("MODIFY", table_entry=default)],
         [update("MODIFY", table_entry=original)]),
        ("rules", [update("INSERT", table_entry=r) for r in rules],
         [update("DELETE", table_entry=r) for r in rules]),
        ("keep rules", [update("INSERT", table_entry=r) for r in rules], []),
        ("rule", [update("MODIFY", table_entry=other)], [update("MODIFY", table_entry=rules[1])]),
        *both("one-shot", table_entry=one_shot(1, 2)),
        ("keep one-shot", [update("INSERT", table_entry=one_shot(1, 2))], []),
        ("other one-shot", [update("MODIFY", table_entry=one_shot(3, 1, 1))],
         [update("MODIFY", table_entry=one_shot(1, 2))]),
        ("drop one-shot", [update("DELETE", table_entry=one_shot(1))], []),
        *both("member", action_profile_member=shared),
        ("keep member", [update("INSERT", action_profile_member=shared)], []),
        *both("by member", table_entry=by_member),
        ("members", [update("INSERT", action_profile_member=m) for m in spread[:1]], []),
        ("members", [update("INSERT", action_profile_member=m) for m in spread[1:]], []),
        *both("group", action_profile_group=group(1, (1, 2), (2, 2))),
        *both("multicast", packet_replication_engine_entry=multicast(3, (1, 0), (2, 7))),
        ("values", [update("MODIFY", value_set_entry=values)],
         [update("MODIFY", value_set_entry=empty)]),
        *both("digest", digest_entry=digest(4, 10**15)),
    ]  # fmt: skip


def both(name: str, **entity: Any) -> list[tuple[str, list[p4r.Update], list[p4r.Update]]]:
    """An insertion, and the deletion."""
    insert, delete = [update("INSERT", **entity)], [update("DELETE", **entity)]
    return [(name, insert, delete), (f"keep {name}", insert, []), (f"drop {name}", delete, [])]


class Rounds:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kills = 0
        pins = Pins(directory, HERE)
        made = Pipeline.build(CONFIG, 510)
        made.pin(pins)
        pins.name_pipelines(made.pinned, 0)
        made.close()
        pins.close()

    def resumed(self) -> tuple[Pins, Pipeline]:
        pins = Pins(self.directory, HERE)
        found = Pipeline.resume(pins, pins.state.running, 510, lambda _: None)
        pins.tidy()
        return pins, found

    def state(self) -> frozenset[bytes]:
        pins, found = self.resumed()
        check_hidden(found)
        result = everything(found)
        found.close()
        pins.close()
        return result

    def apply(self, updates: list[p4r.Update]) -> None:
        pins, found = self.resumed()
        written(found, updates)
        found.close()
        pins.close()

    def change(self, name: str, updates: list[p4r.Update], undo: list[p4r.Update]) -> None:
        """Kill a process before each step of a change, until it has no more."""
        before = self.state()
        after: frozenset[bytes] | None = None
        for last in range(1000):
            pins, found = self.resumed()
            survived = not killed(lambda p=found: written(p, updates), last)
            found.close()
            pins.close()
            now = self.state()
            if survived:
                assert after in (None, now), f"{name}, complete"
                assert now != before, f"{name}: nothing changed"
                self.apply(undo)
                break
            self.kills += 1
            if now == before:
                continue
            assert after in (None, now), f"{name}, killed before step {last}: half of it is there"
            after = now
            if not undo:
                break
            self.apply(undo)
            assert self.state() == before, f"{name}, undone"

    def commit(self) -> None:
        """Kill a process before each step of setting another pipeline."""
        for last in range(1000):
            before = self.state()
            pins = Pins(self.directory, HERE)
            old = pins.state.running

            made = Pipeline.build(CONFIG, 510)
            written(made, [update("INSERT", table_entry=rule(9))])

            def act(made: Pipeline = made, pins: Pins = pins) -> None:
                made.pin(pins)
                pins.name_pipelines(made.pinned, 0)

            survived = not killed(act, last)
            made.close()
            pins.close()
            now = self.state()
            running = Pins(self.directory, HERE)
            number_now = running.state.running
            running.close()
            assert (now == before) == (number_now == old) or survived
            names = [p.name for p in self.directory.iterdir() if p.name.isdigit()]
            assert names == [str(number_now)], "what no state names is removed"
            if survived:
                return
            self.kills += 1
            if number_now != old:
                self.apply([update("DELETE", table_entry=rule(9))])


def main() -> None:
    compiled = compile_program(load(CONFIG.p4_device_config), 510)
    pipeline.compile_program = dataplane.compile_program = lambda *_: compiled
    dataplane.compile_c = cache(dataplane.compile_c)
    rounds = Rounds(Path(sys.argv[1]))
    for name, updates, undo in changes():
        rounds.change(name, updates, undo)
    rounds.commit()
    print("ok", rounds.kills)


if __name__ == "__main__":
    main()
