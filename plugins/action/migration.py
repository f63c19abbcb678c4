# SPDX-License-Identifier: Apache-2.0
"""Controller side of flowferry.core.migration: starts the keeper and relays what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.events import EventSender

# .../ansible_collections/flowferry/core, by the path that Ansible found it at: in a checkout that
# is the link in collections/, which must not be resolved.
_COLLECTION = Path(__file__).absolute().parents[2]
# What secures a connection to a switch: files, and a name.
_TLS = {"ca", "cert", "key", "server_name"}
_KEEPER = "ansible_collections.flowferry.core.plugins.plugin_utils.migration.keeper"


class ActionModule(ActionBase):
    """Hands the order to a keeper and returns its result."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """One migration; progress goes to the screen while it runs."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "workload": {"type": "str", "required": True},
                "destination": {"type": "str", "required": True},
                "nodes": {"type": "dict", "required": True},
                "switch": {"type": "dict", "required": True},
                "certificates": {"type": "dict", "required": True, "no_log": True},
                "strategy": {"type": "str", "choices": ["keep", "rewrite"], "default": "keep"},
                "destination_address": {"type": "str"},
                "volumes": {"type": "str", "choices": ["shared", "copy"], "default": "shared"},
                "method": {
                    "type": "str",
                    "choices": ["kubelet", "direct", "auto"],
                    "default": "auto",
                },
                "memory": {
                    "type": "str",
                    "choices": ["stop-and-copy", "post-copy"],
                    "default": "stop-and-copy",
                },
                "kubeconfig": {"type": "str", "default": ""},
                "unavailable": {"type": "dict", "default": {}},
                "accept_timeout": {"type": "float", "default": 0.5},
                "metrics": {"type": "path"},
            }
        )
        problem = _problem(arguments)
        if problem:
            return {"failed": True, "msg": problem}
        p4info = _COLLECTION / "p4" / "compiled" / "flowferry.p4info.txtpb"
        order = dict(arguments, check_mode=self._task.check_mode)
        switch = {"target": "embedded", **arguments["switch"]}
        order["switch"] = {**switch, "p4info": p4info.read_text()}
        return _carry_out(order)


def _problem(arguments: dict[str, Any]) -> str:
    switches = {"the switch": arguments["switch"]}
    for name, node in arguments["nodes"].items():
        missing = {"address", "port", "switch_port", "mac"} - set(node)
        if missing:
            return f"node {name} lacks {', '.join(sorted(missing))}; add it to the inventory"
        switches[f"the switch of {name}"] = node.get("switch") or {}
    for name, switch in switches.items():
        if unknown := set(switch.get("tls") or {}) - _TLS:
            known, told = ", ".join(sorted(_TLS)), ", ".join(sorted(unknown))
            return f"tls of {name} has {told}, which is not known; it takes {known}"
    return ""


def _carry_out(order: dict[str, Any]) -> dict[str, Any]:
    paths = [str(_COLLECTION.parents[2]), str(_COLLECTION / "p4")]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*paths, environment.get("PYTHONPATH", "")])
    keeper = subprocess.Popen(
        [sys.executable, "-m", _KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C ends the playbook; the keeper then rolls back by itself
        text=True,
    )
    assert keeper.stdin is not None and keeper.stdout is not None and keeper.stderr is not None
    keeper.stdin.write(json.dumps(order, default=str) + "\n")
    keeper.stdin.flush()
    watcher = EventSender()
    names = {name: order[name] for name in ("workload", "destination")}
    watcher.send({"event": "order", **names})
    outcome: dict[str, Any] | None = None
    for line in keeper.stdout:
        event = json.loads(line)
        watcher.send(event)
        if event["event"] in ("result", "failure"):
            outcome = event
    if outcome is None:
        outcome = _lost(keeper.stderr.read())
        watcher.send(outcome)
    keeper.wait()
    watcher.close()
    return _result(outcome)


def _lost(complaint: str) -> dict[str, Any]:
    message = (
        "the keeper ended without a result; run the playbook again: it finishes or rolls back. "
        f"{complaint[-1500:]}"
    )
    return {"event": "failure", "failure": {"code": "keeper_lost", "message": message.strip()}}


def _result(outcome: dict[str, Any]) -> dict[str, Any]:
    if outcome["event"] == "failure":
        failure = outcome["failure"]
        return {"failed": True, "msg": failure["message"], "failure": failure}
    result: dict[str, Any] = outcome["result"]
    return result
