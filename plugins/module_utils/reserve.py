# SPDX-License-Identifier: Apache-2.0
"""Memory that is at hand when clients wait for it.

A virtual machine may give free memory back to its host, page by page, and gets it again only as it
is touched: 3 ms for each megabyte of a checkpoint that is written, and as much where it arrives and
where the copy is restored. What a process has just let go of the kernel gives to the next one.
"""

from __future__ import annotations

import mmap

# More would take longer to let go of than a small workload takes to move (bytes).
_MOST = 64 << 20


class Reserve:
    """So many bytes of it, but not more than are worth it; taken now."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, max(mmap.PAGESIZE, min(size, _MOST)))
        # Large pages would go straight back to the host.
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, len(self._memory), mmap.PAGESIZE):
            self._memory[at] = 1

    def let_go(self) -> None:
        """Somebody needs that much now. May be repeated."""
        self._memory.close()
