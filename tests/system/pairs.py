# SPDX-License-Identifier: Apache-2.0
"""A workload that talks to itself over every kind of socket: python3 pairs.py IPV4 IPV6 STATUS.

It counts what came back over each, in the file STATUS. After the start it asks only its sockets
for addresses, so that it can go on at others.
"""

import json
import pathlib
import socket
import sys
import time

V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM


def made(family, kind, address, port):
    made_socket = socket.socket(family, kind)
    made_socket.settimeout(10)
    made_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == V6:
        made_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made_socket.bind((address, port))
    return made_socket


def tcp_pair(listening_family, listening_address, family, address, port):
    """Both ends of a connection, and what accepted it."""
    listener = made(listening_family, TCP, listening_address, port)
    listener.listen()
    one = made(family, TCP, address, port + 1000)
    one.connect((address, port))
    other = listener.accept()[0]
    other.settimeout(10)
    return one, other, listener


def udp_pair(family, address, port):
    """A connected socket and the one that it is connected to, which is connected to nothing."""
    other = made(family, UDP, address, port)
    one = made(family, UDP, address, port + 1000)
    one.connect((address, port))
    return one, other


def round_trip(one, other, number):
    """There and back."""
    one.send(number)
    if one.type == TCP:
        other.send(other.recv(100))
    else:
        other.sendto(*other.recvfrom(100))
    if one.recv(100) != number:
        sys.exit("another answer came")


def new_connection(listener):
    """At the address that the listening socket has now."""
    with socket.create_connection(listener.getsockname()[:2], 10):
        listener.accept()[0].close()


def main():
    four, six, status = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    one4, other4, listener4 = tcp_pair(V4, four, V4, four, 1001)
    one6, other6, listener6 = tcp_pair(V6, six, V6, six, 1002)
    mapped_one, mapped_other, _listener = tcp_pair(V6, f"::ffff:{four}", V4, four, 1003)
    pairs = {
        "tcp4": (one4, other4),
        "tcp6": (one6, other6),
        "mapped": (mapped_one, mapped_other),
        "udp4": udp_pair(V4, four, 1004),
        "udp6": udp_pair(V6, six, 1005),
    }
    counts = dict.fromkeys([*pairs, "new4", "new6"], 0)
    while True:
        for name, (one, other) in pairs.items():
            round_trip(one, other, b"%d" % counts[name])
            counts[name] += 1
        for name, listener in (("new4", listener4), ("new6", listener6)):
            new_connection(listener)
            counts[name] += 1
        partial = status.with_suffix(".new")
        partial.write_text(json.dumps(counts))
        partial.replace(status)
        time.sleep(0.05)


main()
