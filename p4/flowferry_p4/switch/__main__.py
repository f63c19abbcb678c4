# SPDX-License-Identifier: Apache-2.0
"""`python -m flowferry_p4.switch`: the embedded switch, with the options of simple_switch_grpc."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from finsy.proto import p4r

from ..garbage import look_less_often
from ..wakeup import Wakeup
from . import libbpf
from .attach import remove_filter
from .clang import find_clang
from .device import Switch
from .errors import PinError, SwitchError, ToolMissing
from .pins import Identity, Pins, unpin
from .pipeline import config_from_files, read_pinned
from .ports import Port, Ports, cpu_interfaces, remove_interface
from .rpc_errors import RpcFailure
from .server import ServerTls, start_server

log = logging.getLogger("flowferry_p4.switch")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flowferry_p4.switch",
        description="Run a BMv2 (v1model) program in the kernel, with a P4Runtime server.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("json", nargs="?", type=Path, help="BMv2 JSON to start with")
    parser.add_argument("-i", "--interface", action="append", default=[], metavar="PORT@IFACE")
    parser.add_argument("--device-id", type=int, default=1)
    parser.add_argument("--grpc-server-addr", default="127.0.0.1:9559", metavar="HOST:PORT")
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--grpc-server-ssl", action="store_true", help="secure the P4Runtime server")
    tls.add_argument("--grpc-server-cert", type=Path, metavar="FILE", help="its certificate (PEM)")
    tls.add_argument("--grpc-server-key", type=Path, metavar="FILE", help="its key (PEM)")
    tls.add_argument(
        "--grpc-server-cacert", type=Path, metavar="FILE", help="who signs clients' certificates"
    )
    tls.add_argument(
        "--grpc-server-with-client-auth",
        action="store_true",
        help="refuse clients without a certificate",
    )
    parser.add_argument("--cpu-port", type=int, default=510)
    parser.add_argument("--no-p4", action="store_true", help="start without a program")
    parser.add_argument("--p4info", type=Path, help="P4Info that belongs to the JSON")
    pinning = parser.add_argument_group("surviving the process")
    pinning.add_argument(
        "--pin",
        type=Path,
        metavar="DIRECTORY",
        help="leave program, entries and ports there; a next process with it goes on with them",
    )
    pinning.add_argument(
        "--unpin", type=Path, metavar="DIRECTORY", help="remove what is there, and end"
    )
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args(arguments)
    if options.unpin:
        return options
    if options.no_p4 and options.json:
        parser.error("--no-p4 and a JSON file exclude each other")
    if not options.no_p4 and not (options.json and options.p4info):
        parser.error("give a BMv2 JSON with its --p4info, or --no-p4")
    _check_tls(parser, options)
    return options


def _check_tls(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    files = ("cert", "key", "cacert")
    if not options.grpc_server_ssl:
        if options.grpc_server_with_client_auth or any(
            getattr(options, f"grpc_server_{name}") for name in files
        ):
            parser.error("the other TLS options need --grpc-server-ssl")
        return
    if not (options.grpc_server_cert and options.grpc_server_key):
        parser.error("--grpc-server-ssl needs --grpc-server-cert and --grpc-server-key")
    if options.grpc_server_with_client_auth and not options.grpc_server_cacert:
        parser.error("--grpc-server-with-client-auth needs --grpc-server-cacert")


def _tls(options: argparse.Namespace) -> ServerTls | None:
    if not options.grpc_server_ssl:
        return None
    return ServerTls(
        options.grpc_server_key,
        options.grpc_server_cert,
        options.grpc_server_cacert,
        options.grpc_server_with_client_auth,
    )


def check_host() -> None:
    """Refuse early what would fail in the middle."""
    if os.geteuid() != 0:
        raise ToolMissing("the switch needs root: it loads BPF programs and opens raw sockets")
    find_clang()
    libbpf.check()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SwitchError(f"cannot read {path}: {error.strerror}") from error


def initial_config(options: argparse.Namespace) -> p4r.ForwardingPipelineConfig | None:
    if options.no_p4:
        return None
    return config_from_files(_read(options.p4info), _read(options.json))


def load_initial(
    switch: Switch, options: argparse.Namespace, config: p4r.ForwardingPipelineConfig | None
) -> None:
    """Go on with what is pinned, or run the program of the command line."""
    resumed = switch.resume()
    if switch.pins:
        switch.pins.name_asked(options.interface, _hash(config))
    if config and not resumed:
        try:
            switch.begin(config)
        except RpcFailure as failure:
            raise SwitchError(f"{options.json}: {failure.message}") from failure


def _hash(config: p4r.ForwardingPipelineConfig | None) -> str:
    return (
        hashlib.sha256(config.SerializeToString(deterministic=True)).hexdigest() if config else ""
    )


def check_pinned(
    pins: Pins, options: argparse.Namespace, config: p4r.ForwardingPipelineConfig | None
) -> None:
    """Refuse what cannot be taken over, before any port changes."""
    state = pins.state
    running, _ = (
        read_pinned(pins, number, options.cpu_port)[0] if number else None
        for number in (state.running, state.saved)
    )
    # A controller may have set another program since; the command line has to be the same.
    if running and config and config != running and _hash(config) != state.asked_program:
        raise PinError(
            f"{pins.directory} has another program than {options.json}, which forwards on; start "
            f"with --no-p4 to go on with it, or remove it with --unpin {pins.directory}"
        )


def open_pins(options: argparse.Namespace) -> Pins | None:
    if not options.pin:
        return None
    return Pins(options.pin.absolute(), Identity.here(options.device_id, options.cpu_port))


def remove_pinned(directory: Path) -> None:
    """--unpin: the program leaves the ports, and everything of it is removed."""
    state = unpin(directory.absolute())
    if state is None:
        return
    if state.identity != Identity.here(state.identity.device, state.identity.cpu_port):
        log.warning("the CPU port stays: it is in another network namespace, if that is there")
        return
    remove_interface(cpu_interfaces(state.identity.device)[0])
    for port in map(Port.parse, state.ports):
        with contextlib.suppress(OSError):  # the interface is gone
            remove_filter(socket.if_nametoindex(port.interface), port.interface in state.own_qdiscs)


def run(options: argparse.Namespace) -> None:
    check_host()
    if options.unpin:
        remove_pinned(options.unpin)
        return
    stop = Wakeup()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.give())
    config = initial_config(options)
    pins = open_pins(options)
    if pins:
        check_pinned(pins, options, config)
    ports = Ports(
        [Port.parse(p) for p in options.interface], options.cpu_port, options.device_id, pins
    )
    try:
        switch = Switch(options.device_id, ports, pins=pins)
    except BaseException:
        ports.close()
        raise
    try:
        load_initial(switch, options, config)
        server, _ = start_server(switch, options.grpc_server_addr, _tls(options))
        log.info("device %d listens on %s", options.device_id, options.grpc_server_addr)
        print("ready", flush=True)
        stop.wait()
        server.stop(grace=0.5).wait(2)
    finally:
        switch.close()


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    look_less_often()
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        run(options)
    except SwitchError as error:
        print(f"flowferry-switch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
