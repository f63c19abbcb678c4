# SPDX-License-Identifier: Apache-2.0
"""The migration protocol: the phases of a move in their order, and the way back.

They are prepare, volumes (if some are to be copied), hold, checkpoint, transfer, rewrite (under the
strategy of that name), restore, redirect, release, settle (where memory follows the copy) and
clean. Before the redirect every failure is undone in reverse order and the source serves on; after
it there is only forward, but for a copy whose memory does not follow. Exactly one copy is ever
heard. See docs/architecture.md.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from flowferry_p4.client.errors import P4Error
from flowferry_p4.client.traffic import EndpointTraffic

from .journal import Journal
from .remote import HelperLost, NodeHelper
from .reports import Report, Reports
from .strategy import Strategy

# A program that has not accepted or read everything yet gets this long (seconds) each time. Answers
# that are under way have a millisecond, as the helper looks before it freezes; those that take
# longer are given by the copy: what was asked is in the checkpoint.
DRAIN = 0.002
# Events of the hold are told at its end, or after this time (seconds).
UNTOLD = 0.25
# How often (seconds) the destination of a post-copy is asked, and when none of it comes any more.
LOOK = 0.02
STALLED = 30.0


class Aborted(FlowferryError):
    """Whoever asked for the migration is gone."""

    def __init__(self) -> None:
        super().__init__("aborted", "the playbook ended during the migration; it was rolled back")


class Move:
    """One migration of one workload.

    ``plan`` holds ``workload``, ``source`` and ``destination`` (each ``name``, ``switch_port``,
    ``mac``), ``about`` (the source's description), ``strategy``, the ``endpoint`` at the source,
    the ``destination_endpoint``, and whether that is ``warm``: was there before.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        strategy: Strategy,
        source: NodeHelper,
        destination: NodeHelper,
        journal: Journal,
        report: Report,
        aborted: Callable[[], bool],
        accept_timeout: float,
    ) -> None:
        self.plan = plan
        self.strategy = strategy
        self.source = source
        self.destination = destination
        self.journal = journal
        self.report = Reports(report)
        self.aborted = aborted
        self.accept_timeout = accept_timeout
        self.phases: list[dict[str, Any]] = []
        self.image_bytes = 0
        self.copies_volumes = any(
            volume["way"] == "copy" for volume in plan["about"].get("volumes", [])
        )
        self.volume_bytes = self.volume_bytes_held = 0
        self.memory_figures: dict[str, Any] = {}
        # What the source sends after this is not part of the checkpoint.
        self.frozen_at = 0.0

    @property
    def traffic(self) -> EndpointTraffic:
        """Of both ends; another one when the destination has said which address the copy has."""
        return self.strategy.traffic

    # -- phases

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Journal, time and report a phase; the request to abort is honoured before the commit."""
        if self.aborted() and name not in ("release", "settle", "clean"):
            raise Aborted
        started, own = time.monotonic(), self._own_ms()
        self.journal.write(self.plan, name)
        self.report({"event": "begin", "name": name})
        yield
        # A release goes on for a moment after the hold has ended, but nobody waits for that.
        ended = self.traffic.released_at if name == "release" else time.monotonic()
        spent = {"ms": (ended - started) * 1000, "own_ms": self._own_ms() - own}
        self.phases.append({"name": name, **{key: round(ms, 2) for key, ms in spent.items()}})
        self.report({"event": "phase", **self.phases[-1]})
        self._inject_fault(name)

    def _own_ms(self) -> float:
        """Processor time of the code of this project that clients wait for, up to now."""
        return time.thread_time() * 1000 + self.source.own_ms + self.destination.own_ms

    def _inject_fault(self, phase: str) -> None:
        """For the tests: FLOWFERRY_FAULT is PHASE:PARTY, whom to end after the phase.

        The party is the keeper, the helper of an end, or a command of the controller's shell, which
        ends whatever else takes part.
        """
        wanted, _, party = os.environ.get("FLOWFERRY_FAULT", "").partition(":")
        if wanted != phase:
            return
        if party == "keeper":
            os.kill(os.getpid(), signal.SIGKILL)
        helper = {"source": self.source, "destination": self.destination}.get(party)
        if helper is None:
            subprocess.run(party, shell=True, check=True, stdout=subprocess.DEVNULL)
        else:
            with suppress(HelperLost):  # whatever asks it next finds out, as in life
                helper.call("die_for_test")

    def run(self) -> dict[str, Any]:
        """The critical section and what surrounds it; returns the result of the migration."""
        held_since = 0.0
        try:
            with self.phase("prepare"):
                self._prepare()
            if self.copies_volumes:
                with self.phase("volumes"):
                    self._copy_volumes()
            _be_quiet()
            self.report.keep_back(UNTOLD)
            held_since = time.monotonic()
            self._bring_over()
        except Exception as error:
            if held_since == 0.0:
                self._give_up_early()
            elif self.strategy.is_redirected():
                return self.finish(held_since)
            else:
                self.roll_back()
            self._explain(error)
            raise
        return self.finish(held_since)

    def _prepare(self) -> None:
        about, peer = self.plan["about"], self.plan["destination"]
        endpoint = self.destination.call(
            "prepare_destination",
            about=about,
            endpoint=self.plan["destination_endpoint"],
            rewrites=self.plan["strategy"] == "rewrite",
        )
        if endpoint:
            self.strategy.learn(endpoint)
            # What is made at the switch from here on, whoever comes next has to find.
            self.journal.write(self.plan, "prepare")
        self.source.call("prepare_source", about=about, host=peer["address"], port=peer["port"])
        self.strategy.prepare()
        self.traffic.listen()

    def _copy_volumes(self) -> None:
        """All but the last difference, while the source serves; that takes as long as it takes."""
        about, peer = self.plan["about"], self.plan["destination"]
        self.source.call("copy_volumes", about=about, host=peer["address"], port=peer["port"])
        while True:
            try:
                state = self.source.call("volume_state")
            except FlowferryError:
                self.destination.call("volume_state")  # it knows better, if the failure is there
                raise
            self.destination.call("volume_state")  # an idle helper would end
            self.volume_bytes = state["bytes"]
            if state["done"]:
                return
            if self.aborted():
                raise Aborted

    def _checkpoint(self) -> None:
        """The dump, and beside it the last difference of the volumes."""
        try:
            said = self._ask(self.source, "checkpoint", self.traffic.hold_egress)
        except FlowferryError:
            if self.copies_volumes:
                self.destination.call("volume_state")
            raise
        if self.copies_volumes:
            self.volume_bytes_held = said["volume_bytes"]
            self.volume_bytes += self.volume_bytes_held

    def _bring_over(self) -> None:
        """From the hold to the redirect."""
        about, addresses = self.plan["about"], self.strategy.changed_addresses()
        with self.phase("hold"):
            self.traffic.hold_ingress()
            self._freeze()
            self.frozen_at = time.monotonic()
        with self.phase("checkpoint"):
            self._checkpoint()
        with self.phase("transfer"):
            self.image_bytes = self.source.call("transfer")["size"]
        if addresses:
            with self.phase("rewrite"):
                self.destination.call("rewrite", about=about, addresses=addresses)
        with self.phase("restore"):
            self._ask(self.destination, "restore", self._ready_to_redirect)
        with self.phase("redirect"):
            self.strategy.redirect()

    def _ready_to_redirect(self) -> None:
        self.strategy.guard("source")
        self.strategy.look()

    def _ask(self, helper: NodeHelper, operation: str, meanwhile: Callable[[], None]) -> Any:
        """The result of a helper's operation; what is done ``meanwhile`` does not wait for it."""
        answer = helper.begin(operation, about=self.plan["about"])
        try:
            meanwhile()
        finally:
            result = answer()
        return result

    def _freeze(self) -> None:
        """Stop the source, as soon as it has accepted every connection that its kernel has taken.

        New connections wait at the switch meanwhile. Others are let through until it has.
        """
        deadline = time.monotonic() + self.accept_timeout
        while True:
            last = time.monotonic() > deadline
            if self.source.call("freeze", about=self.plan["about"], last=last):
                return
            self.traffic.let_through()
            time.sleep(DRAIN)

    def _give_up_early(self) -> None:
        """Nothing was held yet: only the destination has something to undo."""
        not_discarded = self._discard()
        self.strategy.forget_new()
        if not_discarded is not None:
            raise not_discarded
        self.journal.end()

    def _explain(self, error: Exception) -> None:
        if isinstance(error, FlowferryError):
            error.args = (f"{error}. The source serves on, with its connections.",)

    def finish(self, held_since: float) -> dict[str, Any]:
        """After the commit: let the traffic go, then take the source away."""
        with self.phase("release"):
            self.strategy.release({"source": self.frozen_at, "destination": math.inf})
        gc.enable()
        self.report.tell()
        held = (self.traffic.released_at - held_since) * 1000
        if self.plan["about"].get("post_copy"):
            self._settle_memory()
        warnings = self._clean()
        return {
            "warnings": warnings,
            "phases": self.phases,
            "hold_ms": round(held, 2),
            "own_ms": round(sum(phase["own_ms"] for phase in self._held_phases()), 2),
            "image_bytes": self.image_bytes,
            **self._volume_figures(),
            **self.memory_figures,
            "held_packets": self.traffic.buffer.packets,
            "overflow_packets": self.traffic.buffer.overflow,
        }

    def _settle_memory(self) -> None:
        """Wait until the copy has all of its memory: until then it needs the source.

        If that does not come the copy was ended, and the source goes on from the checkpoint.
        """
        try:
            with self.phase("settle"):
                self._await_memory()
        except FlowferryError as error:
            self.roll_back()
            error.args = (
                f"{error}. The copy was ended, and the source goes on from where it stood still: "
                "what it was told since is lost, and connections that went on will break.",
            )
            raise

    def _await_memory(self) -> None:
        state, since = {}, time.monotonic()
        while not state.get("done"):
            told = self.destination.call("memory_state")
            if told.get("bytes") != state.get("bytes"):
                since = time.monotonic()
            if time.monotonic() - since > STALLED:
                raise FlowferryError("post_copy_failed", f"no memory has come for {STALLED:g} s")
            state = told
            time.sleep(LOOK)
        if "faults" in state:
            self.memory_figures = {
                "memory_bytes": state["bytes"],
                "memory_faults": state["faults"],
                "memory_longest_ms": state["longest_ms"],
            }

    def _held_phases(self) -> list[dict[str, Any]]:
        names = [phase["name"] for phase in self.phases]
        first = names.index("hold") if "hold" in names else names.index("release")
        return self.phases[first : names.index("release") + 1]

    def _volume_figures(self) -> dict[str, int]:
        if not self.copies_volumes:
            return {}
        return {"volume_bytes": self.volume_bytes, "volume_bytes_held": self.volume_bytes_held}

    def _clean(self) -> list[str]:
        """Take the source away. A failure is reported and never fails the migration.

        The guard stays until the source is proven gone, and so does the journal: running the
        playbook again finishes it.
        """
        try:
            with self.phase("clean"):
                if self.copies_volumes:
                    self.destination.call("settle_volumes", about=self.plan["about"])
                self.source.call("remove", about=self.plan["about"], endpoint=self.plan["endpoint"])
                self.strategy.forget_old()
                self.strategy.unguard("source")
        except (FlowferryError, P4Error) as error:
            return [f"the source was not removed: {error}. Run the playbook again."]
        self.journal.end()
        return []

    def roll_back(self) -> None:
        """Before the commit: silence and remove the copy, let the source go on, let traffic go.

        Every step can be repeated, so that a rollback that was itself interrupted is run again.
        """
        traffic, strategy = self.traffic, self.strategy
        gc.enable()
        self.report.tell()
        self.report({"event": "rollback"})
        self.journal.write(self.plan, "rollback")
        traffic.hold_ingress()
        traffic.hold_egress()
        strategy.guard("destination")
        strategy.lead_back()
        not_discarded = self._discard()
        strategy.unguard("source")
        # Brought back from its checkpoint, it knows nothing of what its kernel sent after that.
        is_revived = self.source.call("resume", about=self.plan["about"])
        until = self.frozen_at if is_revived else math.inf
        strategy.release({"source": until})
        if not_discarded is not None:
            raise not_discarded
        strategy.forget_new()
        strategy.unguard("destination")
        self.journal.end()

    def _discard(self) -> FlowferryError | None:
        """Remove the copy; returns why that failed.

        The source need not wait for it: the guard keeps the copy unheard. Guard and journal stay
        until the copy is proven gone, and running the playbook again sees to that.
        """
        try:
            self.destination.call(
                "discard",
                about=self.plan["about"],
                endpoint=self.plan["destination_endpoint"],
                warm=self.plan["warm"],
            )
        except FlowferryError as error:
            self._explain(error)
            return error
        return None

    def recover(self) -> tuple[str, list[str]]:
        """Finish or roll back what an earlier keeper left: which of the two, and warnings."""
        if self.strategy.is_redirected():
            self.strategy.guard("source")
            self.frozen_at = 0.0
            warnings: list[str] = self.finish(time.monotonic())["warnings"]
            return "finished", warnings
        self.roll_back()
        return "rolled back", []


def _be_quiet() -> None:
    """Have Python not collect garbage while clients wait; a move does not make much."""
    gc.collect()
    gc.freeze()
    gc.disable()
