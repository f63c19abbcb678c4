# SPDX-License-Identifier: Apache-2.0
"""What a pod of the data plane's tests serves: its name, by TCP (a line for a line) and by UDP.

By TCP at two ports, as answers of a port have one virtual address. Of both IP versions.

python3 pod_server.py NAME
"""

from __future__ import annotations

import socket
import sys
import threading

NAME = sys.argv[1].encode()


def talk(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as lines:
        for _ in lines:
            connection.sendall(NAME + b"\n")


def answer() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
        own.bind(("::", 8053))
        while True:
            question, client = own.recvfrom(65536)
            # As long as the question, for questions about how long a datagram can be.
            own.sendto((NAME + b" " + question)[: max(len(question), 100)], client)


def serve(port: int) -> None:
    family = socket.AF_INET6
    with socket.create_server(
        ("::", port), family=family, backlog=200, dualstack_ipv6=True
    ) as server:
        while True:
            threading.Thread(target=talk, args=server.accept()[:1], daemon=True).start()


threading.Thread(target=answer, daemon=True).start()
threading.Thread(target=serve, args=(8081,), daemon=True).start()
serve(8080)
