# SPDX-License-Identifier: Apache-2.0
"""What cannot be moved is refused, with a message that says what to do, and nothing is touched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flowferry_p4.client import P4Error, Session

from demo.lab_control import ROOT, Lab, Played, wait_for


@pytest.fixture
def untouched(lab: Lab) -> Iterator[None]:
    """After the test Redis is where it was, the same process, and the switch has no trace."""
    where, run_id = lab.location(), lab.run_id()
    yield
    assert lab.traces() == []
    assert lab.journals() == []
    assert (lab.location(), lab.run_id()) == (where, run_id)


pytestmark = pytest.mark.usefixtures("untouched")


def _assert_refused(played: Played, code: str, *words: str) -> None:
    assert played.returncode != 0
    assert played.failure.get("code") == code, played.outcome or played.stdout[-3000:]
    for word in words:
        assert word in played.outcome["msg"], played.outcome["msg"]


@contextmanager
def _until_done(lab: Lab, host: str, do: str, undo: str) -> Iterator[None]:
    """Change something on a host for as long as it takes."""
    lab.run(host, do)
    try:
        yield
    finally:
        lab.run(host, undo)


def test_unknown_workload(lab: Lab) -> None:
    played = lab.migrate(lab.elsewhere(), workload="nobody")
    _assert_refused(played, "unknown_workload", 'no node has a container "nobody"', "podman ps -a")


def test_stopped_container(lab: Lab) -> None:
    make = "podman create --name stopped --network none localhost/redis:lab"
    with _until_done(lab, lab.location(), make, "podman rm stopped"):
        played = lab.migrate(lab.elsewhere(), workload="stopped")
    _assert_refused(played, "not_running", "only a running one can be moved", "podman start")


def test_unknown_destination(lab: Lab) -> None:
    played = lab.migrate("node9")
    assert played.returncode != 0
    message = played.task("Check that the destination is a node")["msg"]
    assert message == 'There is no node "node9" in the inventory; nodes: node1, node2'


def _with_a_node_that_is_down(lab: Lab, directory: Path) -> list[str]:
    more = directory / "more.yml"
    host = f"{{host_number: 13, switch_port: 9, ansible_host: 198.18.{lab.number}.99}}"
    more.write_text(
        f"all: {{children: {{lab: {{children: {{nodes: {{hosts: {{node3: {host}}}}}}}}}}}}}"
    )
    return ["-i", str(ROOT / "inventories" / "lab"), "-i", str(more)]


def test_unreachable_destination(lab: Lab, tmp_path: Path) -> None:
    played = lab.migrate("node3", *_with_a_node_that_is_down(lab, tmp_path))
    _assert_refused(
        played, "unknown_destination", "unknown or unreachable", "nodes that answer: node1, node2"
    )
    assert lab.helpers() == [], "helpers remain on the nodes"


def test_an_unreachable_third_node_is_no_obstacle(lab: Lab, tmp_path: Path) -> None:
    played = lab.migrate(lab.elsewhere(), "--check", *_with_a_node_that_is_down(lab, tmp_path))
    assert played.must_succeed().outcome["plan"]["source"]["name"] == lab.location()


def test_name_taken(lab: Lab) -> None:
    make = "podman create --name redis --network none localhost/redis:lab"
    with _until_done(lab, lab.elsewhere(), make, "podman rm redis"):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(played, "name_taken", "another container", "podman rm redis")


def test_criu_missing(lab: Lab) -> None:
    path = lab.run(lab.elsewhere(), "command -v criu")
    kept = "/root/criu.kept"
    with _until_done(lab, lab.elsewhere(), f"mv {path} {kept}", f"mv {kept} {path}"):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(played, "criu_missing", "criu is not installed; the role criu installs it")


def test_criu_too_old(lab: Lab) -> None:
    path = lab.run(lab.elsewhere(), "command -v criu")
    kept = "/root/criu.kept"
    fake = "#!/bin/sh\\necho Version: 3.17\\n"
    do = f"mv {path} {kept} && printf '{fake}' > {path} && chmod 755 {path}"
    with _until_done(lab, lab.elsewhere(), do, f"mv {kept} {path}"):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(played, "criu_too_old", "criu is 3.17; below 4.2", "the role criu installs")


def test_runtime_that_cannot_restore(lab: Lab) -> None:
    settings = "/etc/containers/containers.conf.d/99-test.conf"
    do = (
        "printf '#!/bin/sh\\nexec runc \"$@\"\\n' > /usr/local/bin/otherc && "
        "chmod 755 /usr/local/bin/otherc && "
        'printf \'[engine]\\nruntime = "otherc"\\n[engine.runtimes]\\n'
        f'otherc = ["/usr/local/bin/otherc"]\\n\' > {settings}'
    )
    with _until_done(lab, lab.elsewhere(), do, f"rm -f {settings} /usr/local/bin/otherc"):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(played, "runtime_cannot_restore", "otherc", 'runtime = "runc"')


def test_another_primary_controller(lab: Lab) -> None:
    with lab.session(primary=True) as other:
        played = lab.migrate(lab.elsewhere())
    _assert_refused(played, "not_primary", f"election id {other.election_id}")


@contextmanager
def _other_switch(lab: Lab) -> Iterator[str]:
    """Another P4Runtime server (device 2) on the switch host; offers its address."""
    script = lab.run("switch", "grep -l flowferry_p4.switch /usr/local/*bin/* | head -1")
    paths = lab.run("switch", f"grep ^PYTHONPATH= {script}")
    command = "python3 -m flowferry_p4.switch --no-p4 --device-id 2"
    log = "/run/other-switch.log"
    process = lab.run(
        "switch",
        f"export {paths}; nohup {command} --grpc-server-addr 0.0.0.0:9560 --cpu-port 510 "
        f">{log} 2>&1 </dev/null & echo $!",
    )
    address = lab.switch_address.replace("9559", "9560")
    try:
        wait_for(lambda: _answers(address), f"a P4Runtime server at {address}")
        yield address
    except AssertionError as error:
        error.add_note(lab.run("switch", f"cat {log}"))
        raise
    finally:
        lab.run("switch", f"kill {process}; rm {log}", check=False)


def _answers(address: str) -> bool:
    try:
        with Session.open(address, device_id=2, primary=False) as session:
            session.pipeline()
    except P4Error:
        return False
    return True


def test_switch_without_a_pipeline(lab: Lab) -> None:
    with _other_switch(lab) as address:
        played = lab.migrate(lab.elsewhere(), p4_switch_address=address, p4_switch_device_id=2)
    _assert_refused(played, "no_pipeline", "it has no pipeline yet; load one first")


def test_switch_with_another_pipeline(lab: Lab) -> None:
    with _other_switch(lab) as address:
        with lab.session() as session:
            ours = session.pipeline(device_config=True)
        assert ours is not None and ours.device_config is not None
        ours.p4info.pkg_info.version = "another"
        with Session.open(address, device_id=2) as session:
            session.set_pipeline(ours.p4info, ours.device_config)
        played = lab.migrate(lab.elsewhere(), p4_switch_address=address, p4_switch_device_id=2)
    _assert_refused(
        played, "other_pipeline", "it runs another pipeline", "load the right one first"
    )


@contextmanager
def _joined(lab: Lab, node: str, command: str) -> Iterator[None]:
    """A command is one of the container's processes, as far as its cgroup goes."""
    container = lab.run(node, "podman container inspect redis --format '{{.Id}}'")
    group = f"/sys/fs/cgroup/freezer/libpod_parent/libpod-{container}/cgroup.procs"
    process = lab.run(node, f"nohup {command} >/dev/null 2>&1 & echo $! >{group}; echo $!")
    with _until_done(lab, node, "true", f"kill {process}"):
        yield


