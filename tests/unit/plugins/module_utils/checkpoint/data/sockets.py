# SPDX-License-Identifier: Apache-2.0
"""A program with one inet socket of each kind, at 192.0.2.1 and 2001:db8::1; see README.md."""

import signal
import socket

FOUR, SIX = "192.0.2.1", "2001:db8::1"
V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
kept = []


def made(family, kind, address, port, peer=None):
    made_socket = socket.socket(family, kind)
    made_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == V6:
        made_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made_socket.bind((address, port))
    kept.append(made_socket)
    if peer is not None:
        made_socket.connect(peer)
    return made_socket


def listener(family, address, port):
    listening = made(family, TCP, address, port)
    listening.listen()
    return listening


def connection(listening, family, address, port, peer):
    made(family, TCP, address, port, peer)
    kept.append(listening.accept()[0])


connection(listener(V4, FOUR, 1001), V4, FOUR, 1011, (FOUR, 1001))
connection(listener(V6, SIX, 1002), V6, SIX, 1012, (SIX, 1002))
connection(listener(V6, "::", 1003), V4, FOUR, 1013, (FOUR, 1003))  # accepted: ::ffff:192.0.2.1
listener(V4, "0.0.0.0", 1004)
made(V4, UDP, FOUR, 1005)
made(V4, UDP, FOUR, 1006, (FOUR, 1005))
made(V6, UDP, SIX, 1007)
made(V6, UDP, SIX, 1008, (SIX, 1007))
made(V4, TCP, FOUR, 1009)  # bound, and no more
made(V4, UDP, "127.0.0.1", 1010)
print("ready", flush=True)
signal.pause()
