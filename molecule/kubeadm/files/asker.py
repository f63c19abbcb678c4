# SPDX-License-Identifier: Apache-2.0
"""Count in Redis by one connection until a file is there: python3 asker.py ADDRESS FILE."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

address, file = sys.argv[1], Path(sys.argv[2])
asked = 0
deadline = time.monotonic() + 900
with socket.create_connection((address, 6379), 60) as connection:
    while not file.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"{file} has not come")
        connection.sendall(b"INCR asked\r\n")
        answer, asked = connection.recv(64), asked + 1
        if answer != b":%d\r\n" % asked:
            raise SystemExit(f"the answer to request {asked} was {answer!r}")
        time.sleep(0.05)
print(f"{asked} answers")
