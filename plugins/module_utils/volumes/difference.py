# SPDX-License-Identifier: Apache-2.0
"""What has to be done to a copy of a volume to make it what the volume is now.

The steps are in this order: files that have moved within the volume are put aside, what is not
there any more is removed, what is new is made and what has changed is changed, and last the
directories get their attributes, the innermost first. So no step meets what a later one removes,
and a file that was renamed (a log, a database's new version of itself) is not sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from .tree import INODE, Entry


@dataclass
class Known:
    """What the copy has under one name.

    An ``entry`` that the copy itself has told of has no inode: which one it is at the source is not
    known. Nor do its time stamps prove anything, so it is not ``settled``.
    """

    entry: Entry
    digests: bytes = b""
    settled: bool = False


@dataclass
class Steps:
    """The difference, step by step."""

    aside: dict[str, int] = field(default_factory=dict)
    """Files that move: what the copy has them as, and a number to put them aside by."""
    removed: list[str] = field(default_factory=list)
    made: list[tuple[Entry, str | int | None]] = field(default_factory=list)
    """What is new, a directory before what is in it; for a file the other name of it that the copy
    has by then, or the number that it was put aside by."""
    looked_at: list[Entry] = field(default_factory=list)
    """Files whose content may differ; those that were put aside among them."""
    directories: list[Entry] = field(default_factory=list)
    """To give attributes to at the end, the innermost first."""
    others: list[Entry] = field(default_factory=list)
    """Anything else that has other attributes now."""


def parent_of(path: str) -> str:
    """The directory that a name is in."""
    return path.rpartition("/")[0]


def _stays(before: Known | None, now: Entry) -> bool:
    """The copy need not make it anew."""
    if before is None or before.entry.kind != now.kind:
        return False
    if now.kind == "file":
        if before.entry.inode:
            return before.entry.inode == now.inode
        return now.links == 1 and before.entry.links == 1
    return now.kind != "link" or before.entry.target == now.target


def difference(
    known: Mapping[str, Known], now: Mapping[str, Entry], mapped: Collection[int] = ()
) -> Steps:
    """From what the copy has to what there is.

    ``mapped`` are inodes that somebody may write to through memory, which time stamps do not show.
    """
    steps = Steps()
    staying = {path for path, entry in now.items() if _stays(known.get(path), entry)}
    holders = {now[path].inode: path for path in sorted(staying) if now[path].kind == "file"}
    _take_away(steps, known, now, staying, holders)
    _make(steps, now, staying, holders)
    moved = {entry.path for entry, origin in steps.made if isinstance(origin, int)}
    for path in sorted(staying | moved):
        before, entry = known.get(path), now[path]
        unchanged = path in staying and before is not None and before.entry == entry
        if entry.kind == "file":
            certain = unchanged and before is not None and before.settled
            if not certain or entry.inode & INODE in mapped:
                steps.looked_at.append(entry)
        elif entry.kind != "directory" and not unchanged:
            steps.others.append(entry)
    _directories(steps, known, now, staying)
    return steps


def _take_away(
    steps: Steps,
    known: Mapping[str, Known],
    now: Mapping[str, Entry],
    staying: Collection[str],
    holders: Mapping[int, str],
) -> None:
    wanted = {entry.inode for entry in now.values() if entry.kind == "file"} - set(holders)
    for path in sorted(known):
        if path in staying:
            continue
        before = known[path].entry
        if before.kind == "file" and before.inode in wanted and path:
            wanted.discard(before.inode)
            steps.aside[path] = before.inode
        else:
            steps.removed.append(path)
    steps.removed.reverse()


def _make(
    steps: Steps, now: Mapping[str, Entry], staying: Collection[str], holders: dict[int, str]
) -> None:
    aside = set(steps.aside.values())
    for path in sorted(now):
        entry = now[path]
        if path in staying:
            continue
        origin: str | int | None = None
        if entry.kind == "file":
            if entry.inode in holders:
                origin = holders[entry.inode]
            elif entry.inode in aside:
                origin = entry.inode
            holders[entry.inode] = holders.get(entry.inode, path)
        steps.made.append((entry, origin))


def _directories(
    steps: Steps, known: Mapping[str, Known], now: Mapping[str, Entry], staying: Collection[str]
) -> None:
    touched = {parent_of(path) for path in _changed_names(steps)}
    touched |= {""} if steps.aside else set()
    for path in sorted(now, reverse=True):
        entry = now[path]
        if entry.kind != "directory":
            continue
        if path in touched or path not in staying or known[path].entry != entry:
            steps.directories.append(entry)


def _changed_names(steps: Steps) -> Iterator[str]:
    yield from steps.aside
    yield from steps.removed
    for entry, _ in steps.made:
        yield entry.path
