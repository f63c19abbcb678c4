# SPDX-License-Identifier: Apache-2.0
"""A process tree with whatever a plain process can have open: python3 tree.py DIRECTORY.

It has a thread, a child that it talks to by pipes, an appended log, a locked file, a mapped one,
one that was deleted, what the kernel says of it, sockets for TCP and UDP, and much memory, some of
which its child shares. Each round uses all of them; what is asked over either socket is answered
with what they say.
"""

import fcntl
import hashlib
import json
import mmap
import os
import pathlib
import socket
import sys
import threading
import time


def child(requests, answers):
    """Adds up what it is told."""
    total = 0
    while data := os.read(requests, 8):
        total += int.from_bytes(data, "big")
        os.write(answers, total.to_bytes(8, "big"))


def start_child():
    """Its process id, and the ends of the pipes to it and from it."""
    requests, ask = os.pipe()
    told, answers = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ask)
        os.close(told)
        child(requests, answers)
        os._exit(0)
    os.close(requests)
    os.close(answers)
    return pid, ask, told


class Tree:
    def __init__(self, directory):
        shared = os.urandom(16 << 20)
        self.child, self.ask, self.told = start_child()
        self.memory = [shared, os.urandom(256 << 20)]
        self.digests = self.digest()
        self.rounds = self.ticks = 0
        self.log = (directory / "log").open("a")
        self.locked = (directory / "locked").open("w")
        fcntl.flock(self.locked, fcntl.LOCK_EX)
        mapped = directory / "mapped"
        mapped.write_bytes(bytes(4096))
        with mapped.open("r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 4096)
        self.deleted = (directory / "deleted").open("w+")
        (directory / "deleted").unlink()
        own = pathlib.Path("/proc/self/stat")
        self.own = own.open()
        threading.Thread(target=self.tick, daemon=True).start()

    def digest(self):
        """Of its memory, as it is now."""
        return [hashlib.sha256(part).hexdigest() for part in self.memory]

    def tick(self):
        while True:
            time.sleep(0.01)
            self.ticks += 1

    def next_tick(self):
        """Whether the thread goes on."""
        before, deadline = self.ticks, time.monotonic() + 10
        while self.ticks == before and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.ticks > before

    def round(self):
        self.rounds += 1
        for file in (self.log, self.deleted):
            file.write(f"round {self.rounds}\n")
            file.flush()
        self.mapped[:8] = self.rounds.to_bytes(8, "big")
        os.write(self.ask, (1).to_bytes(8, "big"))
        self.deleted.seek(0)
        self.own.seek(0)
        return {
            "rounds": self.rounds,
            "child": int.from_bytes(os.read(self.told, 8), "big"),
            "deleted": self.deleted.read(),
            "thread": self.next_tick(),
            "memory": self.digest() == self.digests,
            "pids": [os.getpid(), self.child],
            "own": int(self.own.read().split()[0]),
        }


def main():
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", 7000))
    listener = socket.create_server(("0.0.0.0", 7000))
    tree = Tree(pathlib.Path(sys.argv[1]))
    connection, _ = listener.accept()
    while connection.recv(1):
        connection.sendall(json.dumps(tree.round()).encode() + b"\n")
        _, client = datagrams.recvfrom(100)
        datagrams.sendto(json.dumps(tree.round()).encode(), client)


main()
