# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL as a StatefulSet, its data in a volume of the pod, moves in the middle of its work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import ClusterLab
from controlled import Workload
from postgres import GROUP, PASSWD, POSTGRES, build_nobody

from demo.lab_control import wait_for
from demo.traffic import RemoteClient

CLIENT = Path(__file__).with_name("program_client.py")
BUILT = "/tmp/nobody.so"
PLACES = {"data": "/var/lib/data", "memory": "/dev/shm", "given": "/given"}
# What is mounted from the API lies in directories that each kubelet names anew.
START = f"""
import pathlib, shutil

pathlib.Path("/etc/passwd").write_text({PASSWD!r})
pathlib.Path("/etc/group").write_text({GROUP!r})
pathlib.Path("/srv").mkdir(exist_ok=True)
for given in pathlib.Path("/given").glob("*.so"):
    shutil.copy(given, "/srv")
{POSTGRES}"""
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def postgres(cluster: ClusterLab, tmp_path: Path) -> Iterator[Workload]:
    cluster.playbook("../tests/system/programs_registry.yml").must_succeed()
    library = {}
    if build_nobody(cluster, BUILT):
        library["nobody.so"] = cluster.run("node1", f"base64 -w0 {BUILT} && rm {BUILT}")
    given = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "postgres", "namespace": "default"},
        "binaryData": library,
    }
    file = tmp_path / "given.json"
    file.write_text(json.dumps(given))
    cluster.kubectl("apply", "-f", str(file))
    workload = Workload(cluster, "StatefulSet", 106, "postgres")
    spec, places = workload.template["spec"], dict(PLACES)
    if cluster.crio:  # which restores no container with a volume there
        del places["memory"]
    shared = {"name": "SHARED_MEMORY", "value": "posix" if "memory" in places else "mmap"}
    spec["containers"] = [
        {
            "name": "postgres",
            "image": f"198.18.{cluster.number}.4:5000/programs:lab",
            "command": ["python3", "-c", START],
            "env": [shared],
            "volumeMounts": [{"name": name, "mountPath": at} for name, at in places.items()],
            "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
        }
    ]
    spec["volumes"] = [
        {"name": "data", "emptyDir": {}},
        # Else it is the sandbox's, which stays where it is.
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "given", "configMap": {"name": "postgres"}},
    ]
    with workload.running(tmp_path):
        yield workload
    cluster.kubectl("delete", "configmap", "postgres")


def test_an_open_transaction_moves_while_others_commit(
    cluster: ClusterLab, postgres: Workload
) -> None:
    """Nobody is reset; what was acknowledged is there, after a restart of the container too."""
    address = postgres.lab.address
    clients = [RemoteClient(postgres.lab, CLIENT, kind, address) for kind in ("postgres", "ledger")]
    transaction, ledger = clients
    before = 0
    for number in (1, 2):
        assert transaction.seen() == {
            "own": number,
            "others": 0,
            "fetched": number,
            "heard": number,
        }
        destination = postgres.other
        played = postgres.move().must_succeed()
        assert postgres.node == destination and played.outcome["overflow_packets"] == 0
        seen = ledger.seen()
        assert seen["errors"] == [] and seen["committed"] > before
        before = seen["committed"]
        print(f"PostgreSQL: hold {played.outcome['hold_ms']} ms, {before} rows committed")
    assert transaction.seen() == {"own": 3, "others": 0, "fetched": 3, "heard": 3}
    assert transaction.seen("finish") == {"own": 3, "others": 3, "restarted": False}
    seen = ledger.seen("finish")
    assert seen["errors"] == []
    assert seen["committed"] == seen["found"] == seen["rows"]
    for client in clients:
        client.end()
    _check_a_restart(postgres, seen["rows"])
    assert cluster.leftovers() == {}


def _check_a_restart(postgres: Workload, rows: int) -> None:
    """The container is killed, and starts upon the same data."""
    postgres.lab.run(postgres.node, "kill -9 $(pgrep -xo postgres)")
    wait_for(lambda: postgres.restart_count() == 1, "the container is started again", 60)
    postgres.wait_for_rollout()
    auditor = RemoteClient(postgres.lab, CLIENT, "auditor", postgres.lab.address)
    assert auditor.seen() == {"rows": rows}
    auditor.end()
