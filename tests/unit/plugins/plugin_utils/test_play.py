# SPDX-License-Identifier: Apache-2.0
"""What a playbook is at, as ansible-runner's events and those of migrations tell."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.plugin_utils.play import Progress, play

ROOT = Path(__file__).resolve().parents[4]
# An action of the migration's name, which says what a keeper would say.
ACTION = """
from ansible.plugins.action import ActionBase
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.events import EventSender


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        sender = EventSender()
        sender.send({"event": "order", "workload": "redis", "destination": "node2"})
        sender.send({"event": "begin", "name": "hold"})
        sender.send({"event": "phase", "name": "hold", "ms": 12.5})
        sender.send({"event": "result", "result": {"source": "node1"}})
        sender.close()
        return {"changed": True}
"""
PLAYBOOK = """
- name: Move something
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Skipped
      ansible.builtin.debug: {msg: no}
      when: false
    - name: Migration
      migration:
    - name: Last
      ansible.builtin.fail: {msg: "{{ why }}"}
"""


@pytest.mark.parametrize("command", ["flowferry-play", "kubectl-migrate"])
def test_commands_find_the_collection(command: str, tmp_path: Path) -> None:
    """From anywhere, and by a link, as a plugin of kubectl is found."""
    link = tmp_path / command
    link.symlink_to(ROOT / "deploy" / command)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(link), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tasks_phases_and_reasons_are_shown(tmp_path: Path) -> None:
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins" / "migration.py").write_text(ACTION)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "hosts").write_text("localhost\n")
    shown = io.StringIO()
    code = play(
        str(tmp_path / "play.yml"),
        inventory=str(tmp_path / "hosts"),
        variables={"why": "for want of a nail"},
        stream=shown,
    )
    lines = shown.getvalue().splitlines()
    assert code == 2
    assert lines[:2] == ["Move something", "  hold"]
    assert "redis: node1 -> node2" in lines[2]
    assert lines[-4:-1] == [
        "  Migration (1 changed)",
        "  Last: localhost failed: for want of a nail",
        "  Last (1 failed)",
    ]
    assert lines[-1].startswith("failed on localhost after ")
    assert not any("Skipped" in line for line in lines)


def event(kind: str, **data: object) -> dict[str, object]:
    return {"event": kind, "event_data": data}


def test_a_terminal_shows_what_goes_on_and_keeps_what_ended() -> None:
    shown = Terminal()
    progress = Progress(shown, clock=lambda: 7.0)
    progress(event("playbook_on_task_start", task="Install"))
    assert shown.getvalue().endswith("0 s Install")
    progress(event("runner_on_ok", host="node1", res={"changed": True}))
    progress(event("runner_on_ok", host="node2", res={"changed": False}))
    progress(event("playbook_on_stats", changed={"node1": 1}))
    assert "  Install (1 changed, 1 ok)\n" in shown.getvalue()
    assert shown.getvalue().endswith("done after 0 s, 1 changed\n")


@pytest.mark.parametrize("ignored", [True, False])
def test_a_failure_that_is_ignored_is_none(ignored: bool) -> None:
    shown = io.StringIO()
    progress = Progress(shown)
    progress(event("playbook_on_task_start", task="Try"))
    failure = event("runner_on_failed", host="a", res={"msg": "no"}, ignore_errors=ignored)
    progress(failure)
    assert ("Try: a failed: no" in shown.getvalue()) != ignored
