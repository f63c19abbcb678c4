# SPDX-License-Identifier: Apache-2.0
"""`python -m flowferry_p4.agent.controller`: what is done once for a cluster, not on each node.

It gives outside addresses to Services, and leads a switch at the edge, if there is one, to nodes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from flowferry_p4.client import Session

from .edge import EdgeSettings, keep
from .loop import Loop
from .metrics import Metrics, serve
from .pools import Gift, Pool, give
from .program import run_program
from .reconcile import Result
from .session import add_tls_arguments, open_session, tls_of
from .watch import Watched, connect

log = logging.getLogger("flowferry_p4.agent")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flowferry_p4.agent.controller",
        description="Give Services outside addresses, and lead a switch at the edge to nodes.",
        fromfile_prefix_chars="@",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server")
    where.add_argument("--in-cluster", action="store_true", help="by a pod's service account")
    parser.add_argument(
        "--pool", action="append", default=[], metavar="FIRST-LAST", help="addresses to give"
    )
    edge = parser.add_argument_group("the switch at the edge")
    edge.add_argument("--edge", metavar="HOST:PORT", help="its P4Runtime server")
    edge.add_argument("--edge-device-id", type=int, default=1)
    add_tls_arguments(edge, "edge")
    edge.add_argument("--edge-mac", default="02:ff:00:00:00:01", help="its own link address")
    edge.add_argument("--edge-port", action="append", default=[], metavar="NODE=PORT")
    parser.add_argument("--metrics", default="127.0.0.1:9561", metavar="HOST:PORT")
    parser.add_argument("--resync", type=float, default=30.0, metavar="SECONDS")
    return parser.parse_args(arguments)


class Controller:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._pools = [Pool.parse(text) for text in options.pool]
        pairs = [text.partition("=") for text in options.edge_port]
        ports = {node: int(port) for node, _, port in pairs}
        self._edge = EdgeSettings(options.edge_mac, ports)
        self._session: Session | None = None
        self.metrics = Metrics()
        self.loop = Loop(self._pass, self.metrics, options.resync)
        self._api = connect(options.kubeconfig)
        self._watched = Watched(self._api, self.loop.wake)
        host, _, port = options.metrics.rpartition(":")
        self._server = serve(host, int(port), self.metrics)

    def _pass(self) -> tuple[Result, int]:
        if not self._watched.synced:
            raise OSError("the API server has not told everything yet, so nothing is written")
        cluster = self._watched.cluster()
        gifts, problems = give(cluster.services, self._pools) if self._pools else ([], [])
        for gift in gifts:
            self._hand_over(gift)
        result = Result(0, 0, [], [])
        if self._options.edge:
            result = keep(self._switch(), cluster, self._edge)
        return Result(result.writes, result.entries, [*result.problems, *problems], []), 0

    def _hand_over(self, gift: Gift) -> None:
        namespace, _, name = gift.service.partition("/")
        ingress = [{"ip": address, "ipMode": "VIP"} for address in gift.addresses]
        body = {"status": {"loadBalancer": {"ingress": ingress}}}
        try:
            client.CoreV1Api(self._api).patch_namespaced_service_status(name, namespace, body)
        except ApiException as error:
            if error.status == 404:  # deleted meanwhile, which is told next
                return
            raise OSError(f"Service {gift.service} was given no address: {error}") from error
        log.info("Service %s has %s now", gift.service, ", ".join(gift.addresses))

    def _switch(self) -> Session:
        """An open session. A switch that was started again needs another."""
        if self._session is None or self._session.closed.is_set():
            if self._session is not None:
                self._session.close()
            self._session = None
            device = self._options.edge_device_id
            tls = tls_of(self._options, "edge")
            self._session = open_session(self._options.edge, device_id=device, tls=tls)
        return self._session

    def run(self) -> None:
        """Until ``loop.end``."""
        try:
            self.loop.run()
        finally:
            if self._session is not None:
                self._session.close()
            self._watched.end()
            self._server.shutdown()


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    return run_program("flowferry-controller", lambda: Controller(options))


if __name__ == "__main__":
    sys.exit(main())
