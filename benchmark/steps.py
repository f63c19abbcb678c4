# SPDX-License-Identifier: Apache-2.0
"""The steps of a move, each taken alone: CRIU's dump, its images over the network, its restore.

Nothing overlaps, nothing else runs, and nothing is written to a disk. Whatever takes its steps one
after the other takes as long as their sum, and what overlaps them at least as long as the longest.
"""

from __future__ import annotations

import shlex
import subprocess

from demo.lab_control import HOST_NUMBERS, Lab, LabError

from . import switch
from .methods import NAME, NAMESPACE, endpoint

_IMAGES = f"/dev/shm/{NAME}-steps"
_PORT = 9555
_LIMIT = 120.0
"""Seconds that a step may take."""
# In the workload's network namespace, where nobody has to be kept away.
_CRIU = f"nsenter --net=/run/netns/{NAMESPACE} criu"
_OPTIONS = f"--images-dir {_IMAGES} --network-lock skip --tcp-established --log-file criu.log"

# To files of an empty directory: a line with name and size, and the bytes.
_RECEIVE = """
import pathlib, socket, sys
host, port, directory = sys.argv[1:]
with socket.create_server((host, int(port))) as server:
    print("listening", flush=True)
    stream = server.accept()[0].makefile("rwb", buffering=1 << 20)
    for line in iter(stream.readline, b"\\n"):
        name, size = line.decode().split()
        with open(pathlib.Path(directory, name), "wb", buffering=0) as file:
            left = int(size)
            while left:
                left -= file.write(stream.read1(min(left, 1 << 20)))
    stream.write(b"whole\\n")
    stream.flush()
"""
_SEND = """
import pathlib, socket, sys, time
host, port, directory = sys.argv[1:]
began = time.monotonic()
with socket.create_connection((host, int(port))) as stream:
    for path in sorted(pathlib.Path(directory).iterdir()):
        stream.sendall(f"{path.name} {path.stat().st_size}\\n".encode())
        with path.open("rb") as file:
            stream.sendfile(file)
    stream.sendall(b"\\n")
    assert stream.recv(6) == b"whole\\n"
print(time.monotonic() - began)
"""


def take(lab: Lab, source: str, destination: str) -> dict[str, float]:
    """Take Redis, a process, to the other node; each step's milliseconds, as its node tells them.

    Preparing the destination's address, the route and cleaning up are not among them.
    """
    endpoint(lab, destination, "present")
    for node in (source, destination):
        lab.run(node, f"rm -rf {_IMAGES} && mkdir {_IMAGES}")
    pid = lab.run(source, f"ip netns pids {NAMESPACE}")
    _keep_ids_free(lab, source, destination)
    steps = {
        "dump": _timed(lab, source, f"{_CRIU} dump --tree {pid} {_OPTIONS}"),
        "transfer": _transfer(lab, source, destination),
        "restore": _timed(lab, destination, f"{_CRIU} restore --restore-detached {_OPTIONS}"),
    }
    switch.redirect(lab, destination)
    for node in (source, destination):
        lab.run(node, f"rm -rf {_IMAGES}")
    endpoint(lab, source, "absent")
    return steps


def _keep_ids_free(lab: Lab, source: str, destination: str) -> None:
    """What is started on the destination from now on has ids beyond those that are needed there."""
    last = "/proc/sys/kernel/ns_last_pid"
    highest = max(int(lab.run(node, f"cat {last}")) for node in (source, destination))
    lab.run(destination, f"echo {highest + 1000} >{last}")


def _timed(lab: Lab, node: str, command: str) -> float:
    """By the node's clock, so that ssh is no part of it."""
    told = f"began=$EPOCHREALTIME; {command} >&2 && echo $began $EPOCHREALTIME"
    began, ended = lab.run(node, f"bash -c {shlex.quote(told)}").split()
    return round((float(ended) - float(began)) * 1000, 1)


def _transfer(lab: Lab, source: str, destination: str) -> float:
    host = f"198.18.{lab.number}.{HOST_NUMBERS[destination]}"
    receive, send = (
        shlex.join(["python3", "-c", program, host, str(_PORT), _IMAGES])
        for program in (_RECEIVE, _SEND)
    )
    receiver = lab.popen(destination, receive)
    try:
        assert receiver.stdout is not None
        if (told := receiver.stdout.readline().strip()) != "listening":
            raise LabError(f"{destination} does not receive: {told} {receiver.stdout.read()}")
        took = float(lab.run(source, send))
        receiver.wait(_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{destination} still receives after {_LIMIT:g} s") from error
    finally:
        receiver.kill()
    return round(took * 1000, 1)
