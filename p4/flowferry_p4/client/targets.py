# SPDX-License-Identifier: Apache-2.0
"""What a migration may rely on at a switch of some kind: flowferry_p4/targets/NAME.yml.

Several of these a switch does not say of itself by P4Runtime, and none of them can be tried without
touching traffic. So they are described, one file a target, and the plan of a migration goes by it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# PyYAML publishes no types; the stubs are a package of their own, for this one call.
import yaml  # type: ignore[import-untyped]

from .errors import BadTarget

_SHIPPED = Path(__file__).resolve().parents[1] / "targets"
_SUFFIX = ".yml"


@dataclass(frozen=True)
class Target:
    """A kind of switch. Everything but the name stands in its file, and has to."""

    name: str
    description: str
    cpu_port: bool
    """Packets can be sent to the controller and back, so that a hold keeps what it holds."""
    packets_per_second: int | None
    """How many of them pass the CPU port without a loss; None where nobody has measured it."""
    modifies_entries: bool
    """MODIFY works on entries of a table, so that a redirect is one change of one entry."""
    atomic_batches: bool
    """Updates of several tables in one WriteRequest can take effect as one."""
    direct_counters: bool
    """Counters of entries can be read."""


def target_names() -> list[str]:
    """The targets that come with this package."""
    return sorted(path.stem for path in _SHIPPED.glob(f"*{_SUFFIX}"))


def load_target(name: str) -> Target:
    """A target by its name, or by the path of a file of one's own, which ends in .yml."""
    path = Path(name) if name.endswith(_SUFFIX) else _SHIPPED / f"{name}{_SUFFIX}"
    if path.parent == _SHIPPED and path.stem not in target_names():
        raise BadTarget(
            f'there is no target "{name}"; targets: {", ".join(target_names())}, or the path of a '
            f"file like theirs, which ends in {_SUFFIX}"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadTarget(f"the target's description cannot be read: {error}") from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Target:
    if not isinstance(content, dict):
        raise BadTarget(f"{path} is not a mapping from names to values, as a target's file is")
    wanted = {field.name: field.type for field in fields(Target) if field.name != "name"}
    if content.keys() != wanted.keys():
        raise BadTarget(
            f"{path} should say {', '.join(wanted)}; "
            f"missing: {_listed(wanted.keys() - content.keys())}, "
            f"unknown: {_listed(content.keys() - wanted.keys())}"
        )
    for key, kind in wanted.items():
        if not _KINDS[str(kind)](content[key]):
            raise BadTarget(f"{path}: {key} should be {_WORDS[str(kind)]}, not {content[key]!r}")
    return Target(name=path.stem, **content)


def _listed(names: set[Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"


_KINDS = {
    "str": lambda value: isinstance(value, str) and bool(value),
    "bool": lambda value: isinstance(value, bool),
    "int | None": lambda value: value is None or (type(value) is int and value > 0),
}
_WORDS = {"str": "a text", "bool": "true or false", "int | None": "a number above 0, or null"}
