# SPDX-License-Identifier: Apache-2.0
"""What the ends of a post-copy say to each other.

The destination asks the source for memory: the key of a process, the address, the size.
"""

from __future__ import annotations

import socket
import struct

REQUESTS = "memory requests"
"""Which the receiver is told a connection is for."""
REQUEST = struct.Struct("<IQQ")
START, ALL_HAS_COME = 0xFFFFFFFE, 0xFFFFFFFF
"""Instead of a key: the copy runs; nothing is missing."""


def notice_lost_peer(connection: socket.socket) -> None:
    """Nothing may come for long. A node that is gone is noticed within a quarter of a minute."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 5),
        (socket.TCP_KEEPINTVL, 2),
        (socket.TCP_KEEPCNT, 5),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
