# SPDX-License-Identifier: Apache-2.0
"""What of the cluster's wishes the switch cannot fulfil, in words for the person who reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that is left out of the tables; everything else is not affected by it."""

    code: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text} ({self.code})"
