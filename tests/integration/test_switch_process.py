# SPDX-License-Identifier: Apache-2.0
"""The switch as a process: starting, refusing to start, ending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowferry_p4.switch.__main__ import check_host
from flowferry_p4.switch.errors import ToolMissing

from tests.integration.switch_bench import (
    DEADLINE,
    P4INFO,
    PROGRAM,
    ROOT,
    Controller,
    Names,
    Namespace,
    SwitchProcess,
    bench,
    wait_until,
)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace("ffproc")
    try:
        made.run("ip", "link", "add", "port1", "type", "veth", "peer", "name", "other1")
        yield made
    finally:
        made.remove()


def refusal(namespace: Namespace, *arguments: str, path: str = os.environ["PATH"]) -> str:
    """Standard error of a switch that does not start."""
    python = ["env", f"PATH={path}", sys.executable, "-m", "flowferry_p4.switch"]
    done = subprocess.run(
        namespace.command(*python, *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT / "p4")},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    return done.stderr


def interfaces(namespace: Namespace) -> str:
    return namespace.run("ip", "-o", "link")


# Counts the programs on an interface's tcx ingress; bpftool of Debian 12 does not know tcx.
QUERY = """
import ctypes, socket
ids, count = (ctypes.c_uint32 * 8)(), ctypes.c_uint32(8)
ifindex = socket.if_nametoindex("port1")
ctypes.CDLL("libbpf.so.1").bpf_prog_query(ifindex, 46, 0, None, ids, ctypes.byref(count))
print(count.value)
"""


def programs(namespace: Namespace) -> int:
    """Programs on port1, by tcx or by clsact."""
    on_tcx = int(namespace.run(sys.executable, "-c", QUERY))
    return on_tcx + namespace.run("bpftool", "net").count("clsact/ingress flowferry")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly(namespace: Namespace, tmp_path: Path, number: int) -> None:
    before = interfaces(namespace)
    switch = SwitchProcess(
        namespace, tmp_path / "s", ["1@port1"], "--p4info", str(P4INFO), str(PROGRAM)
    )
    switch.wait_ready()
    assert programs(namespace) == 1
    assert "ffcpu1" in interfaces(namespace)
    code, errors = switch.end(number)
    assert code == 0, errors
    assert programs(namespace) == 0
    assert "ffcpu1" not in interfaces(namespace)
    assert interfaces(namespace).count("\n") == before.count("\n")


def test_ends_with_a_controller_connected(tmp_path: Path) -> None:
    with bench(tmp_path, hosts=1) as made, made.controller() as controller:
        controller.answer()
        assert made.switch.end()[0] == 0
        controller.ended.get(timeout=DEADLINE)


def test_starts_after_a_kill(namespace: Namespace, tmp_path: Path) -> None:
    """A killed switch leaves its veth; programs on tcx links go with the process."""
    program = ("--p4info", str(P4INFO), str(PROGRAM))
    first = SwitchProcess(namespace, tmp_path / "a", ["1@port1"], *program)
    first.wait_ready()
    assert programs(namespace) == 1
    first.end(signal.SIGKILL)
    assert "ffcpu1" in interfaces(namespace)
    wait_until("no program is left", lambda: programs(namespace) == 0)
    second = SwitchProcess(namespace, tmp_path / "b", ["1@port1"])
    second.wait_ready()
    assert second.end()[0] == 0
    assert "ffcpu1" not in interfaces(namespace)


def test_starts_with_a_program(namespace: Namespace, tmp_path: Path) -> None:
    switch = SwitchProcess(
        namespace, tmp_path / "s", ["1@port1"], "--p4info", str(P4INFO), str(PROGRAM)
    )
    switch.wait_ready()
    try:
        with Controller(switch.address, Names.of(P4INFO)) as controller:
            controller.answer()
            controller.insert("hold_to", {"address": "192.0.2.1"}, "buffer")
    finally:
        switch.end()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-i", "1@nowhere", "--no-p4"), "there is no interface nowhere here (present: "),
        (("-i", "port1", "--no-p4"), "'port1' is not a port; write NUMBER@INTERFACE"),
        (("-i", "511@port1", "--no-p4"), "port 511 in '511@port1' is not between 0 and 510"),
        (("-i", "1@port1", "-i", "1@lo", "--no-p4"), "port 1 is given twice: port1 and lo"),
        (("-i", "1@port1", "-i", "2@port1", "--no-p4"), "interface port1 is given as two ports"),
        (("-i", "510@port1", "--no-p4"), "is the CPU port's number"),
        (("-i", "1@port1"), "give a BMv2 JSON with its --p4info, or --no-p4"),
        (("--no-p4", "program.json"), "exclude each other"),
        (("--no-p4", "--grpc-server-ssl"), "needs --grpc-server-cert and --grpc-server-key"),
        (("--no-p4", "--grpc-server-cert", "x"), "the other TLS options need --grpc-server-ssl"),
        (
            ("--no-p4", "--grpc-server-ssl", "--grpc-server-cert", "/x", "--grpc-server-key", "/x"),
            "cannot read /x: No such file",
        ),
        (("--p4info", "/nowhere", "/nowhere"), "cannot read /nowhere: No such file"),
        (("--p4info", str(PROGRAM), str(PROGRAM)), "neither text nor binary P4Info"),
        (("--p4info", str(P4INFO), str(P4INFO)), "the device configuration is not JSON"),
        (("--no-p4", "--grpc-server-addr", "192.0.2.1:9559"), "cannot listen on 192.0.2.1:9559"),
    ],
)
def test_bad_starts(namespace: Namespace, arguments: tuple[str, ...], message: str) -> None:
    before = interfaces(namespace)
    assert message in refusal(namespace, *arguments)
    assert interfaces(namespace).count("\n") == before.count("\n"), "nothing is left behind"


def test_taken_address(namespace: Namespace) -> None:
    code = (
        "import socket\ns = socket.create_server(('127.0.0.1', 9559))\n"
        "print('listening')\ns.accept()\n"
    )
    other = namespace.python(code)
    assert other.stdout is not None
    assert other.stdout.readline() == "listening\n"
    errors = refusal(namespace, "--no-p4", "--grpc-server-addr", "127.0.0.1:9559")
    assert "cannot listen on 127.0.0.1:9559: the address is taken" in errors


def test_second_switch_is_refused(namespace: Namespace, tmp_path: Path) -> None:
    first = SwitchProcess(namespace, tmp_path / "a", ["1@port1"])
    first.wait_ready()
    address = ("--no-p4", "--grpc-server-addr", f"unix:{tmp_path / 'b'}")
    errors = refusal(namespace, *address, "-i", "1@other1")
    assert "device 1 is run by another switch in this network namespace" in errors
    errors = refusal(namespace, *address, "--device-id", "2", "-i", "1@port1")
    assert "interface port1 is a port of another running switch" in errors
    assert "ffcpu1" in interfaces(namespace), "the first one still has its CPU port"
    assert first.end()[0] == 0


def test_clang_missing(namespace: Namespace, tmp_path: Path) -> None:
    errors = refusal(namespace, "--no-p4", path=str(tmp_path))
    assert "clang is not on this host" in errors
    assert "apt-get install clang" in errors


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ToolMissing, match="the switch needs root: it loads BPF programs"):
        check_host()


def test_clsact_where_there_is_no_tcx(namespace: Namespace) -> None:
    """Older kernels refuse the link; the filter does the same and is removed again."""
    code = (
        "import errno, socket, sys\n"
        "from pathlib import Path\n"
        "from flowferry_p4.switch import attach, libbpf\n"
        "from flowferry_p4.switch.dataplane import Dataplane\n"
        "def refuse(*_):\n    raise OSError(errno.EINVAL, 'no tcx')\n"
        "libbpf.create_link = refuse\n"
        "plane = Dataplane.build(Path(sys.argv[1]).read_bytes(), 510)\n"
        "one = attach.Attachment(socket.if_nametoindex('port1'), plane.program_fd)\n"
        "print(one.kind, flush=True)\nsys.stdin.readline()\n"
        "one.replace(plane.program_fd)\n"
        "print('replaced', flush=True)\nsys.stdin.readline()\n"
        "one.detach()\nprint('detached', flush=True)\n"
    )
    process = namespace.python(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'p4')!r})\n{code}", str(PROGRAM)
    )
    assert process.stdout is not None and process.stdin is not None
    for expected, attached in (("clsact", 1), ("replaced", 1), ("detached", 0)):
        got = process.stdout.readline().strip()
        assert got == expected, got or process.communicate(timeout=5)[1]
        assert programs(namespace) == attached
        if attached:
            process.stdin.write("\n")
            process.stdin.flush()