def test_open_device(lab: Lab) -> None:
    """A process of the container has the kernel's log open."""
    node = lab.location()
    with (
        _until_done(lab, node, "mknod /root/log c 1 11", "rm /root/log"),
        _joined(lab, node, "sleep 100 </root/log"),
    ):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(
        played, "open_device", "the device /root/log open", "close it in the application"
    )


def test_link_local_socket(lab: Lab) -> None:
    """A process of the container listens at the link-local address of its network."""
    node = lab.location()
    space = "nsenter --net=/run/netns/ff-redis"
    own = f"{space} ip -6 -o addr show dev eth0 scope link | awk '{{print $4}}' | cut -d/ -f1"
    address = lab.run(node, own)
    assert address.startswith("fe80:")
    script = (
        "import socket, time; s = socket.socket(socket.AF_INET6); "
        f'place = socket.getaddrinfo("{address}%eth0", 9999)[0][4]; '
        "s.bind(place); s.listen(); time.sleep(100)"
    )
    with _joined(lab, node, f"{space} python3 -c '{script}' </dev/null"):
        wait_for(lambda: "9999" in lab.run(node, f"{space} ss -Hltn6"), "it listens at its address")
        played = lab.migrate(lab.elsewhere(), "--check")
    _assert_refused(played, "link_local", address, "have the program use a global address")


def test_process_of_another_user(lab: Lab) -> None:
    """Where root has no right to its limits the kernel refuses CRIU as it does the plan."""
    node = lab.location()
    rights = int(lab.run(node, "awk '/CapBnd/ {print $2}' /proc/self/status"), 16)
    if rights & 1 << 24:
        pytest.skip("root has CAP_SYS_RESOURCE here, so CRIU can dump other users' processes")
    with _joined(lab, node, "setpriv --reuid 65534 --clear-groups sleep 100 </dev/null"):
        played = lab.migrate(lab.elsewhere(), "--check")
    _assert_refused(
        played, "other_user", "runs as user 65534", "Operation not permitted", "CAP_SYS_RESOURCE"
    )


