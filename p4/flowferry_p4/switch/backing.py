# SPDX-License-Identifier: Apache-2.0
"""Where the stores of a pipeline keep what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from .libbpf import Maps
from .notebook import Notebook


@dataclass(frozen=True)
class Backing:
    """The maps that packets see, and notes of what these do not hold."""

    maps: Maps
    notes: Notebook
    resumed: bool = False
    """The maps were filled by a process before this one: stores begin with what is there."""
