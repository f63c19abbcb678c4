# SPDX-License-Identifier: Apache-2.0
"""`python -m flowferry_p4.switch.stf PROGRAM.json TEST.stf`: run an STF test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import SwitchError
from ..pipeline import config_from_files
from .control import Control, ControlFailed, Names
from .runner import Runner, needs_frames, ports
from .script import Line, parse
from .targets import ADDRESS, DEVICE, Bmv2, EmbeddedSwitch, Target, enter_namespace

PASSED, DIFFERS, IMPOSSIBLE = 0, 1, 2


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flowferry_p4.switch.stf",
        description="Run an STF test of a v1model program in a network namespace of its own.",
        epilog="Exit status: 0 passed, 1 differs, 2 the test could not be run.",
    )
    parser.add_argument("program", type=Path, help="BMv2 JSON")
    parser.add_argument("test", type=Path, help="STF test")
    parser.add_argument("--p4info", type=Path, help="default: PROGRAM.p4info.txtpb beside the JSON")
    parser.add_argument("--bmv2", type=Path, metavar="BINARY", help="drive this simple_switch_grpc")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what the test reads")
    return parser.parse_args(arguments)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SwitchError(f"cannot read {path}: {error.strerror}") from error


def _target(options: argparse.Namespace, lines: Sequence[Line]) -> Target:
    if options.bmv2:
        return Bmv2(options.bmv2, ports(lines))
    return EmbeddedSwitch(ports(lines), needs_frames(lines))


def run(options: argparse.Namespace) -> Runner:
    """Run the test; its problems are the result's."""
    p4info = options.p4info or options.program.with_suffix(".p4info.txtpb")
    config = config_from_files(_read(p4info), _read(options.program))
    lines = parse(_read(options.test).decode("utf-8", errors="replace"))
    enter_namespace()
    target = _target(options, lines)
    try:
        control = Control(ADDRESS, DEVICE, Names(config.p4info))
        try:
            control.load(config.p4_device_config)
            target.take_packets()
            runner = Runner(target, control)
            runner.run(lines)
        finally:
            control.close()
    finally:
        target.close()
    return runner


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    try:
        runner = run(options)
    except ControlFailed as error:
        print(f"{options.test}: {error}", file=sys.stderr)
        return IMPOSSIBLE
    except SwitchError as error:
        print(f"flowferry-stf: {error}", file=sys.stderr)
        return IMPOSSIBLE
    if options.verbose:
        for text in runner.shown:
            print(text)
    for problem in runner.problems:
        print(problem)
    return DIFFERS if runner.problems else PASSED


if __name__ == "__main__":
    sys.exit(main())
