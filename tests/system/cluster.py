# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes lab of the tests: a cluster, a pod with Redis, and what is left on its nodes."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowferry_p4.client import Entry, Update

from demo import kubectl
from demo.lab_control import HOST_NUMBERS, NODES, Lab, LabError, Played, wait_for

WORKLOAD = "pod:default/redis"
# Ends and starts programs of the hosts.
_DAEMON = Path(__file__).with_name("daemon_control.py")

# Commands that list what moves must not leave in a node's container runtime.
CONTAINERD_LEFTOVERS = {
    "names for restores": "ctr -n k8s.io images list -q | grep flowferry-base",
    "plain registries": "ls /etc/containerd/certs.d | grep 127.0.0.1",
}
CONTAINERD_SANDBOXES = "ctr -n k8s.io containers list -q"
CRIO_SANDBOXES = "crictl -r unix:///run/crio/crio.sock pods -q --no-trunc"
CRIO_LEFTOVERS = {
    # Only what is served while a pod moves has a name at the loopback interface and no tag.
    "checkpoint images": "crictl -r unix:///run/crio/crio.sock images | grep '^127.0.0.1 '",
    "keys of registries": "ls /etc/containers/certs.d | grep 127.0.0.1",
    "freezer groups": "find /sys/fs/cgroup/freezer -type d -name flowferry",
}


def left_over(outcome: dict[str, Any]) -> list[str]:
    """Warnings that something of a source was left; that a switch is busy is another matter."""
    return [one for one in outcome.get("warnings") or [] if "was not removed" in one]


def is_another(lab: Lab, before: str) -> bool:
    """Whether another Redis than the one of this identity answers: its container runs earlier."""
    try:
        return lab.run_id() != before
    except LabError:
        return False


