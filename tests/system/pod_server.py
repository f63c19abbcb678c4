# SPDX-License-Identifier: Apache-2.0
"""What a pod of the data plane's tests serves: its name, by TCP (a line for a line) and by UDP.

By TCP at two ports, as answers of a port have one virtual address.

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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("", 8053))
        while True:
            question, client = own.recvfrom(2048)
            own.sendto(NAME + b" " + question, client)


def serve(port: int) -> None:
    with socket.create_server(("", port), backlog=200) as server:
        while True:
            threading.Thread(target=talk, args=server.accept()[:1], daemon=True).start()


threading.Thread(target=answer, daemon=True).start()
threading.Thread(target=serve, args=(8081,), daemon=True).start()
serve(8080)
