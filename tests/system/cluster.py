# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes lab of the tests: a cluster, a pod with Redis, and what is left on its nodes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from flowferry_p4.client import Entry, Update

from demo.lab_control import HOST_NUMBERS, NODES, ROOT, Lab, LabError, Played

WORKLOAD = "pod:default/redis"
# The first build of Kubernetes takes this long on two busy cores (seconds).
BUILD_LIMIT = 3600

# Commands that list what moves must not leave in a node's container runtime.
CONTAINERD_LEFTOVERS = {
    "names for restores": "ctr -n k8s.io images list -q | grep flowferry-base",
    "plain registries": "ls /etc/containerd/certs.d | grep 127.0.0.1",
}
CRIO_LEFTOVERS = {
    # Only what is served while a pod moves has a name at the loopback interface and no tag.
    "checkpoint images": "crictl -r unix:///run/crio/crio.sock images | grep '^127.0.0.1 '",
    "keys of registries": "ls /etc/containers/certs.d | grep 127.0.0.1",
}


class ClusterLab(Lab):
    """A lab whose nodes are the workers of a cluster."""

    playbook_limit = 600  # the root is built at the first start

    def __init__(self, number: int, state: Path | None = None, crio: str = "") -> None:
        super().__init__(number, state)
        self.crio = crio
        """The program of CRI-O, if the nodes are to run that; else they run containerd."""

    def start(self) -> None:
        """Bring the cluster up, and the pod on node1."""
        self.build()
        runtime = {"cluster_runtime": "crio", "crio_binary": self.crio} if self.crio else {}
        self.playbook("lab.yml", lab="kubernetes", **runtime).must_succeed()
        self.playbook("demo_pod.yml").must_succeed()

    def build(self) -> Path:
        """What is not in the cache yet; returns the directory of Kubernetes' programs."""
        built = [
            subprocess.run(
                [str(ROOT / "tools" / "build"), name],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=BUILD_LIMIT,
            ).stdout.strip()
            for name in ("cri-tools" if self.crio else "containerd", "kubernetes")
        ]
        return Path(built[-1]) / "usr/local/bin"

    def kubectl(self, *arguments: str) -> str:
        """What kubectl says, as the administrator."""
        kubeconfig = f"/run/flowferry/lab{self.number}/kubeconfig"
        done = subprocess.run(
            [str(self.build() / "kubectl"), f"--kubeconfig={kubeconfig}", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode != 0:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def pods(self, app: str = "redis") -> list[dict[str, Any]]:
        """The pods of an application, as the API has them."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"app={app}", "-o", "json"))
        items: list[dict[str, Any]] = found["items"]
        return items

    def pod(self) -> dict[str, Any]:
        """The one pod of Redis."""
        found = self.pods()
        if len(found) != 1:
            raise LabError(f"pods of Redis: {[pod['metadata']['name'] for pod in found]}")
        return found[0]

    def pod_node(self) -> str:
        return str(self.pod()["spec"]["nodeName"])

    def other_node(self) -> str:
        return next(node for node in NODES if node != self.pod_node())

    def route(self, address: str, node: str) -> None:
        """Have the switch route an address to a node."""
        params = {
            "port": NODES[node],
            "source_mac": f"02:ff:00:00:{self.number:02x}:01",
            "destination_mac": f"02:ff:00:00:{self.number:02x}:{HOST_NUMBERS[node]:02x}",
        }
        entry = Entry("route", {"destination": f"{address}/32"}, "forward", params)
        with self.session(primary=True) as session:
            session.write([Update("INSERT", entry)])

    def move(self, destination: str, workload: str = WORKLOAD, **environment: str) -> Played:
        """Move a pod; the caller looks at how it ended."""
        return self.playbook(
            "migrate.yml", environment=environment, workload=workload, destination=destination
        )

    def processes(self) -> dict[str, int]:
        """How many Redis processes there are on each node."""
        return {
            node: len(self.run(node, "pgrep -x redis-server", check=False).split())
            for node in NODES
        }

    def leftovers(self) -> dict[str, str]:
        """What moves must not leave on the nodes: archives, images, settings, checkpoints."""
        looked = {
            "archives": "ls /var/lib/containers/kubelet/checkpoints 2>/dev/null",
            "checkpoints": "ls /dev/shm",
            **(CRIO_LEFTOVERS if self.crio else CONTAINERD_LEFTOVERS),
        }
        found = {}
        for node in NODES:
            for what, command in looked.items():
                listed = self.run(node, f"{command} || true").strip()
                if listed:
                    found[f"{what} on {node}"] = listed
        return found
