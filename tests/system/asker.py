# SPDX-License-Identifier: Apache-2.0
"""Asks a server of the data plane's tests who answers. Standard library only.

    python3 asker.py tcp|udp HOST PORT COUNT     one connection (or socket) for each question
    python3 asker.py knock HOST PORT SECONDS     a datagram every 10 ms; how many were not answered
    python3 asker.py line HOST PORT SIZE         a line so long, by TCP: who answers, and how large
                                                 its segments were
    python3 asker.py datagram HOST PORT SIZE     one so long, in one packet: who answers, and how
                                                 long the answer is
    python3 asker.py keep HOST PORT COUNT        connections that stay, each asked again and again:
                                                 a line on standard input has it say what broke,
                                                 and of whose

It prints JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

KIND, HOST, PORT, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
PATIENCE = 5.0


def by_tcp() -> str:
    with socket.create_connection((HOST, PORT), PATIENCE) as own:
        own.sendall(b"who\n")
        return own.recv(100).decode().strip()


def datagrams() -> socket.socket:
    family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM)


def line() -> dict[str, int]:
    with socket.create_connection((HOST, PORT), PATIENCE) as own:
        own.sendall(b"-" * (int(COUNT) - 1) + b"\n")
        name = own.recv(100).decode().strip()
        # Of segments' payload; timestamps take 12 bytes of it.
        return {name: own.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)}


def datagram() -> dict[str, int]:
    with datagrams() as own:
        # IP_MTU_DISCOVER and its twin for IPv6, for which Python has no names: never in fragments.
        level, name = (socket.IPPROTO_IPV6, 23) if ":" in HOST else (socket.IPPROTO_IP, 10)
        own.setsockopt(level, name, 2)
        own.settimeout(PATIENCE)
        own.connect((HOST, PORT))
        own.send(b"-" * int(COUNT))
        answer = own.recv(65536)
        return {answer.split()[0].decode(): len(answer)}


def by_udp() -> str:
    with datagrams() as own:
        own.settimeout(PATIENCE)
        own.connect((HOST, PORT))
        own.send(b"who")
        return own.recv(100).split()[0].decode()


def ask() -> dict[str, int]:
    found: dict[str, int] = {}
    for _ in range(int(COUNT)):
        try:
            name = by_tcp() if KIND == "tcp" else by_udp()
        except OSError as error:
            name = f"no answer: {error}"
        found[name] = found.get(name, 0) + 1
    return found


def knock() -> dict[str, int]:
    """Answers may come late, on a busy machine; those that never come are lost."""
    heard: set[bytes] = set()
    with datagrams() as own:
        own.connect((HOST, PORT))
        own.settimeout(2)

        def listen() -> None:
            while True:
                try:
                    heard.add(own.recv(2048).split()[1])
                except OSError:
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        sent, end = 0, time.monotonic() + COUNT
        while time.monotonic() < end:
            own.send(b"%d" % sent)
            sent += 1
            time.sleep(0.01)
        listener.join(10)
    return {"sent": sent, "lost": sent - len(heard)}


def keep() -> None:
    kept = [socket.create_connection((HOST, PORT), 10) for _ in range(int(COUNT))]
    names = [_say(one) for one in kept]
    print(json.dumps({"connections": len(kept), "names": sorted(set(names))}), flush=True)
    for _ in sys.stdin:
        now = [_say(one) for one in kept]
        lost: dict[str, int] = {}
        for name in (then for then, name in zip(names, now) if then != name):
            lost[name] = lost.get(name, 0) + 1
        print(json.dumps({"broken": sum(lost.values()), "lost": lost}), flush=True)


def _say(one: socket.socket) -> str:
    one.settimeout(60)
    try:
        one.sendall(b"who\n")
        return one.recv(100).decode().strip()
    except OSError as error:
        return f"broken: {error}"


if KIND == "keep":
    keep()
else:
    kinds = {"knock": knock, "line": line, "datagram": datagram}
    print(json.dumps(kinds.get(KIND, ask)()))
