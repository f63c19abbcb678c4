# SPDX-License-Identifier: Apache-2.0
"""Who ends a copy whose memory cannot come any more.

When the last descriptor of its userfaultfd is closed, the kernel gives a process empty pages for
what has not come. A helper that is killed closes its own: so another process has them as well, and
ends the copy before it lets them go.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# Messages: b"h" with a descriptor to hold, b"p" with the path of a group of processes, b"d" when
# nothing is missing. Their end without the last one means that no more will come.
_PROGRAM = """
import os, signal, socket, sys, time
lines, groups = socket.socket(fileno=int(sys.argv[1])), []
while True:
    message, descriptors, _, _ = socket.recv_fds(lines, 4096, 1)
    if message[:1] == b"p":
        groups.append(message[1:].decode())
    elif message[:1] == b"d":
        sys.exit(0)
    elif not message:
        break
if groups:
    open(sys.argv[2], "w").close()
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    pids, killed = [], 0
    for group in groups:
        try:
            pids += [int(line) for line in open(group)]
        except OSError:
            pass
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        except OSError:
            pass
    if not killed:
        break
    time.sleep(0.005)
"""


class Guard:
    """One, for all processes of a copy. If it ends them, the file ``mark`` says so afterwards."""

    def __init__(self, mark: Path) -> None:
        self._lines, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno()), str(mark)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def hold(self, descriptor: int) -> None:
        """Keep this open."""
        socket.send_fds(self._lines, [b"h"], [descriptor])

    def watch(self, group: Path) -> None:
        """What is in this cgroup, too, ends if memory does not come."""
        self._lines.send(b"p" + os.fsencode(group / "cgroup.procs"))

    def is_over(self) -> None:
        """Nothing is missing."""
        with suppress(OSError):
            self._lines.send(b"d")
        self.end()

    def end(self) -> None:
        """Unless it is over, the copy is ended; returns when that is done."""
        self._lines.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30.0)
