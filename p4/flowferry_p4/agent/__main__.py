# SPDX-License-Identifier: Apache-2.0
"""`python -m flowferry_p4.agent`: keeps the switch of this node, and serves the CNI plugin."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from flowferry_p4.cni.operations import Operations
from flowferry_p4.cni.records import Records
from flowferry_p4.cni.server import Server
from flowferry_p4.garbage import look_less_often
from flowferry_p4.switch.errors import PortError
from flowferry_p4.switch.ports import Port

from .links import Attachment, HostPort, Settings, Uplink
from .loop import Loop
from .metrics import Metrics, serve
from .node_switch import NodeSwitch
from .objects import Cluster
from .program import run_program
from .reconcile import Result
from .session import add_tls_arguments, tls_of

log = logging.getLogger("flowferry_p4.agent")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flowferry_p4.agent",
        description="Keep the P4 switch of a node equal to what its cluster says.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--node", required=True, help="this node's name in the cluster")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server")
    where.add_argument("--in-cluster", action="store_true", help="by a pod's service account")
    where.add_argument(
        "--without-cluster", action="store_true", help="serve the node's own pods alone"
    )
    switch = parser.add_argument_group("the switch")
    switch.add_argument("--switch", default="127.0.0.1:9559", metavar="HOST:PORT")
    switch.add_argument("--device-id", type=int, default=1)
    add_tls_arguments(switch, "switch")
    switch.add_argument(
        "--program", type=Path, metavar="DIRECTORY", help="given to a switch that has none (BMv2)"
    )
    switch.add_argument("--uplink", metavar="PORT@IFACE", help="to other nodes and clients")
    switch.add_argument("--next-hop-mac", default="", help="the router behind the uplink")
    switch.add_argument("--routed", action="store_true", help="to other nodes, too, by the router")
    switch.add_argument("--host-port", metavar="PORT@IFACE", help="IFACE: the kernel's own end")
    switch.add_argument("--host-network", action="append", default=[], metavar="NETWORK")
    switch.add_argument("--data-address", action="append", default=[], metavar="ADDRESS")
    switch.add_argument("--gateway-mac", default="02:ff:00:00:00:01")
    switch.add_argument("--no-announce", action="store_true", help="somebody else announces")
    own = parser.add_argument_group("the agent")
    own.add_argument("--socket", type=Path, default=Path("/run/flowferry/agent.sock"))
    own.add_argument("--state", type=Path, default=Path("/run/flowferry/attachments"))
    own.add_argument(
        "--host-root",
        default="",
        metavar="DIRECTORY",
        help="where the node's own files are, for an agent in a container: /proc/1/root",
    )
    own.add_argument("--metrics", default="127.0.0.1:9560", metavar="HOST:PORT")
    own.add_argument("--resync", type=float, default=30.0, metavar="SECONDS")
    own.add_argument("-v", "--verbose", action="store_true")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    uplink = host = None
    if options.uplink:
        port = Port.parse(options.uplink)
        uplink = Uplink(port.number, _mac_of(port.interface), options.next_hop_mac, options.routed)
    if options.host_port:
        port = Port.parse(options.host_port)
        networks = (*options.host_network, *options.data_address)
        host = HostPort(port.number, _mac_of(port.interface), networks)
    announce = not options.no_announce
    return Settings(options.node, options.gateway_mac, uplink, host, announce)


def _mac_of(interface: str) -> str:
    with IPRoute() as ipr:
        for index in ipr.link_lookup(ifname=interface):
            (link,) = ipr.get_links(index)
            return str(link.get_attr("IFLA_ADDRESS"))
    raise PortError(f"there is no interface {interface} on this node")


@dataclass
class Source:
    """Where the cluster comes from; without one there are the node's own pods."""

    cluster: Callable[[], Cluster]
    ready: Callable[[], bool]
    tell: Callable[[], None]
    end: Callable[[], None]


def source_of(options: argparse.Namespace, settings: Settings, wake: Callable[[], None]) -> Source:
    if options.without_cluster:
        return Source(Cluster, lambda: True, lambda: None, lambda: None)
    from .watch import Watched, connect  # the client of Kubernetes takes a second to import

    watched = Watched(connect(options.kubeconfig), wake)

    def tell() -> None:
        if settings.uplink:
            watched.annotate(options.node, settings.uplink.mac, tuple(options.data_address))

    return Source(watched.cluster, lambda: watched.synced, tell, watched.end)


class Agent:
    """Everything of the process, in the order in which it starts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._stack = ExitStack()
        settings = settings_of(options)
        self.metrics = Metrics()
        self.records = Records(options.state)
        self.loop = Loop(self._pass, self.metrics, options.resync)
        self.source = source_of(options, settings, self.loop.wake)
        self._stack.callback(self.source.end)
        self.switch = NodeSwitch(
            options.switch,
            options.device_id,
            settings,
            lambda: self.source.cluster(),
            self.loop.wake,
            options.program,
            options.resync,
            tls_of(options, "switch"),
        )
        self._stack.callback(self.switch.close)
        self.operations = Operations(self.records, self.switch)
        host, _, port = options.metrics.rpartition(":")
        self._stack.callback(serve(host, int(port), self.metrics).shutdown)
        server = Server(options.socket, self.operations, self._called, options.host_root)
        self._stack.callback(server.close)

    def _pass(self) -> tuple[Result, int]:
        if not self.source.ready():
            raise OSError("the API server has not told everything yet, so nothing is written")
        self.operations.collect()
        self.source.tell()
        pods = 0

        def attachments() -> list[Attachment]:
            nonlocal pods
            found = [record.attachment for record in self.records.all()]
            pods = len(found)
            return found

        return self.switch.reconcile(attachments), pods

    def _called(self, command: str, code: int, seconds: float) -> None:
        self.metrics.called(command, code, seconds)
        if command in ("ADD", "DEL", "GC"):
            self.loop.wake()

    def run(self) -> None:
        """Until ``loop.end``."""
        try:
            self.loop.run()
        finally:
            self._stack.close()


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    look_less_often()
    return run_program("flowferry-agent", lambda: Agent(options), verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