def test_another_processor(lab: Lab) -> None:
    """CRIU's own check refuses: of some features the source's has all, as no processor does."""
    node = lab.location()
    path = lab.run(node, "command -v criu")
    kept = "/root/criu.kept"
    wrapper = f"""#!/usr/bin/python3
import pathlib, subprocess, sys, pycriu
done = subprocess.run(["{kept}", *sys.argv[1:]])
if sys.argv[1:3] == ["cpuinfo", "dump"]:
    path = pathlib.Path(sys.argv[-1], "cpuinfo.img")
    with path.open("rb") as file:
        image = pycriu.images.load(file)
    image["entries"][0]["x86_entry"][0]["capability"][9] = 0xFFFFFFFF
    with path.open("wb") as file:
        pycriu.images.dump(image, file)
sys.exit(done.returncode)
"""
    do = f"mv {path} {kept} && printf %s {shlex.quote(wrapper)} >{path} && chmod 755 {path}"
    with _until_done(lab, node, do, f"mv {kept} {path}"):
        played = lab.migrate(lab.elsewhere(), "--check")
    _assert_refused(
        played,
        "cpu_differs",
        "CPU instruction capabilities do not match run time",
        "move to a node with the same or a newer processor",
    )


@pytest.fixture
def plain(lab: Lab) -> Iterator[tuple[str, str]]:
    """A plain process with a log, in a namespace of its own: its node and its id."""
    node, space = lab.location(), "ff-plain"
    make = (
        f"ip netns add {space} && ip -n {space} link add eth0 type veth peer name eth1 && "
        f"ip -n {space} addr add 198.19.{lab.number}.121/32 dev eth0 && mkdir -p /root/plain && "
        f"cd /root/plain || exit 1; setsid nsenter --net=/run/netns/{space} "
        "sh -c 'exec sleep 1000 3>>/root/plain/log' </dev/null >/dev/null 2>&1 &"
    )
    undo = f"ip netns pids {space} | xargs -r kill; ip netns delete {space}; rm -r /root/plain"
    find = f"ip netns pids {space} 2>/dev/null; test -e /root/plain/log"
    with _until_done(lab, node, make, undo):
        wait_for(lambda: bool(lab.run(node, find, check=False)), "the process runs")
        yield node, lab.run(node, find)


def test_what_a_process_needs_is_taken(lab: Lab, plain: tuple[str, str]) -> None:
    """Its directory is missing on the destination, then its log is there already, then its id."""
    _, process = plain
    there, options = lab.elsewhere(), {"workload": "process:ff-plain"}
    played = lab.migrate(there, "--check", **options)
    _assert_refused(played, "no_file", "the directory /root/plain", "make it there")
    with _until_done(
        lab, there, "mkdir /root/plain; echo mine >/root/plain/log", "rm -r /root/plain"
    ):
        played = lab.migrate(there, "--check", **options)
        _assert_refused(played, "file_taken", "/root/plain/log", "remove or rename it there")
        # The kernel gives the next process the number after the last one.
        take = (
            f"echo {int(process) - 1} >/proc/sys/kernel/ns_last_pid; "
            "nohup sleep 100 </dev/null >/dev/null 2>&1 & echo $!"
        )
        with _until_done(lab, there, "true", f"kill {process}"):
            assert lab.run(there, take) == process
            played = lab.migrate(there, "--check", **options)
    _assert_refused(played, "pid_taken", f"id {process}, which is taken", "by sleep")


def test_external_unix_socket(lab: Lab) -> None:
    """Somebody on the node is connected to a socket of the container."""
    node, space = lab.location(), "ff-sock"
    image = "localhost/redis:lab redis-server --unixsocket /r.sock --unixsocketperm 777"
    make = (
        f"ip netns add {space} && ip -n {space} link add eth0 type veth peer name eth1 && "
        f"ip -n {space} addr add 198.19.{lab.number}.120/32 dev eth0 && "
        f"podman run -d --name sock --network ns:/run/netns/{space} {image}"
    )
    with _until_done(lab, node, make, f"podman rm -f -t 0 sock; ip netns delete {space}"):
        pid = lab.run(node, "podman container inspect sock --format '{{.State.Pid}}'")
        path = f"/proc/{pid}/root/r.sock"
        lab.run(node, f"timeout 10 sh -c 'until [ -S {path} ]; do sleep 0.1; done'")
        script = f"""import socket, time; s = socket.socket(socket.AF_UNIX)
s.connect("{path}"); time.sleep(60)"""
        client = lab.run(node, f"nohup python3 -c '{script}' >/dev/null 2>&1 </dev/null & echo $!")
        with _until_done(lab, node, "true", f"kill {client}"):
            played = lab.migrate(lab.elsewhere(), workload="sock")
    _assert_refused(played, "external_socket", "is connected to a process outside")


def test_full_memory_disk(lab: Lab) -> None:
    leave = "$(( ($(stat -f -c '%a*%S' /dev/shm)) / 1048576 - 4 ))"
    do = f"fallocate -l {leave}M /dev/shm/filler"
    with _until_done(lab, lab.elsewhere(), do, "rm -f /dev/shm/filler"):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(played, "no_space", "on the destination has", "MB free")
