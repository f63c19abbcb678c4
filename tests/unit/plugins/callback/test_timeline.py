# SPDX-License-Identifier: Apache-2.0
"""The callback in Ansible itself: it draws migrations, and nothing else."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
# An action of the name that the callback listens to, which says what a keeper would say.
ACTION = """
import time

from ansible.plugins.action import ActionBase
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.events import EventSender


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        sender = EventSender()
        sender.send({"event": "order", "workload": "redis", "destination": "node2"})
        sender.send({"event": "begin", "name": "hold"})
        time.sleep(0.5)  # as long as a phase may take; a terminal shows it meanwhile
        sender.send({"event": "phase", "name": "hold", "ms": 12.5})
        sender.send({"event": "result", "result": {"source": "node1"}})
        sender.close()
        return {"changed": True}
"""
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Something else
      ansible.builtin.debug: {msg: other}
    - name: Migration
      migration:
    - name: Something after it
      ansible.builtin.debug: {msg: other}
"""


Played = subprocess.CompletedProcess[str]


def play(directory: Path, stderr: int) -> Played:
    (directory / "action_plugins").mkdir()
    (directory / "action_plugins/migration.py").write_text(ACTION)
    (directory / "play.yml").write_text(PLAYBOOK)
    (directory / "tmp").mkdir()
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "TMPDIR": str(directory / "tmp"),
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [
            program,
            "--inventory",
            "localhost,",
            "--connection",
            "local",
            str(directory / "play.yml"),
        ],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return play(tmp_path, subprocess.PIPE)


def test_it_draws_the_migration_and_is_silent_otherwise(played: Played) -> None:
    head, phase = played.stderr.splitlines()
    assert head == "redis: node1 -> node2, planned and not done"
    assert phase.split()[:3] == ["hold", "12.5", "ms"]
    assert "node1" not in played.stdout


def test_it_leaves_nothing_behind(played: Played, tmp_path: Path) -> None:
    assert [path.name for path in (tmp_path / "tmp").glob("flowferry-*")] == []


def test_on_a_terminal_it_is_drawn_while_it_runs_and_once_in_the_end(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    try:
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        play(tmp_path, end)
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(end)
        os.close(terminal)
    *earlier, last = re.split(r"\x1b\[\dF\x1b\[J", shown.replace("\r\n", "\n"))
    assert any(drawn.startswith("redis -> node2\n  hold ") for drawn in earlier)
    head, phase = last.splitlines()
    assert head == "redis: node1 -> node2, planned and not done"
    assert phase.split()[:2] == ["hold", "12.5"] and len(phase) <= 59
