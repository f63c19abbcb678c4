# SPDX-License-Identifier: Apache-2.0
"""The description of a checkpoint as a tree of text, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Mounts that every container has say nothing about this one.
_USUAL = {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}


@dataclass
class _Branch:
    text: str
    inside: list[_Branch] = field(default_factory=list)


def tree(about: dict[str, Any]) -> list[str]:
    """The lines; the first one says what it is a checkpoint of."""
    container = about["container"] or {}
    name = container.get("name") or container.get("id") or about["processes"][0]["command"]
    branches = [
        *_facts(about),
        _Branch("processes", _processes(about["processes"])),
        _Branch("sockets", _leaves(map(_socket, about["sockets"]))),
        _Branch("mounts", _leaves(map(_mount, filter(_is_unusual, about["mounts"])))),
        _Branch("sizes", _leaves(_sizes(about["sizes"]))),
    ]
    shown = [branch for branch in branches if branch.inside or ": " in branch.text]
    return [_printable(f"{name} ({about['kind']})"), *_lines(shown)]


def _lines(branches: list[_Branch], indent: str = "") -> Iterator[str]:
    for number, branch in enumerate(branches, 1):
        last = number == len(branches)
        yield f"{indent}{'└─' if last else '├─'} {_printable(branch.text)}"
        yield from _lines(branch.inside, indent + ("   " if last else "│  "))


def _printable(text: str) -> str:
    """Without what a terminal would obey: names in a checkpoint are the program's choice."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _leaves(texts: Iterable[str]) -> list[_Branch]:
    return [_Branch(text) for text in texts]


def _facts(about: dict[str, Any]) -> Iterator[_Branch]:
    container, versions = about["container"] or {}, about["versions"]
    engine = [versions[key] for key in ("engine", "engine_version", "runtime") if versions[key]]
    facts = {
        "image": container.get("image"),
        "made": container.get("checkpointed"),
        "engine": ", ".join(engine),
        "CRIU": versions["criu"],
        "kernel": versions["kernel"],
        "architecture": versions["architecture"],
        "host name": about["host_name"],
    }
    yield from (_Branch(f"{name}: {value}") for name, value in facts.items() if value)


def _processes(processes: list[dict[str, Any]]) -> list[_Branch]:
    """Children under their parents; a process whose parent is not here stands at the root."""
    branches = {process["pid"]: _Branch(_process(process)) for process in processes}
    roots: list[_Branch] = []
    for process in processes:
        branch = branches[process["pid"]]
        branch.inside[:0] = _leaves(process["sockets"])
        parent = branches.get(process["parent"])
        (roots if parent is None else parent.inside).append(branch)
    return roots


def _process(process: dict[str, Any]) -> str:
    executable = f" ({process['executable']})" if process["executable"] else ""
    threads, descriptors = process["threads"], process["descriptors"]
    return (
        f"{process['pid']} {process['command']}{executable}, threads: {threads}, "
        f"descriptors: {descriptors}"
    )


def _socket(socket: dict[str, Any]) -> str:
    return " ".join(socket[key] for key in ("protocol", "state", "local", "remote") if socket[key])


def _is_unusual(mount: dict[str, Any]) -> bool:
    masked = mount["mountpoint"].startswith(("/proc/", "/sys/"))
    return mount["type"] not in _USUAL and not masked


def _mount(mount: dict[str, Any]) -> str:
    external = ", external" if mount["external"] else ""
    return f"{mount['mountpoint']} ({mount['type']} of {mount['source']}{external})"


def _sizes(sizes: dict[str, int]) -> Iterator[str]:
    yield from (f"{name.replace('_', ' ')}: {size:,} bytes" for name, size in sizes.items())
