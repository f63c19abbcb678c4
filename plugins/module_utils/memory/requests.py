# SPDX-License-Identifier: Apache-2.0
"""What the destination of a post-copy asks the source for: the key of a process, address, size."""

from __future__ import annotations

import struct

REQUESTS = "memory requests"
"""Which the receiver is told a connection is for."""
REQUEST = struct.Struct("<IQQ")
START, ALL_HAS_COME = 0xFFFFFFFE, 0xFFFFFFFF
"""Instead of a key: the copy runs; nothing is missing."""
