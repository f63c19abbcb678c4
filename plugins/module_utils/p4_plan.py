# SPDX-License-Identifier: Apache-2.0
"""From the entries a task wants and those a switch has to the updates between them.

Nothing here talks to a switch. Note that this module util is **PRIVATE** to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

with suppress(ImportError):  # the modules report it, before anything here is used
    from flowferry_p4.client import BadValue, Entry, P4Error, Schema, Table, UnknownName, Update

Ident = tuple[bool, Any]

_REMEDIES = {
    "ALREADY_EXISTS": "somebody else has added it since the table was read; run the task again",
    "NOT_FOUND": "somebody else has removed it since the table was read; run the task again",
    "RESOURCE_EXHAUSTED": "delete entries that are not needed, or enlarge the table in the program",
    "PERMISSION_DENIED": "the program does not let controllers change it",
    "INVALID_ARGUMENT": "check that the p4info and the switch's program are of one build",
    "OUT_OF_RANGE": "check that the p4info and the switch's program are of one build",
    "UNIMPLEMENTED": "this switch cannot do it; see its documentation",
    "UNKNOWN_NAME": "use a name of the p4info; p4_table_info lists them",
    "BAD_VALUE": "correct the entry",
}


_CONTENT = ("action", "params")


@dataclass
class Problem:
    """Why one entry cannot be had. ``index`` counts the task's entries; None is a surplus one."""

    index: int | None
    table: str
    key: str
    code: str
    message: str

    @property
    def remedy(self) -> str:
        return _REMEDIES.get(self.code, "see the switch's log")

    def __str__(self) -> str:
        which = f"entries[{self.index}]" if self.index is not None else "entry"
        return f"{which} ({self.key}): {self.code}: {self.message}. Remedy: {self.remedy}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "table": self.table,
            "key": self.key,
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
        }


class BadEntries(Exception):
    """Some entries of the task are wrong; nothing was sent."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = list(problems)


@dataclass
class Change:
    """One update, the task's entry it comes from, and what it changes."""

    update: Update
    index: int | None = None
    before: Entry | None = None

    def as_dict(self) -> dict[str, Any]:
        result = {"kind": self.update.kind, **entry_dict(self.update.entry)}
        if self.update.kind == "DELETE":
            # What it did stands in "before"; a DELETE carries the key only.
            result = {name: value for name, value in result.items() if name not in _CONTENT}
        if self.before is not None:
            result["before"] = entry_dict(self.before)
        return result


@dataclass
class Plan:
    """All updates of a task, in the order of the batch, and the tables before and after."""

    before: list[Entry]
    after: list[Entry]
    changes: list[Change] = field(default_factory=list)


class Planner:
    """Compares what is wanted with what is there, for one state of p4_table."""

    def __init__(self, schema: Schema, state: str, entries: Sequence[Mapping[str, Any]]) -> None:
        self.schema = schema
        self.state = state
        self.entries = entries

    def scope(self, tables: Sequence[str]) -> list[str]:
        """Tables whose content has to be known, by short name."""
        extra = [self.schema.table(name).name for name in tables]
        if self.state == "overridden":
            return [table.name for table in self.schema.tables.values() if _writable(table)]
        named = []
        for raw in self.entries:
            with suppress(UnknownName):  # reported with its index when the entry is read
                named.append(self.schema.table(raw["table"]).name)
        return list(dict.fromkeys([*named, *extra]))

    def plan(self, have: Iterable[Entry], tables: Sequence[str] = ()) -> Plan:
        """The updates from ``have`` to what the task wants."""
        # A default entry without an action is one that the program left out: there is none.
        present = {ident(entry): entry for entry in have if entry.action is not None}
        wanted = self._wanted(present)
        changes = list(self._removals(present, wanted, tables))
        if self.state != "deleted":
            for index, entry in wanted.values():
                change = _towards(entry, present.get(ident(entry)), index)
                if change is not None:
                    changes.append(change)
        after = dict(present)
        for change in changes:
            _apply(self.schema, change.update, after)
        # Sorted, so that what is equal looks equal, whatever order the switch has.
        return Plan(
            sorted(present.values(), key=entry_line),
            sorted(after.values(), key=entry_line),
            changes,
        )

    def _wanted(self, present: Mapping[Ident, Entry]) -> dict[Ident, tuple[int, Entry]]:
        wanted: dict[Ident, tuple[int, Entry]] = {}
        problems = []
        for index, raw in enumerate(self.entries):
            try:
                entry = self._complete(raw, present)
                first = wanted.setdefault(ident(entry), (index, entry))[0]
                if first != index:
                    raise BadValue(f"it repeats entries[{first}]; keep one of them")
            except P4Error as error:
                problems.append(_problem(index, raw, error))
        if problems:
            raise BadEntries(problems)
        return wanted

    def _complete(self, raw: Mapping[str, Any], present: Mapping[Ident, Entry]) -> Entry:
        """The task's entry in its normal form; merging takes what it leaves out from the switch."""
        entry = entry_from(raw)
        table = self.schema.table(entry.table)
        if not _writable(table):
            raise BadValue(f'table "{table.name}" is constant: its entries are part of the program')
        if self.state == "deleted":
            if entry.is_default and table.initial_default is None:
                raise BadValue(
                    "the p4info does not tell the program's default action; set the one you want "
                    "with state merged"
                )
            entry.action, entry.params = None, {}
            return self.schema.normalise(entry)
        if self.state == "merged":
            bare = Entry(entry.table, entry.match, priority=entry.priority)
            bare.is_default = entry.is_default
            there = present.get(ident(self.schema.normalise(bare)))
            if there is not None:
                _fill(self.schema, table, entry, there)
        if entry.action is None:
            raise BadValue("no action is given, and there is no such entry to take it from")
        return self.schema.normalise(entry)

    def _removals(
        self,
        present: Mapping[Ident, Entry],
        wanted: Mapping[Ident, tuple[int, Entry]],
        tables: Sequence[str],
    ) -> Iterable[Change]:
        """Entries that have to go: named ones, or those that are not named, by state."""
        emptied = {self.schema.table(name).name for name in tables}
        if self.state == "replaced":
            emptied.update(entry.table for _, entry in wanted.values())
        for key, entry in present.items():
            index = wanted[key][0] if key in wanted else None
            if self.state == "deleted":
                doomed = index is not None or (entry.table in emptied and not entry.is_default)
            elif self.state == "replaced":
                doomed = index is None and entry.table in emptied and not entry.is_default
            else:
                doomed = self.state == "overridden" and index is None
            if doomed and not entry.is_const:
                change = self._removal(entry, index)
                if change is not None:
                    yield change

    def _removal(self, entry: Entry, index: int | None) -> Change | None:
        if not entry.is_default:
            return Change(Update("DELETE", entry), index, entry)
        table = self.schema.table(entry.table)
        if table.const_default or table.initial_default in (None, entry):
            # Where the p4info does not tell the program's default, nobody can say whether this
            # is it; _complete() has refused to delete such a one by name.
            return None
        return Change(Update("MODIFY", Entry(entry.table, is_default=True)), index, entry)