class ClusterLab(Lab):
    """A lab whose nodes are the workers of a cluster."""

    playbook_limit = 600  # the root is built at the first start

    def __init__(self, number: int, state: Path | None = None, runtime: str = "containerd") -> None:
        super().__init__(number, state)
        self.runtime = runtime
        """What the nodes run: containerd or crio."""

    @property
    def settings(self) -> dict[str, str]:
        """What playbooks/lab.yml is told."""
        return {"lab": "kubernetes", "cluster_runtime": self.runtime}

    @property
    def crio(self) -> bool:
        """Whether the nodes run CRI-O."""
        return self.runtime == "crio"

    def start(self) -> None:
        """Bring the cluster up, and the pod on node1."""
        for name in (self.runtime, "cri-tools", "kubernetes"):
            kubectl.programs(name)
        self.playbook("lab.yml", **self.settings).must_succeed()
        self.playbook("demo_pod.yml").must_succeed()

    def start_afresh(self) -> None:
        """The pod is made anew on node1, at its own address and without a virtual one."""
        self.kubectl("delete", "pod", "-l", "app=redis", "--grace-period=1", "--timeout=50s")
        with self.session(primary=True) as session:
            tables = ("service", "bucket", "backend", "reply")
            entries = [entry for table in tables for entry in session.read(table)]
            session.write([Update("DELETE", entry) for entry in entries])
        self.playbook("demo_pod.yml").must_succeed()

    def kubectl(self, *arguments: str) -> str:
        """What kubectl says, as the administrator."""
        return kubectl.kubectl(self, *arguments)

    def pods(self, app: str = "redis") -> list[dict[str, Any]]:
        """The pods of an application, as the API has them."""
        return kubectl.pods(self, app)

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

    def unroute(self, address: str) -> None:
        """Undo route(), wherever it leads by now."""
        key = {"destination": f"{address}/32"}
        with self.session(primary=True) as session:
            found = [one for one in session.read("route") if one.match == key]
            session.write([Update("DELETE", one) for one in found])

    def move(
        self,
        destination: str,
        workload: str = WORKLOAD,
        *,
        method: str = "kubelet",
        **environment: str,
    ) -> Played:
        """Move a pod, by the kubelet unless a method is named; the caller looks at how it ended."""
        return self.playbook(
            "migrate.yml",
            environment=environment,
            workload=workload,
            destination=destination,
            migration_method=method,
        )

    def processes(self) -> dict[str, int]:
        """How many Redis processes there are on each node."""
        return {
            node: len(self.run(node, "pgrep -x redis-server", check=False).split())
            for node in NODES
        }

    # -- failures

    def kill_redis(self) -> None:
        """Redis dies once, and the kubelet starts its container again."""
        before, count = self.run_id(), self._container()["restartCount"]
        self.run(self.pod_node(), "kill -9 $(pgrep -x redis-server)")

        def restarted() -> bool:
            status = self._container()
            # In CRI-O a copy goes on counting where its source was.
            is_ready = status["restartCount"] > count and status["ready"]
            return bool(is_ready) and is_another(self, before)

        wait_for(restarted, "the container is started again, and ready", 120)

    def _container(self) -> dict[str, Any]:
        """What the kubelet tells of the container of Redis."""
        (status,) = self.pod()["status"]["containerStatuses"]
        return dict(status)

    def daemon(self, host: str, name: str, action: str) -> str:
        """The command of this machine's shell that does so to a program that runs on a host."""
        control = shlex.join(["python3", "-c", _DAEMON.read_text(), name, action])
        return shlex.join(self.ssh(host, control))

    @contextmanager
    def started_again(self, host: str, name: str) -> Iterator[str]:
        """The command that ends a program; afterwards it runs again."""
        try:
            yield self.daemon(host, name, "stop")
        finally:
            subprocess.run(self.daemon(host, name, "start"), shell=True, check=True, timeout=60)

    @contextmanager
    def going_on(self, host: str, name: str) -> Iterator[str]:
        """The command that makes a program stand still; afterwards it goes on."""
        try:
            yield self.daemon(host, name, "pause")
        finally:
            subprocess.run(self.daemon(host, name, "continue"), shell=True, check=True, timeout=60)

    def ended_daemons(self) -> str:
        """What programs of the hosts said last that should run and do not; else nothing."""
        told = {
            host: self.run(host, shlex.join(["python3", "-c", _DAEMON.read_text(), "all", "ended"]))
            for host in ("control", *NODES)
        }
        return "\n".join(f"{host}: {said.strip()}" for host, said in told.items() if said.strip())

    def condition(self) -> str:
        """What nodes and pods say of themselves, and which containers stand still."""
        listed = self.kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide")
        told = {node: self.run(node, f"{_FROZEN}{_LAST_WORDS}") for node in NODES}
        return "\n".join([listed, *(f"-- {node}\n{said}" for node, said in told.items())])

    def forget_image(self, node: str, image: str) -> None:
        """A node loses an image, NAME@DIGEST, by all its names, if it has it."""
        if self.crio:
            crictl = "crictl -r unix:///run/crio/crio.sock"
            # A name would take but itself away.
            self.run(node, f"{crictl} images -q --no-trunc {image} | xargs -r {crictl} rmi")
            return
        digest = image.partition("@")[2]
        names = f"ctr -n k8s.io images list | awk '$3 == \"{digest}\" {{print $1}}'"
        self.run(node, f"{names} | xargs -r ctr -n k8s.io images remove")

    def leftovers(self) -> dict[str, str]:
        """What a move must not leave: on the nodes, at the switch, in the cluster."""
        sandboxes = CRIO_SANDBOXES if self.crio else CONTAINERD_SANDBOXES
        looked = {
            "archives": "ls /var/lib/containers/kubelet/checkpoints 2>/dev/null",
            "checkpoints": "ls /dev/shm",
            "volumes": "ls -d /var/lib/containers/kubelet/flowferry /var/lib/flowferry/*.volumes",
            **(CRIO_LEFTOVERS if self.crio else CONTAINERD_LEFTOVERS),
            "firewall rules": _FIREWALL,
            "reservations": _RESERVATIONS.format(sandboxes=sandboxes),
        }
        found = {}
        for node in NODES:
            for what, command in looked.items():
                listed = self.run(node, f"{command} || true").strip()
                if listed:
                    found[f"{what} on {node}"] = listed
        pods = [pod["metadata"]["name"] for pod in self.pods()]
        odd = {"entries": self.traces(), "journals": self.journals(), "pods": pods[1:]}
        return {**found, **{what: str(listed) for what, listed in odd.items() if listed}}


_FROZEN = """
grep --recursive --files-with-matches --include=freezer.state FROZEN /sys/fs/cgroup/freezer
"""
_LAST_WORDS = "tail --lines=8 /var/log/flowferry/*.log | cut --characters=-300"
# Whoever's, in the node's network namespace and in those of its pods, but the kubelet's.
_FIREWALL = """
for namespace in /proc/1/ns/net /run/netns/*; do
  [ -e "$namespace" ] || continue
  nsenter --net="$namespace" nft list tables | grep -vE ' ip6? (mangle|nat|filter)$'
  for save in iptables-save ip6tables-save; do
    nsenter --net="$namespace" $save 2>/dev/null | grep ^-A | grep -v KUBE-
  done
done"""
# Addresses that are kept for sandboxes which are not there any more.
_RESERVATIONS = """
known=$({sandboxes})
for file in /var/lib/cni/flowferry/*; do
  [ -e "$file" ] || continue
  owner=$(head -n 1 "$file")
  [ "$owner" = moved ] || echo "$known" | grep -q "^$owner" || echo "$file $owner"
done"""
