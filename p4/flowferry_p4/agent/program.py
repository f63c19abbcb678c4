# SPDX-License-Identifier: Apache-2.0
"""What the programs of this package have in common: a loop, from the command line to a signal."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Protocol

from flowferry_p4.switch.errors import PortError

from .loop import Loop


class Program(Protocol):
    loop: Loop

    def run(self) -> None:
        """Until ``loop.end``."""


def run_program(name: str, make: Callable[[], Program], *, verbose: bool = False) -> int:
    """Make it, say that it is ready, and run it until SIGTERM or SIGINT; the exit code."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        program = make()
    except (PortError, OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: program.loop.end())
    print("ready", flush=True)
    program.run()
    return 0
