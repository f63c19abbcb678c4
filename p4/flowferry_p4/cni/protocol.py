# SPDX-License-Identifier: Apache-2.0
"""CNI's words: what a runtime asks, what it is answered, and what can be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from .plugin import VERSIONS

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
BAD_VARIABLES = 4
IO_FAILURE = 5
BAD_NETWORK = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
NOT_AS_MADE = 100
"""CHECK found something else than ADD had made."""
ATTACHED_ALREADY = 101

_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_GATEWAYS = {4: ("169.254.1.1", "0.0.0.0/0"), 6: ("fe80::1", "::/0")}


class CniError(Exception):
    """An answer that is an error: its code, and what is wrong."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Call:
    """One call of the plugin."""

    command: str
    container: str
    namespace: str
    """Path of the network namespace; DEL may come without."""
    interface: str
    arguments: Mapping[str, str]
    path: tuple[str, ...]
    """Where plugins are."""
    network: Mapping[str, Any]
    variables: Mapping[str, str]

    @property
    def version(self) -> str:
        return str(self.network.get("cniVersion") or "")

    @property
    def mtu(self) -> int:
        mtu = self.network.get("mtu", 1500)
        if not isinstance(mtu, int) or not 1280 <= mtu <= 65535:
            raise CniError(BAD_NETWORK, f"mtu {mtu!r} is not a number from 1280 to 65535")
        return mtu


def read_call(request: Mapping[str, Any], host_root: str = "") -> Call:
    """What the plugin passed on, checked as far as it concerns every command.

    Paths of the runtime are those of the node; ``host_root`` is where an agent in a container of
    its own finds them.
    """
    variables = {str(key): str(text) for key, text in request["variables"].items()}
    network = request["network"]
    call = Call(
        variables.get("CNI_COMMAND", ""),
        variables.get("CNI_CONTAINERID", ""),
        _at(host_root, variables.get("CNI_NETNS", "")),
        variables.get("CNI_IFNAME", ""),
        _arguments(variables.get("CNI_ARGS", "")),
        tuple(_at(host_root, one) for one in variables.get("CNI_PATH", "").split(":") if one),
        network,
        variables,
    )
    if call.version not in VERSIONS:
        text = f'cniVersion "{call.version}" is not one of {", ".join(VERSIONS)}'
        raise CniError(INCOMPATIBLE_VERSION, text)
    if call.command not in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        raise CniError(BAD_VARIABLES, f'CNI_COMMAND "{call.command}" is not known')
    if not network.get("name"):
        raise CniError(BAD_NETWORK, "the network has no name")
    if call.command in ("ADD", "DEL", "CHECK"):
        _check_attachment(call)
    return call


def _at(root: str, path: str) -> str:
    """A path of the node as this process finds it; links lead where they lead on the node."""
    if not root or not path:
        return path
    done: list[str] = []
    left = path.split("/")[::-1]
    for _ in range(1000):  # links that lead to one another end, too
        if not left:
            break
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        here = Path(root, *done, part)
        if here.is_symlink():
            target = str(here.readlink())
            done = [] if target.startswith("/") else done
            left += target.split("/")[::-1]
        else:
            done.append(part)
    return "/".join([root, *done])


def _arguments(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(";") if part]
    return {key: value for key, _, value in pairs}


def _check_attachment(call: Call) -> None:
    if not _CONTAINER.fullmatch(call.container):
        raise CniError(BAD_VARIABLES, f'CNI_CONTAINERID "{call.container}" is not a container id')
    if not _INTERFACE.fullmatch(call.interface) or call.interface in (".", ".."):
        text = f'CNI_IFNAME "{call.interface}" cannot be an interface: 1 to 15 characters'
        raise CniError(BAD_VARIABLES, text)
    if not call.namespace and call.command != "DEL":
        raise CniError(BAD_VARIABLES, "CNI_NETNS is not set")


def result(call: Call, host: str, host_mac: str, mac: str, addresses: list[str]) -> dict[str, Any]:
    """Of an ADD: two ends of a cable, and the container's addresses with their way out."""
    versions = sorted({ip_interface(address).version for address in addresses})
    sandbox = call.variables.get("CNI_NETNS", "")  # as the runtime calls it
    mtu = {"mtu": call.mtu} if call.version == "1.1.0" else {}
    found: dict[str, Any] = {
        "cniVersion": call.version,
        "interfaces": [
            {"name": host, "mac": host_mac, **mtu},
            {"name": call.interface, "mac": mac, "sandbox": sandbox, **mtu},
        ],
        "ips": [
            {
                "address": str(ip_interface(address)),
                "gateway": _GATEWAYS[ip_interface(address).version][0],
                "interface": 1,
            }
            for address in addresses
        ],
        "routes": [{"dst": _GATEWAYS[v][1], "gw": _GATEWAYS[v][0]} for v in versions],
    }
    if call.network.get("dns"):
        found["dns"] = call.network["dns"]
    return found
