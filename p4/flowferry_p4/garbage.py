# SPDX-License-Identifier: Apache-2.0
"""How often Python looks for cycles of objects that nobody uses any more.

By default after each 700 new objects, at times among all that there are. A switch and its agent
have hundreds of thousands, of entries, that live long and are in no cycle: to look through them was
a quarter of the time of writing them.
"""

from __future__ import annotations

import gc

_NEW_OBJECTS = 50_000


def look_less_often() -> None:
    """For a process that keeps many entries."""
    gc.set_threshold(_NEW_OBJECTS, 20, 50)
