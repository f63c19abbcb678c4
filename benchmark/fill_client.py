# SPDX-License-Identifier: Apache-2.0
"""Fills Redis with values that cannot be compressed. Standard library only.

python3 fill_client.py HOST PORT MEGABYTES
"""

from __future__ import annotations

import os
import socket
import sys

SIZE = 65536


def main() -> None:
    host, port, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.create_connection((host, port), timeout=30) as connection:
        answers = connection.makefile("rb")
        for number in range(megabytes * 1_000_000 // SIZE):
            words = [b"SET", b"fill:%d" % number, os.urandom(SIZE)]
            parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
            connection.sendall(b"*3\r\n" + b"".join(parts))
            answer = answers.readline()
            if answer != b"+OK\r\n":
                raise SystemExit(f"Redis answered {answer!r}")


if __name__ == "__main__":
    main()
