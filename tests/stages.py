# SPDX-License-Identifier: Apache-2.0
"""All stages of `make test`, two chains of them at a time; one exit code and one summary.

Moves wait a lot, so that two chains fit two cores. Whatever a stage prints goes to
tests/output/stages/NAME.log; it is shown when the stage failed. The summary comes last, with the
name and the reason of each test that failed and what the first of them said, so that the end of a
log is enough to know.
"""

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

OUTPUT = Path(__file__).parent / "output" / "stages"

Command = tuple[str, ...]

# Each stage has a lab or namespaces of its own; the two chains are about as long as each other.
CHAINS: tuple[dict[str, Command], ...] = (
    {
        "unit": ("pytest", "tests/unit"),
        "integration": ("pytest", "tests/integration"),
        "pods": ("pytest", "tests/system", "-m", "pods"),
    },
    {
        "system": ("pytest", "tests/system", "-m", "not pods"),
        "molecule": ("molecule", "test", "--all"),
    },
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What pytest, Molecule and Ansible say of something that failed, a line each; Ansible's "Origin" is
# where the task stands.
FAILED = re.compile(
    r"^(FAILED|ERROR) .*|^\S+ +: actions=.*(failed=[1-9]|missing=[1-9]).*"
    r"|.*\[ERROR\]: .*|\W*Origin: .*"
)
# What pytest puts above the tests that failed, and above each of them.
SECTION = re.compile(r"^=+ (ERRORS|FAILURES) =+$")
HEADING = re.compile(r"^_{2,} .* _{2,}$|^=+ .* =+$")
FIRST_LINES = 120


@dataclass(frozen=True)
class Result:
    """How one stage ended."""

    stage: str
    returncode: int
    seconds: float
    lines: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        """A line for each test that failed."""
        return [line for line in self.lines if FAILED.match(line)]

    @property
    def first(self) -> list[str]:
        """The end of what pytest tells of the first test that failed: maybe why others did."""
        sections = [number for number, line in enumerate(self.lines) if SECTION.match(line)]
        if not sections:
            return []
        begin = sections[-1] + 1
        told = itertools.takewhile(lambda line: not HEADING.match(line), self.lines[begin + 1 :])
        return [self.lines[begin], *list(told)[-FIRST_LINES:]]

    def __str__(self) -> str:
        said = next((line.strip("= ") for line in reversed(self.lines) if line.strip()), "nothing")
        end = "passed" if self.returncode == 0 else f"FAILED (exit code {self.returncode})"
        return f"{self.stage}: {end} after {self.seconds:.0f} s: {said}"


def run(stage: str, command: Command) -> Result:
    """Run one stage to its end; its output is in its log."""
    begin = time.monotonic()
    log = OUTPUT / f"{stage}.log"
    with log.open("wb") as out:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "240"},  # pytest cuts reasons to the width of a terminal
            check=False,
        )
    lines = COLOUR.sub("", log.read_text(errors="replace")).splitlines()
    return Result(stage, ended.returncode, time.monotonic() - begin, tuple(lines))


def run_chain(chain: dict[str, Command], results: list[Result], say: threading.Lock) -> None:
    """Run the stages of a chain in turn; one that fails does not keep the next from running."""
    for stage, command in chain.items():
        print(f"{stage}: {' '.join(command)}", flush=True)
        result = run(stage, command)
        with say:
            results.append(result)
            if result.returncode:
                print(*result.lines, sep="\n")
            print(result, flush=True)


def main() -> int:
    """Run everything; 1 if anything failed."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    say = threading.Lock()
    chains = [threading.Thread(target=run_chain, args=(chain, results, say)) for chain in CHAINS]
    for chain in chains:
        chain.start()
    for chain in chains:
        chain.join()
    print(f"\nwhat each stage printed: {OUTPUT.relative_to(Path.cwd())}")
    for result in results:
        print(result, *result.failures, *result.first, sep="\n  ")
    return int(len(results) < sum(map(len, CHAINS)) or any(each.returncode for each in results))


if __name__ == "__main__":
    sys.exit(main())
