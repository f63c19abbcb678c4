# SPDX-License-Identifier: Apache-2.0
"""The callback in Ansible itself: it draws migrations, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
# An action of the name that the callback listens to, which says what a keeper would say.
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


@pytest.fixture
def played(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins/migration.py").write_text(ACTION)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [program, "--inventory", "localhost,", "--connection", "local", str(tmp_path / "play.yml")],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_it_draws_the_migration_and_is_silent_otherwise(
    played: subprocess.CompletedProcess[str],
) -> None:
    head, phase = played.stderr.splitlines()
    assert head == "redis: node1 -> node2, planned and not done"
    assert phase.split()[:3] == ["hold", "12.5", "ms"]
    assert "node1" not in played.stdout


def test_it_leaves_nothing_behind(played: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert [path.name for path in (tmp_path / "tmp").glob("flowferry-*")] == []
