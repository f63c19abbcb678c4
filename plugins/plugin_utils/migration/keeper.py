# SPDX-License-Identifier: Apache-2.0
"""The keeper: the process on the controller that owns switch session, buffer and journal.

It outlives the playbook. It reads its order, one JSON object, from standard input, and writes
events, one JSON object a line, to standard output. When standard input ends the playbook has died:
before the redirect the keeper rolls back, after it it finishes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.base import Workload
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.kubernetes import (
    KubernetesPod,
)
from ansible_collections.flowferry.core.plugins.module_utils.runtimes.registry import open_workload
from flowferry_p4.client import P4Error
from flowferry_p4.client.traffic import EndpointTraffic

from . import metrics
from .across import KeepAcross, Switches
from .journal import Journal
from .move import Move
from .remote import NodeHelper, RemoteHelper
from .strategy import Strategy, addresses_of, for_plan, require_route
from .switch_target import HoldPlan

# What of a switch the journal keeps, so that the next run finds it.
SWITCH = ("address", "device_id", "tls")


class Keeper:
    """One order: move a workload, or only plan it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.playbook_is_gone = threading.Event()
        self.workload = open_workload(order["workload"])
        remotes = {
            name: RemoteHelper(name, node["address"], node["port"], order["certificates"])
            for name, node in order["nodes"].items()
        }
        self.helpers = _helpers(self.workload, remotes, order)
        switch = order["switch"]
        self.journal = Journal(switch["address"], self.workload.file_name)
        self.switches = Switches(not order["check_mode"])
        self.session = self.switches.get(switch)

    def run(self) -> dict[str, Any]:
        """The result of the order."""
        self._check_destination_answers()
        recovered, warnings = self._recover()
        if warnings:  # the workload has moved, and what remains of its source is in the way
            return {"changed": True, "recovered": recovered, "warnings": warnings}
        source = self._find_source()
        if source == self.order["destination"]:
            self._check_in_place(source)
            return {"changed": bool(recovered), "recovered": recovered, "source": source}
        plan = self._plan(source)
        strategy = self._strategy(plan)
        strategy.check()
        costs = plan["switch"]["costs"]
        summary = {"recovered": recovered, "source": source, "plan": plan, "changed": True}
        summary |= {
            key: plan["about"][key] for key in ("method", "way", "why") if key in plan["about"]
        }
        if self.order["check_mode"]:
            return {**summary, "warnings": costs}
        result = {**summary, **self._move(plan, strategy).run()}
        return {**result, "warnings": costs + result["warnings"]}

    def _check_destination_answers(self) -> None:
        destination, nodes = self.order["destination"], self.helpers
        if destination not in nodes:
            reason = (self.order.get("unavailable") or {}).get(destination)
            raise FlowferryError(
                "unknown_destination",
                f'destination "{destination}" is unknown or unreachable; nodes that answer: '
                f"{', '.join(sorted(nodes)) or 'none'}. "
                + (f"It says: {reason}" if reason else "`ansible nodes -m ping` says why"),
            )

    def _recover(self) -> tuple[str, list[str]]:
        """Finish or roll back what an earlier keeper left unfinished; which, and warnings."""
        found = self.journal.read()
        if found is None:
            return "", []
        if self.order["check_mode"]:
            return f"would recover a migration that ended in phase {found['phase']}", []
        plan = found["plan"]
        missing = {plan[end]["name"] for end in ("source", "destination")} - set(self.helpers)
        if missing:
            raise FlowferryError(
                "nodes_missing",
                f"an unfinished migration involves {', '.join(sorted(missing))}, which did not "
                "take part in this run; make it reachable and run the playbook again",
            )
        report({"event": "recover", "phase": found["phase"]})
        return self._move(plan, self._strategy(plan)).recover()

    def _strategy(self, plan: dict[str, Any]) -> Strategy:
        """Across several switches where nodes have some of their own."""
        if not plan["source"].get("switch"):
            return for_plan(self.session, plan)
        return KeepAcross(self.session, plan, self.switches)

    def _move(self, plan: dict[str, Any], strategy: Strategy) -> Move:
        return Move(
            plan,
            strategy,
            self.helpers[plan["source"]["name"]],
            self.helpers[plan["destination"]["name"]],
            self.journal,
            report,
            self.playbook_is_gone.is_set,
            self.order["accept_timeout"],
        )

    def _find_source(self) -> str:
        """The one node where the workload is; a stopped namesake elsewhere counts as well."""
        workload = self.workload
        removal = workload.removal.format(name=workload.name)
        found = {name: helper.call("describe") for name, helper in self.helpers.items()}
        holders: list[str] = [name for name, about in found.items() if about is not None]
        destination = self.order["destination"]
        if not holders:
            raise FlowferryError(
                "unknown_workload",
                f"no node has a {workload.title}; asked: {', '.join(sorted(found))}. "
                f"`{workload.listing}` on a node lists what there is",
            )
        others = [name for name in holders if name != destination]
        if destination in holders and others:
            raise FlowferryError(
                "name_taken",
                f"{workload} is on {', '.join(sorted(others))} and there is another "
                f"{workload.title} on {destination}; rename or remove it there: {removal}",
            )
        if len(others) > 1:
            raise FlowferryError(
                "ambiguous_workload",
                f"{workload} is on {', '.join(sorted(others))}; rename or remove the one "
                "that is not meant",
            )
        return holders[0]

    def _check_in_place(self, node: str) -> None:
        """On its destination already: then it must run, and the switch must agree."""
        about = self.helpers[node].call("check_source")
        traffic = EndpointTraffic(self.session, addresses_of(about["endpoint"]))
        require_route(traffic, {"name": node, **self.order["nodes"][node]})

    def _plan(self, source: str) -> dict[str, Any]:
        """Resolve and validate everything on the nodes; nothing is touched."""
        destination, switch = self.order["destination"], self.order["switch"]
        hold = HoldPlan(self.order["switch"]["target"])
        self.session.require_pipeline(switch["p4info"])
        about = self.helpers[source].call("check_source")
        self._check_across(source, about)
        plan_memory(self.order.get("memory", ""), self.workload, about)
        hold.begin_to_count(EndpointTraffic(self.session, addresses_of(about["endpoint"])))
        self.helpers[destination].call("check_destination", about=about)
        if about.get("volumes"):
            about["volumes"] = self._plan_volumes(source, destination, about["volumes"])
        self._check_nodes(source, destination)
        return {
            "workload": str(self.workload),
            "about": about,
            "strategy": self.order["strategy"],
            "switch": {**hold.as_dict(), "at": {k: switch[k] for k in SWITCH if k in switch}},
            "endpoint": about["endpoint"],
            **self._destination_endpoint(about["endpoint"]),
            "source": {"name": source, **self.order["nodes"][source]},
            "destination": {"name": destination, **self.order["nodes"][destination]},
        }

    def _check_across(self, source: str, about: dict[str, Any]) -> None:
        """What cannot move where nodes have switches of their own."""
        ends = {end: self.order["nodes"][end] for end in (source, self.order["destination"])}
        without = [name for name, node in ends.items() if not node.get("switch")]
        if len(without) == 2:
            return
        if without:
            raise FlowferryError(
                "across_unsupported",
                f"{without[0]} has no switch of its own, and the other node has: both have to be "
                "of the same data plane (node_switch_address in the inventory)",
            )
        reasons = {
            "it keeps its name, so its copy is at no port of a switch before packets are held": (
                about.get("keeps_name")
            ),
            "address_strategy=rewrite is not known there; Services follow a pod's new address by "
            "themselves, but its connections do not": self.order["strategy"] != "keep",
            "it is no pod of that data plane": not about.get("attachment"),
        }
        for reason, holds in reasons.items():
            if holds:
                raise FlowferryError(
                    "across_unsupported",
                    f"{self.workload} cannot move between nodes with switches of their own: "
                    f"{reason}",
                )

    def _plan_volumes(self, source: str, destination: str, volumes: list[Any]) -> list[Any]:
        """How each volume gets to the destination, and how much is to be copied."""
        at_source, at_destination = self.helpers[source], self.helpers[destination]
        copies = self.order.get("volumes") == "copy"
        chosen = at_destination.call("choose_volumes", volumes=volumes, copies=copies)
        measured: list[Any] = at_source.call("measure_volumes", volumes=chosen)
        at_destination.call("check_volume_space", volumes=measured)
        return measured

    def _check_nodes(self, source: str, destination: str) -> None:
        """What one dumps the other has to be able to restore."""
        for node in (source, destination):
            self.helpers[node].call("check_kernel")
        image = self.helpers[source].call("cpu_image")
        self.helpers[destination].call("check_cpu", image=image)

    def _destination_endpoint(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        """Which endpoint the copy gets, and whether it is there already."""
        wanted = _list_of(self.order.get("destination_address"))
        old = addresses_of(endpoint)
        if self.order["strategy"] == "keep":
            if wanted and wanted != old:
                raise _address_mismatch(
                    f"under address_strategy=keep the workload keeps {', '.join(old)}, so it "
                    f"cannot have {', '.join(wanted)}; leave destination_address out, or use "
                    "address_strategy=rewrite"
                )
            return {"destination_endpoint": endpoint, "warm": False}
        helper, namespace = self.helpers[self.order["destination"]], endpoint["namespace"]
        found = helper.call("find_endpoint", namespace=namespace)
        if not wanted and found is None and not self.workload.is_given_address:
            raise _address_mismatch(
                "address_strategy=rewrite needs the address that the workload gets: give "
                f"destination_address, or make the namespace {namespace} on the destination with "
                "flowferry.core.endpoint"
            )
        new = found or helper.call("new_endpoint", namespace=namespace, addresses=wanted)
        if wanted and sorted(wanted) != sorted(addresses_of(new)):
            raise _address_mismatch(
                f"the namespace {namespace} on the destination has {', '.join(addresses_of(new))}, "
                f"not {', '.join(wanted)}; leave destination_address out, or remove the namespace "
                "there"
            )
        return {"destination_endpoint": new, "warm": found is not None}

    def watch_playbook(self) -> None:
        """Standard input ends with the playbook."""

        def wait() -> None:
            sys.stdin.read()
            self.playbook_is_gone.set()

        threading.Thread(target=wait, daemon=True).start()

    def close(self) -> None:
        """Let the helpers and the switch go."""
        for helper in self.helpers.values():
            helper.goodbye()
        self.switches.close()


def _helpers(
    workload: Workload, remotes: Mapping[str, NodeHelper], order: dict[str, Any]
) -> dict[str, NodeHelper]:
    """Those of a pod know the cluster as well."""
    if not isinstance(workload, KubernetesPod):
        return dict(remotes)
    # The client of Kubernetes takes longer to import than the rest of a plan.
    from .pods import with_cluster

    kubeconfig, method = order.get("kubeconfig", ""), order.get("method", "auto")
    return with_cluster(workload, remotes, kubeconfig, method)


def plan_memory(asked: str, workload: Workload, about: dict[str, Any]) -> None:
    """Note whether memory follows the workload: where that was asked for, and there is much."""
    if asked != "post-copy":
        return
    if not workload.streams_memory(about):
        why = f": {about['why']}" if "why" in about else ""
        raise FlowferryError(
            "post_copy_impossible",
            f"memory=post-copy is known for pods that move directly and for plain processes, and "
            f"{workload} moves otherwise{why}. Leave memory=post-copy out",
        )
    about["post_copy"] = workload.has_much_memory(about)


def _list_of(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _address_mismatch(message: str) -> FlowferryError:
    return FlowferryError("address_mismatch", message)


def report(event: dict[str, Any]) -> None:
    """Tell the playbook, if it still listens."""
    try:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def end(order: dict[str, Any], event: dict[str, Any]) -> None:
    """Count how the order has ended, and tell."""
    if order.get("metrics") and not order["check_mode"]:
        problem = metrics.record(Path(order["metrics"]), order, event)
        if problem and "result" in event:
            warnings = [*event["result"].get("warnings", []), problem]
            event = {**event, "result": {**event["result"], "warnings": warnings}}
    report(event)


def main() -> None:
    """Read the order, carry it out, report the result or the failure."""
    order = json.loads(sys.stdin.readline())
    keeper = None
    try:
        keeper = Keeper(order)
        keeper.watch_playbook()
        end(order, {"event": "result", "result": keeper.run()})
    except FlowferryError as error:
        end(order, {"event": "failure", "failure": error.as_dict()})
    except P4Error as error:
        code = "".join("_" + c.lower() if c.isupper() else c for c in type(error).__name__)[1:]
        end(order, {"event": "failure", "failure": {"code": code, "message": str(error)}})
    except Exception as error:  # the playbook must hear of anything
        end(order, {"event": "failure", "failure": {"code": "internal", "message": repr(error)}})
        raise
    finally:
        if keeper is not None:
            keeper.close()


if __name__ == "__main__":
    main()
