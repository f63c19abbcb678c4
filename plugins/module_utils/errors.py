# SPDX-License-Identifier: Apache-2.0
"""The one family of errors of the code that moves workloads."""

from __future__ import annotations


class FlowferryError(Exception):
    """Says what is wrong, where, and what to do. ``code`` is stable, for programs and tests."""

    def __init__(self, code: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def as_dict(self) -> dict[str, str]:
        """The structured ``failure`` that modules return."""
        return {"code": self.code, "message": str(self), "details": self.details}