def ident(entry: Entry) -> Ident:
    """What two entries share when they are one and the same."""
    return entry.is_default, entry.key


def entry_from(raw: Mapping[str, Any]) -> Entry:
    """An entry as a task writes it."""
    return Entry(
        table=raw["table"],
        match=dict(raw.get("match") or {}),
        action=raw.get("action"),
        params=dict(raw.get("params") or {}),
        priority=raw.get("priority") or 0,
        is_default=bool(raw.get("default")),
    )


def entry_dict(entry: Entry) -> dict[str, Any]:
    """An entry as a task may write it: what is returned can be given back."""
    result: dict[str, Any] = {"table": entry.table}
    if entry.is_default:
        result["default"] = True
    else:
        result["match"] = dict(entry.match)
    if entry.priority:
        result["priority"] = entry.priority
    if entry.action is not None:
        result["action"] = entry.action
        result["params"] = dict(entry.params)
    if entry.counter is not None:
        result["counter"] = {"packets": entry.counter.packets, "bytes": entry.counter.bytes}
    return result


def entry_line(entry: Entry) -> str:
    """An entry in one line, for diffs."""
    params = ", ".join(f"{name}={value}" for name, value in entry.params.items())
    return f"{entry.label} -> {entry.action}({params})"


def diff_text(entries: Iterable[Entry]) -> str:
    """Entries as the text of one side of a diff."""
    return "".join(f"{entry_line(entry)}\n" for entry in entries)


def refused(
    schema: Schema, changes: Sequence[Change], errors: Sequence[tuple[int, str, str]]
) -> list[Problem]:
    """The switch's errors as problems of the task's entries."""
    problems = []
    for number, code, message in errors:
        if number < 0:
            problems.append(Problem(None, "", "the whole batch", code, message))
            continue
        change = changes[number]
        table = schema.table(change.update.entry.table)
        if code == "RESOURCE_EXHAUSTED":
            message = f"{message}; the program gives the table room for {table.size} entries"
        problems.append(Problem(change.index, table.name, change.update.label, code, message))
    return problems


def _problem(index: int, raw: Mapping[str, Any], error: P4Error) -> Problem:
    code = "UNKNOWN_NAME" if isinstance(error, UnknownName) else "BAD_VALUE"
    return Problem(index, raw["table"], entry_from(raw).label, code, str(error))


def _writable(table: Table) -> bool:
    return not table.is_const and not table.uses_profile


def _fill(schema: Schema, table: Table, entry: Entry, there: Entry) -> None:
    """Take action and parameters that the task leaves out from the entry that is there."""
    if entry.action is None:
        entry.action = there.action
    if schema.action(table, entry.action or "").name == there.action:
        entry.params = {**there.params, **entry.params}


def _towards(entry: Entry, there: Entry | None, index: int) -> Change | None:
    if there is None and not entry.is_default:
        return Change(Update("INSERT", entry), index)
    if there == entry:
        return None
    return Change(Update("MODIFY", entry), index, there)


def _apply(schema: Schema, update: Update, entries: dict[Ident, Entry]) -> None:
    """What the table holds once the update is done."""
    entry = update.entry
    if update.kind == "DELETE":
        del entries[ident(entry)]
    elif entry.is_default and entry.action is None:
        initial = schema.table(entry.table).initial_default
        assert initial is not None, "only planned where the program's default is known"
        entries[ident(entry)] = initial
    else:
        entries[ident(entry)] = entry
