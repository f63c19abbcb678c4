# SPDX-License-Identifier: Apache-2.0
"""`python -m flowferry_p4.switch.fuzz PROGRAM.json ...`: look for differences."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import SwitchError
from ..interpreter import Unsupported
from ..pipeline import config_from_files
from ..rpc_errors import RpcFailure
from ..stf.targets import EmbeddedSwitch, enter_namespace
from .compare import PORTS, Comparison


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flowferry_p4.switch.fuzz",
        description="Send random packets through random entries, compiled and interpreted.",
        epilog="Exit status: 0 no difference, 1 a difference, 2 a program could not be run.",
    )
    parser.add_argument("programs", nargs="+", type=Path, metavar="PROGRAM.json")
    parser.add_argument("--seconds", type=float, default=20, help="for all programs (default: 20)")
    parser.add_argument("--rounds", type=int, help="instead: rounds of each program")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (default: 1)")
    return parser.parse_args(arguments)


def fuzz(
    program: Path, target: EmbeddedSwitch, seconds: float, options: argparse.Namespace
) -> tuple[int, list[str]]:
    """Rounds of one program, and what the last of them found."""
    config = config_from_files(
        program.with_suffix(".p4info.txtpb").read_bytes(), program.read_bytes()
    )
    comparison = Comparison(config, target)
    end = time.monotonic() + seconds
    for number in itertools.count():
        enough = number >= options.rounds if options.rounds else time.monotonic() > end
        if enough and number:
            return number, []
        seed = options.seed + number
        problems = comparison.round(seed)
        if problems:
            return number, [f"seed {seed} differs", *problems]
    raise AssertionError("unreachable: the loop has no end of its own")


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    logging.getLogger("flowferry_p4.switch").setLevel(logging.ERROR)
    try:
        enter_namespace()
        target = EmbeddedSwitch(PORTS, framed=True)
    except SwitchError as error:
        print(f"flowferry-fuzz: {error}", file=sys.stderr)
        return 2
    worst = 0
    share = options.seconds / len(options.programs)
    try:
        for program in options.programs:
            try:
                rounds, problems = fuzz(program, target, share, options)
                print(
                    f"{program.name}: {rounds} rounds without a difference", *problems, sep="\n  "
                )
                worst = max(worst, 1 if problems else 0)
            except Unsupported as reason:
                print(f"{program.name}: skipped, {reason}")
            except (RpcFailure, SwitchError, OSError) as error:
                print(f"{program.name}: {error}", file=sys.stderr)
                worst = 2
    finally:
        target.close()
    return worst


if __name__ == "__main__":
    sys.exit(main())
