# SPDX-License-Identifier: Apache-2.0
"""`python -m flowferry_p4.agent.prepare`: what a node needs before its switch can run there.

The CNI plugin and its configuration are put where the container runtime looks for them, and the
node's own address moves from the uplink, whose packets the switch takes, to a cable between the
switch and the node's kernel. Everything can be repeated, and taken back.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from flowferry_p4.cni import plugin

from .links import GATEWAYS

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_BY_VERSION = {ip_address(gateway).version: gateway for gateway in GATEWAYS}
_ONLINK = 0x04
_NODAD = 0x02
# BMv2 computes no checksums and knows no segments.
_OFFLOADS = [part for name in ("tx", "rx", "gso", "gro", "tso") for part in (name, "off")]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flowferry_p4.agent.prepare",
        description="Prepare a node for its P4 switch, or take that back.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--remove", action="store_true", help="take back what was prepared")
    cni = parser.add_argument_group("CNI")
    cni.add_argument("--cni-plugins", type=Path, metavar="DIRECTORY")
    cni.add_argument("--cni-network", type=Path, metavar="FILE", help="the network's configuration")
    cni.add_argument("--cni-configuration", type=Path, metavar="FILE", help="where it goes")
    cni.add_argument("--address-manager", type=Path, metavar="FILE", help="goes to the plugins")
    node = parser.add_argument_group("the node")
    node.add_argument("--uplink", metavar="IFACE", help="the interface that the switch takes over")
    node.add_argument("--host-cable", metavar="IFACE", help="the kernel's end of its cable")
    node.add_argument("--data-address", action="append", default=[], metavar="ADDRESS")
    node.add_argument("--reach", action="append", default=[], metavar="NETWORK")
    node.add_argument("--mtu", type=int, default=1500, help="of that cable")
    node.add_argument("--offloads-off", action="store_true", help="for a switch that has none")
    return parser.parse_args(arguments)


def switch_end(cable: str) -> str:
    """The end that becomes a port of the switch."""
    return f"{cable}p"


def install(options: argparse.Namespace) -> None:
    """Files that are replaced are replaced as a whole: the runtime may run them at any time."""
    if options.cni_plugins:
        _replace(options.cni_plugins / "flowferry", Path(plugin.__file__).read_bytes(), 0o755)
        if options.address_manager:
            name = options.address_manager.name
            _replace(options.cni_plugins / name, options.address_manager.read_bytes(), 0o755)
    if options.cni_configuration and options.cni_network:
        _replace(options.cni_configuration, options.cni_network.read_bytes(), 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that the runtime takes for no configuration: it reads *.conf, *.conflist and *.json.
    partial = path.with_name(f".{path.name}.new")
    partial.write_bytes(content)
    partial.chmod(mode)
    partial.replace(path)


def uninstall(options: argparse.Namespace) -> None:
    """The configuration first: nothing asks for a plugin that is gone."""
    found = [options.cni_configuration] if options.cni_configuration else []
    if options.cni_plugins:
        found.append(options.cni_plugins / "flowferry")
        if options.address_manager:
            found.append(options.cni_plugins / options.address_manager.name)
    for path in found:
        path.unlink(missing_ok=True)


def connect(ipr: IPRoute, options: argparse.Namespace) -> None:
    """The node's kernel at a port of its switch, with the node's addresses."""
    cable, peer = options.host_cable, switch_end(options.host_cable)
    if not ipr.link_lookup(ifname=cable):
        ipr.link("add", ifname=cable, kind="veth", peer={"ifname": peer})
    index = _index(ipr, cable)
    for name in (peer, cable):
        ipr.link("set", index=_index(ipr, name), mtu=options.mtu, state="up")
    for address in options.data_address:
        _move_address(ipr, address, options.uplink, index)
    for text in options.reach:
        network = ip_network(text)
        ipr.route(
            "replace",
            family=_FAMILIES[network.version],
            dst=str(network),
            gateway=_BY_VERSION[network.version],
            oif=index,
            flags=_ONLINK,
            **_source(options.data_address, network.version),
        )


def _source(addresses: Sequence[str], version: int) -> dict[str, Any]:
    """What the kernel speaks to pods with: pods answer to where the switch leads."""
    own = [address for address in addresses if ip_address(address).version == version]
    return {"prefsrc": own[0]} if own else {}


def _move_address(ipr: IPRoute, address: str, uplink: str | None, index: int) -> None:
    """Away from the uplink, on which the kernel hears nothing any more."""
    parsed = ip_address(address)
    if uplink:
        at = _index(ipr, uplink)
        for found in ipr.get_addr(index=at, family=_FAMILIES[parsed.version]):
            if ip_address(found.get_attr("IFA_ADDRESS")) == parsed:
                ipr.addr("del", index=at, address=address, prefixlen=found["prefixlen"])
    flags = {"flags": _NODAD} if parsed.version == 6 else {}
    ipr.addr("replace", index=index, address=address, prefixlen=parsed.max_prefixlen, **flags)


def _index(ipr: IPRoute, name: str) -> int:
    found: list[int] = ipr.link_lookup(ifname=name)
    if not found:
        raise OSError(f"there is no interface {name} on this node")
    return found[0]


def disconnect(ipr: IPRoute, options: argparse.Namespace) -> None:
    """The addresses are the uplink's again, each with its network's routes gone with the cable."""
    for index in ipr.link_lookup(ifname=options.host_cable):
        ipr.link("del", index=index)
    if options.uplink:
        at = _index(ipr, options.uplink)
        for address in options.data_address:
            ipr.addr("replace", index=at, address=address, prefixlen=_bits(address, options.reach))


def _bits(address: str, networks: Sequence[str]) -> int:
    """Of the network that the address is in, as far as that is known."""
    parsed = ip_address(address)
    around = [ip_network(text) for text in networks]
    found = [n.prefixlen for n in around if n.version == parsed.version and parsed in n]
    return max(found, default=parsed.max_prefixlen)


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    try:
        if options.remove:
            uninstall(options)
        else:
            install(options)
        if options.host_cable:
            with IPRoute() as ipr:
                (disconnect if options.remove else connect)(ipr, options)
        if options.offloads_off and not options.remove:
            for name in filter(None, (options.uplink, switch_end(options.host_cable or ""))):
                ethtool = shutil.which("ethtool") or "ethtool"
                subprocess.run([ethtool, "-K", name, *_OFFLOADS], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"flowferry-prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
