# SPDX-License-Identifier: Apache-2.0
"""What cannot be moved is refused, with a message that says what to do, and nothing is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flowferry_p4.client import P4Error, Session
from lab_control import ROOT, Lab, Played, wait_for


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


def test_open_device(lab: Lab) -> None:
    """A process of the container has the kernel's log open."""
    node = lab.location()
    container = lab.run(node, "podman container inspect redis --format '{{.Id}}'")
    group = f"/sys/fs/cgroup/freezer/libpod_parent/libpod-{container}/cgroup.procs"
    process = lab.run(
        node,
        "mknod /root/log c 1 11; nohup sleep 100 </root/log >/dev/null 2>&1 & "
        f"echo $! >{group}; echo $!",
    )
    with _until_done(lab, node, "true", f"kill {process}; rm /root/log"):
        played = lab.migrate(lab.elsewhere())
    _assert_refused(
        played, "open_device", "the device /root/log open", "close it in the application"
    )


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
