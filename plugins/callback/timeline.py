# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
name: timeline
type: aggregate
short_description: Show the phases of a migration as a timeline
version_added: 0.1.0
description:
  - Draws the phases of every M(flowferry.core.migration) task with their times, to scale. Phases in
    which the endpoint is held are drawn solid.
  - On a terminal the timeline grows while the migration runs; elsewhere it is written once, at the
    end. It says nothing about other tasks.
  - Writes to standard error, so that standard output is what the stdout callback makes of it.
requirements:
  - To be enabled in C(ansible.cfg), section C([defaults]), with
    C(callbacks_enabled = flowferry.core.timeline).
author:
  - The Flowferry authors (@flowferry)
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ansible.playbook.task import Task
from ansible.plugins.callback import CallbackBase
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.events import EventReceiver
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.timeline import Timeline

_ACTIONS = ("flowferry.core.migration", "migration")
_WIDEST = 80
_REDRAW = 0.1


class CallbackModule(CallbackBase):
    """Listens while a migration task runs, and draws what it hears."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "flowferry.core.timeline"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watch: _Watch | None = None

    def v2_playbook_on_task_start(self, task: Task, is_conditional: bool) -> None:
        self._stop()
        if task.action in _ACTIONS:
            self._watch = _Watch(lambda line: self._display.display(line, stderr=True))

    def v2_playbook_on_stats(self, stats: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None


class _Watch:
    """The migrations of one task, as they go on."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._live = sys.stderr.isatty()
        self._drawn = 0
        self._timelines: dict[int, Timeline] = {}
        self._receiver = EventReceiver()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The task is over."""
        self._stopped.set()
        self._thread.join()
        self._receiver.close()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            for number, event in self._receiver.receive(timeout=_REDRAW):
                if event is not None:
                    self._timelines.setdefault(number, Timeline(time.monotonic)).note(event)
                elif number in self._timelines:
                    self._erase()
                    for line in self._timelines.pop(number).lines(_width()):
                        self._show(line)
            if self._live:
                self._erase()
                self._draw()

    def _draw(self) -> None:
        lines = [line for one in self._timelines.values() for line in one.lines(_width())]
        self._drawn = len(lines)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()

    def _erase(self) -> None:
        """Back to where the drawing began; what comes next takes its place."""
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0


def _width() -> int:
    """One less than the terminal's: a full line would wrap in some."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:  # it is none
        columns = _WIDEST
    return min(columns, _WIDEST) - 1
