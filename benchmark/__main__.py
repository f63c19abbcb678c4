# SPDX-License-Identifier: Apache-2.0
r"""The steps of the benchmark. playbooks/benchmark.yml takes them one after the other:

python3 -m benchmark --output docs begin --command 'make bench' --parameters '{}'
python3 -m benchmark --output docs measure --series moves --runtime podman \
    --mover flowferry --moves 20
python3 -m benchmark --output docs report
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from demo.lab_control import LabError

from . import page, records
from .bed import open_lab
from .methods import RUNTIMES
from .series import MOVERS, SERIES, measure

INCOMPLETE = 3
"""Exit status of a report that lacks something that could not be measured."""


def main() -> int:
    arguments = _arguments()
    output: Path = arguments.output
    try:
        return int(STEPS[arguments.step](output, arguments))
    except (LabError, ValueError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1


def _begin(_: Path, arguments: argparse.Namespace) -> int:
    parameters = json.loads(arguments.parameters)
    lab, versions = open_lab(), page.PAGES[arguments.page].versions[arguments.records]
    records.begin(_file(arguments), lab, arguments.command, parameters, versions)
    return 0


def _measure(_: Path, arguments: argparse.Namespace) -> int:
    """What fails is written down, and does not keep the rest from being measured."""
    file = _file(arguments)
    records.read(file)
    wanted = {
        name: getattr(arguments, name) for name in ("series", "runtime", "mover", "moves", "values")
    }
    lab = open_lab()
    try:
        with tempfile.TemporaryDirectory(prefix="flowferry-benchmark-") as journals:
            lab.state = Path(journals)
            measure(file, lab, **wanted)
    except LabError as error:
        what = f"{arguments.series}, {arguments.mover}, {arguments.runtime}"
        records.append(file, "failure", what=what, why=str(error).strip()[-500:])
        print(f"not measured: {what}: {error}")
    return 0


def _report(output: Path, arguments: argparse.Namespace) -> int:
    from .pictures import draw  # matplotlib takes a second to load, and a cache to write

    wanted = page.PAGES[arguments.page]
    directory = output / wanted.name
    results, *others = page.runs(wanted, directory)
    names = draw(results, directory, wanted.pictures)
    (output / f"{wanted.name}.md").write_text(page.page(results, names, wanted.name, others))
    measured = records.read(_file(arguments))
    print("\n".join(page.summary(measured)))
    return INCOMPLETE if measured.failures else 0


STEPS = {"begin": _begin, "measure": _measure, "report": _report}


def _file(arguments: argparse.Namespace) -> Path:
    output: Path = arguments.output
    return output / str(arguments.page) / f"{arguments.records}.jsonl"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m benchmark", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="gets PAGE.md and PAGE/")
    parser.add_argument("--page", choices=sorted(page.PAGES), default="results")
    parser.add_argument(
        "--records",
        choices=sorted({name for one in page.PAGES.values() for name in one.versions}),
        default=page.MAIN,
        help="the file in PAGE/ that this run goes to; crio: a section of the page about pods",
    )
    steps = parser.add_subparsers(dest="step", required=True)
    begin = steps.add_parser("begin", help="start a new file of records")
    begin.add_argument("--command", required=True, help="how the benchmark was started")
    begin.add_argument("--parameters", default="{}", help="its sizes, as JSON")
    one = steps.add_parser("measure", help="some moves of one kind")
    one.add_argument("--series", choices=sorted(SERIES), required=True)
    one.add_argument("--runtime", choices=sorted(RUNTIMES), required=True)
    one.add_argument("--mover", choices=sorted(MOVERS), required=True)
    one.add_argument("--moves", type=int, required=True)
    one.add_argument(
        "--values",
        type=int,
        nargs="+",
        default=[0],
        help="megabytes of the series memory, numbers of the series connections and crowd",
    )
    steps.add_parser("report", help="pictures, page and summary from the records")
    arguments = parser.parse_args()
    if arguments.records not in page.PAGES[arguments.page].versions:
        parser.error(f"the page {arguments.page} has no records {arguments.records}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
