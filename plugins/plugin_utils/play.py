# SPDX-License-Identifier: Apache-2.0
"""A playbook by ansible-runner, and what it is at: its tasks, and the phases of migrations.

play() is for programs; main() is the command deploy/flowferry-play.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import ansible_runner

from .migration.events import EventReceiver
from .migration.timeline import Timeline

# .../ansible_collections/flowferry/core, by the path that Python found it at: in a checkout that is
# the link in collections/, which must not be resolved.
COLLECTION = Path(__file__).absolute().parents[2]
# What is said of a host that ended a task so, and which of them is worth a line of its own.
_ENDS = {
    "runner_on_ok": "ok",
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
}
_WIDTH = 79


class Progress:
    """Takes the events of ansible-runner and of migrations; writes lines to a stream."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self.has_begun = False
        """Whether it has come to a play; else its output says why not."""
        self._task = ""
        self._ended: Counter[str] = Counter()
        self._timelines: dict[int, Timeline] = {}

    def __call__(self, event: Mapping[str, Any]) -> bool:
        """An event of ansible-runner; False, since nobody needs it kept as a file."""
        kind, data = event.get("event", ""), event.get("event_data", {})
        with self._lock:
            if kind == "playbook_on_play_start":
                self.has_begun = True
                self._finish_task()
                self._say(f"{data.get('name') or data.get('play', '')}")
            elif kind in ("playbook_on_task_start", "playbook_on_handler_task_start"):
                self._finish_task()
                self._task = data.get("name") or data.get("task", "")
                self._show(self._task)
            elif kind in _ENDS:
                self._host_ended(_ENDS[kind], data)
            elif kind == "playbook_on_stats":
                self._finish_task()
                self._summarize(data)
        return False

    def migration(self, number: int, event: dict[str, Any] | None) -> None:
        """An event of the migration of this number; None: it has ended."""
        with self._lock:
            if event is None:
                for line in self._timelines.pop(number).lines(_WIDTH):
                    self._say(f"  {line}")
                return
            self._timelines.setdefault(number, Timeline(self._clock)).note(event)
            if event["event"] == "begin":
                self._show(f"{self._task}: {event['name']}")
                if not self._stream.isatty():
                    self._say(f"  {event['name']}")

    def _host_ended(self, end: str, data: Mapping[str, Any]) -> None:
        result = data.get("res") or {}
        if end == "ok" and result.get("changed"):
            end = "changed"
        if end == "failed" and data.get("ignore_errors"):
            end = "ignored"
        self._ended[end] += 1
        if end in ("failed", "unreachable"):
            reason = result.get("msg") or result.get("censored") or "it does not say why"
            self._say(f"  {self._task}: {data.get('host')} {end}: {reason}")

    def _finish_task(self) -> None:
        """A line for a task that did something; those that were skipped everywhere have none."""
        if self._ended.keys() - {"skipped"}:
            ends = ", ".join(f"{count} {end}" for end, count in sorted(self._ended.items()))
            self._say(f"  {self._task} ({ends})")
        self._task, self._ended = "", Counter()

    def _summarize(self, data: Mapping[str, Any]) -> None:
        failed = sorted({*data.get("failures", {}), *data.get("dark", {})})
        changed = sum(data.get("changed", {}).values())
        end = f"failed on {', '.join(failed)}" if failed else "done"
        self._say(f"{end} after {self._clock() - self._began:.0f} s, {changed} changed")

    def _say(self, line: str) -> None:
        self._erase()
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _show(self, what: str) -> None:
        """What it is at, on a terminal's last line, where the next line takes its place."""
        if self._stream.isatty():
            self._erase()
            passed = f"{self._clock() - self._began:.0f} s"
            self._stream.write(f"  {passed:>6} {what}"[:_WIDTH])
            self._stream.flush()

    def _erase(self) -> None:
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")


def play(
    playbook: str,
    *,
    inventory: str | None = None,
    variables: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    stream: TextIO | None = None,
) -> int:
    """Run a playbook, by its path or its full name, and show what it is at; its exit code."""
    progress = Progress(stream or sys.stderr)
    watch = _Watch(progress)
    try:
        with tempfile.TemporaryDirectory(prefix="flowferry-play-") as directory:
            done = ansible_runner.run(
                private_data_dir=directory,
                project_dir=str(Path.cwd()),
                playbook=playbook,
                inventory=inventory,
                extravars=dict(variables or {}),
                envvars=_environment(),
                cmdline=shlex.join(options) or None,
                event_handler=progress,
                quiet=True,
            )
            if done.rc and not progress.has_begun:
                sys.stderr.write(done.stdout.read())
    finally:
        watch.stop()
    return int(done.rc)


def _environment() -> dict[str, str]:
    """The collection is found, and its timeline does not take the events that are shown here."""
    found = {
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTION.parents[2]),
        # None at all cannot be said; this one is silent unless it is the one for standard output.
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(COLLECTION / "p4"),
    }
    settings = COLLECTION / "ansible.cfg"
    if "ANSIBLE_CONFIG" not in os.environ and settings.exists():
        found["ANSIBLE_CONFIG"] = str(settings.resolve())
    return found


class _Watch:
    """Passes the events of migrations on, from a thread of its own."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._receiver = EventReceiver()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            for number, event in self._receiver.receive(timeout=0.1):
                self._progress.migration(number, event)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._receiver.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="flowferry-play",
        description="Run a playbook and show what it is at: tasks, and the phases of migrations.",
        epilog="What follows -- is for ansible-playbook: flowferry-play migrate -- --check -v",
    )
    parser.add_argument("playbook", help="provision, migrate, ...; a path; or a name in full")
    parser.add_argument("-i", "--inventory", help="else the one of ansible.cfg")
    parser.add_argument(
        "-e", "--extra-vars", action="append", default=[], metavar="NAME=VALUE", dest="variables"
    )
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    variables = dict(variable.split("=", 1) for variable in asked.variables)
    inventory = str(Path(asked.inventory).resolve()) if asked.inventory else None
    return play(
        _find(asked.playbook),
        inventory=inventory,
        variables=variables,
        options=asked.options,
        stream=sys.stdout,
    )


def _find(playbook: str) -> str:
    """One of the collection's by its short name; else as it was given."""
    own = COLLECTION / "playbooks" / f"{playbook}.yml"
    if own.exists():
        return str(own.resolve())
    return str(Path(playbook).resolve()) if Path(playbook).exists() else playbook
