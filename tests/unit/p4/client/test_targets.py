# SPDX-License-Identifier: Apache-2.0
"""Descriptions of targets: those that come with the package, and what one's own may get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from flowferry_p4.client.errors import BadTarget
from flowferry_p4.client.targets import load_target, target_names

PROJECT = Path(__file__).resolve().parents[4] / "p4" / "pyproject.toml"
GOOD: dict[str, Any] = {
    "description": "a switch of our own",
    "cpu_port": False,
    "packets_per_second": None,
    "modifies_entries": True,
    "atomic_batches": False,
    "direct_counters": True,
}


@pytest.fixture
def described(tmp_path: Path) -> Any:
    """Writes a description and loads it."""

    def load(content: object) -> Any:
        path = tmp_path / "ours.yml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return load_target(str(path))

    return load


def test_the_targets_that_there_are() -> None:
    assert target_names() == ["bluefield", "bmv2", "embedded", "tofino2"]
    targets = [load_target(name) for name in target_names()]
    assert [target.name for target in targets] == target_names()
    # What the plan goes by: these four are not all the same.
    assert [target.modifies_entries for target in targets] == [False, True, True, True]
    assert all(target.cpu_port for target in targets)


def test_the_page_has_them() -> None:
    """The table of docs/targets.md says what the files say."""
    page = (PROJECT.parents[1] / "docs" / "targets.md").read_text()
    for target in map(load_target, target_names()):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{target.name}` |")]
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        flags = [cells[0], cells[2].split(":")[0], cells[3], cells[4]]
        said = (target.cpu_port, target.modifies_entries, target.atomic_batches)
        assert flags == ["yes" if yes else "no" for yes in (*said, target.direct_counters)]
        rate = cells[1].split(":")[0].replace(",", "")
        assert rate == str(target.packets_per_second or "not measured")


def test_they_are_packaged() -> None:
    assert '"targets/*.yml"' in PROJECT.read_text()


def test_one_of_ones_own(described: Any) -> None:
    target = described(GOOD)
    assert (target.name, target.cpu_port) == ("ours", False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**GOOD, "buffers": True}, "missing: nothing, unknown: buffers"),
        ({"cpu_port": True}, "missing: atomic_batches, description"),
        ({**GOOD, "cpu_port": "yes"}, "cpu_port should be true or false, not 'yes'"),
        ({**GOOD, "packets_per_second": True}, "packets_per_second should be a number above 0"),
        ({**GOOD, "packets_per_second": 0}, "packets_per_second should be a number above 0"),
        ({**GOOD, "description": ""}, "description should be a text"),
        (["cpu_port"], "is not a mapping"),
        ("cpu_port: [", "cannot be read"),
    ],
)
def test_a_bad_one_is_refused_with_the_reason(described: Any, content: object, said: str) -> None:
    with pytest.raises(BadTarget) as refused:
        described(content)
    assert said in str(refused.value)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(BadTarget, match='no target "tofino"; targets: bluefield, bmv2, '):
        load_target("tofino")
    with pytest.raises(BadTarget, match="cannot be read"):
        load_target(str(tmp_path / "absent.yml"))
