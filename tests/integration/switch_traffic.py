# SPDX-License-Identifier: Apache-2.0
"""Traffic for the switch's tests: small programs that run inside of a host's namespace.

Each is a script of its own, because a namespace is entered by a process. They print one line that
the test reads.
"""

from __future__ import annotations

import subprocess

from tests.integration.switch_bench import DEADLINE, Host

PING = r"""
import os, socket, struct, sys, time
address, count = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(float(sys.argv[3]))
ident = os.getpid() & 0xffff
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
answers, times = 0, []
for number in range(count):
    body = bytes(range(56))
    head = struct.pack(">BBHHH", 8, 0, 0, ident, number)
    head = struct.pack(">BBHHH", 8, 0, checksum(head + body), ident, number)
    start = time.perf_counter()
    s.sendto(head + body, (address, 0))
    try:
        while True:
            data = s.recv(2048)
            if data[20] == 0 and struct.unpack(">HH", data[24:28]) == (ident, number):
                assert data[28:] == body
                answers += 1
                times.append(time.perf_counter() - start)
                break
    except socket.timeout:
        pass
print(answers, sorted(times)[len(times) // 2] * 1e6 if times else 0)
"""

TCP_SERVER = r"""
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("listening")
c, peer = s.accept()
digest, size = hashlib.sha256(), 0
while data := c.recv(1 << 20):
    digest.update(data)
    size += len(data)
c.sendall(f"{size} {digest.hexdigest()}\n".encode())
c.close()
print("done", peer[0], peer[1])
"""

TCP_CLIENT = r"""
import hashlib, random, socket, sys, time
address, port, megabytes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
block = random.Random(1).randbytes(1 << 20)
s = socket.create_connection((address, port), timeout=20)
print("connected")
if len(sys.argv) > 4:  # one piece first, so that the window is open; then wait for a word
    s.sendall(block)
    sys.stdin.readline()
digest, left = hashlib.sha256(), int(megabytes * (1 << 20))
size, start = left, time.perf_counter()
if len(sys.argv) > 4:
    digest.update(block)
    size += len(block)
while left:
    piece = block[: min(left, len(block))]
    digest.update(piece)
    s.sendall(piece)
    left -= len(piece)
s.shutdown(socket.SHUT_WR)
answer = s.makefile().readline().split()
assert answer == [str(size), digest.hexdigest()], answer
print("ok", size / (time.perf_counter() - start))
"""

UDP_ECHO = r"""
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if len(sys.argv) > 3:
    s.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: no checksum
s.bind((sys.argv[1], int(sys.argv[2])))
print("listening")
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(data, peer)
"""

UDP_CLIENT = r"""
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect((sys.argv[1], int(sys.argv[2])))
if len(sys.argv) > 3:
    s.setsockopt(socket.SOL_SOCKET, 11, 1)
for size in (1, 3, 500, 1400):
    message = bytes(size)
    s.send(message)
    assert s.recv(65536) == message
print("ok", s.getpeername()[0])
"""


def line(process: subprocess.Popen[str]) -> str:
    """The next line a script prints; its error output where it ends instead."""
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    if not text:
        _, errors = process.communicate(timeout=DEADLINE)
        raise AssertionError(f"the script ended early: {errors}")
    return text


def ping(host: Host, address: str, count: int = 3, seconds: float = 5) -> int:
    """Answers to `count` echo requests, each awaited so long."""
    process = host.python(PING, address, str(count), str(seconds))
    answers = int(line(process).split()[0])
    process.wait(DEADLINE)
    return answers


def transfer(
    client: Host, server: Host, megabytes: float, address: str = "", port: int = 7000
) -> float:
    """Send over TCP and verify by hash; the throughput in bytes a second."""
    listener = server.python(TCP_SERVER, server.address, "7000")
    assert line(listener) == "listening"
    sender = client.python(TCP_CLIENT, address or server.address, str(port), str(megabytes))
    assert line(sender) == "connected"
    word, rate = line(sender).split()
    assert word == "ok"
    return float(rate)
