# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a controller and a switch, in words for the person who reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class P4Error(Exception):
    """Base of every error this package raises on purpose."""


class SwitchUnreachable(P4Error):
    """No P4Runtime server answers at the address, or it stopped answering."""


class NotPrimary(P4Error):
    """The session may not write: another controller is the primary one.

    ``primary_election_id`` is the election id of that controller, None when the switch did not say.
    """

    def __init__(self, message: str, primary_election_id: int | None = None) -> None:
        super().__init__(message)
        self.primary_election_id = primary_election_id


class NoPipeline(P4Error):
    """The switch has no forwarding pipeline yet."""


class OtherPipeline(P4Error):
    """The switch runs another pipeline than the one that is needed."""


class BadValue(P4Error):
    """A value does not fit the field, parameter or entry it is meant for."""


class BadTarget(P4Error):
    """The description of a target is missing, or is not one."""


class UnknownName(P4Error):
    """A table, field, action or parameter of that name does not exist in the p4info."""

    def __init__(self, what: str, name: str, known: Iterable[str], where: str = "") -> None:
        choices = sorted(known)
        near = get_close_matches(name, choices, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ";"
        listed = ", ".join(choices) if choices else "none"
        place = f"{where} has" if where else "the p4info has"
        super().__init__(f'{place} no {what} "{name}"{hint} it has: {listed}')
        self.name = name
        self.choices = choices


class WriteError(P4Error):
    """Updates of one WriteRequest were refused.

    ``errors`` lists (index of the update, canonical code such as "ALREADY_EXISTS", message). The
    updates that are not listed were applied. The index is -1 where the switch refused the whole
    request without saying which update it meant; then nothing is known about the others.
    """

    def __init__(
        self, errors: Sequence[tuple[int, str, str]], labels: Sequence[str] | None = None
    ) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(self._line(error, labels) for error in self.errors))

    @staticmethod
    def _line(error: tuple[int, str, str], labels: Sequence[str] | None) -> str:
        index, code, message = error
        if index < 0:
            return f"the switch refused the whole batch: {code}: {message}"
        label = f" ({labels[index]})" if labels is not None else ""
        return f"update {index}{label}: {code}: {message}"
