# SPDX-License-Identifier: Apache-2.0
"""A node's pod network: which addresses a pod got, and which ones are kept for whom.

What a pod got is in the cache that libcni, which runs the plugins for every container runtime,
keeps of their results. Reservations are those of this project's address manager (the role
pod_network): a file for each address with the sandbox that has it, or "moved" when its pod has
moved away with it. It has both, in two lines, while the one is about to take the other's place: a
source that ends, or a copy that may yet be given up.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from .commands import run
from .errors import FlowferryError

RESULTS = Path("/var/lib/cni/results")
NETWORKS = Path("/etc/cni/net.d")
MANAGER = "flowferry-ipam"
STATE = Path("/var/lib/cni/flowferry")
MOVED = "moved"
ATTACHMENTS = Path("/run/flowferry/attachments")
"""What the agent of this project's data plane remembers of each pod's interface on this node."""


def addresses_of(pod_uid: str) -> list[str]:
    """The addresses that the network gave to a pod's sandbox on this node."""
    ips = [one for result in _results_of(pod_uid) for one in result.get("ips") or []]
    found = [ip_interface(one["address"]).ip for one in ips]
    return [str(one) for one in found if not one.is_loopback]  # whose interface is cached, too


def namespace_of(pod_uid: str) -> Path:
    """The network of a pod's sandbox on this node, which need not have a process."""
    for result in _results_of(pod_uid):
        for interface in result.get("interfaces") or []:
            if interface.get("sandbox"):
                return Path(interface["sandbox"])
    raise FlowferryError(
        "not_running", f"no network of the sandbox of pod {pod_uid} is known here ({RESULTS})"
    )


def _results_of(pod_uid: str) -> Iterator[dict[str, Any]]:
    for file in sorted(RESULTS.iterdir()) if RESULTS.is_dir() else []:
        try:
            cached = json.loads(file.read_bytes())
        except (OSError, ValueError):  # it comes, or goes, at this moment
            continue
        if ["K8S_POD_UID", pod_uid] in (cached.get("cniArgs") or []):
            yield cached.get("result") or {}


def settings() -> dict[str, Any]:
    """Of this project's address manager on this node; empty when another one gives addresses."""
    for file in sorted(NETWORKS.glob("*.conflist")):
        for plugin in json.loads(file.read_text()).get("plugins", []):
            found: dict[str, Any] = plugin.get("ipam") or {}
            if found.get("type") == MANAGER:
                network = ip_interface(f"{found['gateway']}/{found['prefix']}").network
                return {
                    "first": found["rangeStart"],
                    "last": found["rangeEnd"],
                    "gateway": found["gateway"],
                    "network": str(network),
                    "ipv6": "ipv6" in found,
                }
    return {}


def owner(address: str) -> str:
    """The sandbox on this node that has a reservation; empty when there is none."""
    lines = _lines(address)
    return "" if lines[0] == MOVED else lines[0]


def keep_reserved(addresses: Iterable[str]) -> None:
    """Their pod moves away with them: when the sandbox ends, no other one here is to get them."""
    _change(addresses, lambda lines: [*dict.fromkeys([lines[0], MOVED])] if lines[0] else [])


def claim(addresses: Iterable[str]) -> None:
    """A pod has come back to stay: the reservations are its own, and end with it."""
    _change(addresses, lambda lines: lines[:1])


def free(addresses: Iterable[str]) -> None:
    """No pod has them any more, wherever it had moved."""
    _change(addresses, lambda lines: [] if lines[0] == MOVED else lines[:1])


def _lines(address: str) -> list[str]:
    file = STATE / str(ip_address(address))
    return (file.read_text().split() if file.exists() else []) or [""]


def _change(addresses: Iterable[str], change: Callable[[list[str]], list[str]]) -> None:
    if not STATE.is_dir():
        return
    with _locked():
        for address in addresses:
            file = STATE / str(ip_address(address))
            lines = _lines(address)
            after = change(lines)
            if not any(after):
                file.unlink(missing_ok=True)
            elif after != lines:
                file.write_text("\n".join(after))


@contextmanager
def _locked() -> Iterator[None]:
    """As the address manager locks it."""
    with (STATE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cut_cable(address: str) -> None:
    """Take away the interface that the address is behind, if it is on this node."""
    for record in _attachments():
        if address in record.get("addresses", []) and _is_there(record["interface"]):
            run(["ip", "link", "delete", record["interface"]])
    for route in json.loads(run(["ip", "-j", "route", "show", f"{address}/32"]) or "[]"):
        if route.get("dev", "").startswith("veth"):
            run(["ip", "link", "delete", route["dev"]])


def attachment_of(pod_uid: str) -> dict[str, Any]:
    """The pod's port at the switch of this node, and its link address; empty where it has none."""
    for record in _attachments():
        if record.get("pod_uid") == pod_uid:
            return {"port": record["port"], "mac": record["mac"]}
    return {}


def _attachments() -> Iterator[dict[str, Any]]:
    for file in sorted(ATTACHMENTS.glob("*.json")):
        try:
            yield json.loads(file.read_bytes())
        except (OSError, ValueError):  # it comes, or goes, at this moment
            continue


def _is_there(interface: str) -> bool:
    return Path("/sys/class/net", interface).exists()
