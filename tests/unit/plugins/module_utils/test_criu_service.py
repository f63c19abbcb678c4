# SPDX-License-Identifier: Apache-2.0
"""What CRIU is asked, and what becomes of its answer. CRIU is played by a program of that name."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.criu_service import CriuService
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

CRIU = """#!{python}
import socket, sys
sys.path[:0] = {paths}
from pycriu import rpc_pb2 as rpc
assert sys.argv[1] == "swrk"
with socket.socket(fileno=int(sys.argv[2])) as connection:
    data = connection.recv(1 << 16)
    if data:
        request = rpc.criu_req()
        request.ParseFromString(data)
        with open({seen!r}, "w") as file:
            print(request, file=file)
        {behaviour}
    else:
        open({seen!r}, "w").write("nothing was asked")
"""
ANSWERS = "connection.send(rpc.criu_resp(type=request.type, success=True).SerializeToString())"
REFUSES = (
    "open(request.opts.images_dir + '/criu.log', 'w').write("
    "'Error (criu/sk-unix.c:1): unix: no luck\\n'); "
    "connection.send(rpc.criu_resp(type=request.type, success=False).SerializeToString())"
)
DIES = "pass"
HANGS = "import time; time.sleep(5)"


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pycriu: None
) -> Callable[[str], CriuService]:
    """A service whose CRIU behaves as told, and whose `nsenter` enters nothing."""

    def start(behaviour: str) -> CriuService:
        programs = tmp_path / "bin"
        programs.mkdir()
        text = CRIU.format(
            python=sys.executable,
            paths=sys.path,
            seen=str(tmp_path / "seen"),
            behaviour=behaviour,
        )
        for name, content in (("criu", text), ("nsenter", '#!/bin/sh\nshift\nexec "$@"\n')):
            (programs / name).write_text(content)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        return CriuService(Path("/run/netns/it"), tmp_path)

    (tmp_path / "cgroup.procs").touch()
    return start


def test_a_request_has_the_options(play: Callable[[str], CriuService], tmp_path: Path) -> None:
    service = play(ANSWERS)
    service.dump(tmp_path, 20.0, pid=7, leave_running=True, network_lock="SKIP")
    service.close()
    asked = (tmp_path / "seen").read_text()
    assert "type: DUMP" in asked
    for line in (
        "pid: 7",
        "leave_running: true",
        "network_lock: SKIP",
        f'images_dir: "{tmp_path}"',
    ):
        assert line in asked
    assert (tmp_path / "cgroup.procs").read_text().strip().isdigit()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [(REFUSES, "no luck"), (DIES, "ended without an answer"), (HANGS, "not answer within 0.3 s")],
)
def test_why_it_failed(
    play: Callable[[str], CriuService], tmp_path: Path, behaviour: str, reason: str
) -> None:
    service = play(behaviour)
    with pytest.raises(FlowferryError, match=reason) as raised:
        service.restore(tmp_path, 0.3 if behaviour is HANGS else 20.0)
    assert raised.value.code == "restore_failed"
    service.close()


def test_one_that_is_not_asked_ends(play: Callable[[str], CriuService], tmp_path: Path) -> None:
    service = play(ANSWERS)
    service.close()
    deadline = time.monotonic() + 10
    while not (tmp_path / "seen").exists():
        assert time.monotonic() < deadline, "it has not ended within 10 s"
        time.sleep(0.01)
