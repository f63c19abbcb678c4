# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes lab with a P4 switch on each node, without a kube-proxy, and pods that answer."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cluster import ClusterLab, left_over
from flowferry_p4.client import Session, Tls

from demo import kubectl
from demo.lab_control import HOST_NUMBERS, NODES, LabError, Played, wait_for

HERE = Path(__file__).parent
ASKER = (HERE / "asker.py").read_text()
SERVER = (HERE / "pod_server.py").read_text()
NAMESPACE = "flowferry-system"
MTU = 9000
OUTSIDE = {"type": "LoadBalancer", "loadBalancerClass": "flowferry.dev/p4"}
BOTH = {"ipFamilyPolicy": "RequireDualStack"}


class DataplaneLab(ClusterLab):
    def start(self) -> None:
        for name in ("containerd", "kubernetes"):
            kubectl.programs(name)
        self.playbook("lab.yml", lab="kubernetes").must_succeed()

    def playbook(
        self,
        playbook: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        watched: bool = False,
        **extra: Any,
    ) -> Played:
        extra = {"lab_dataplane": "p4", "lab_mtu": MTU, **extra}
        return super().playbook(
            playbook, *options, environment=environment, watched=watched, **extra
        )

    @property
    def registry(self) -> str:
        return f"198.18.{self.number}.4:5000"

    # -- objects

    def apply(self, *objects: Mapping[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self._kubectl_with(json.dumps(listed), "apply", "-f", "-")

    def _kubectl_with(self, text: str, *arguments: str) -> None:
        program = str(kubectl.programs("kubernetes") / "kubectl")
        kubeconfig = f"--kubeconfig=/run/flowferry/lab{self.number}/kubeconfig"
        done = subprocess.run(
            [program, kubeconfig, *arguments],
            input=text, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr}")

    def answering(self, name: str, node: str, **labels: str) -> dict[str, Any]:
        """A pod that says its name."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"nodeName": node, **self._answering(name)},
        }

    def controlled(self, kind: str, name: str, replicas: int, **labels: str) -> dict[str, Any]:
        """A Deployment or StatefulSet of pods that say the names that they begin with."""
        named = {"matchLabels": {"app": name}}
        spec = self._answering("$(NAME)")
        own = {"fieldRef": {"fieldPath": "metadata.name"}}
        spec["containers"][0]["env"] = [{"name": "NAME", "valueFrom": own}]
        template = {"metadata": {"labels": {"app": name, **labels}}, "spec": spec}
        more = {"serviceName": name} if kind == "StatefulSet" else {}
        return {
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"replicas": replicas, "selector": named, "template": template, **more},
        }

    def _answering(self, name: str) -> dict[str, Any]:
        return {
            "terminationGracePeriodSeconds": 0,
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["10.96.0.10"],
                "searches": ["default.svc.cluster.local"],
            },
            "containers": [
                {
                    "name": "server",
                    "image": f"{self.registry}/flowferry-dataplane:lab",
                    # Without files of its own, which a direct move would leave behind.
                    "command": ["python3", "-B", "-c", SERVER, name],
                }
            ],
        }

    def service(
        self, name: str, port: int, target: int, protocol: str = "TCP", **spec: Any
    ) -> dict[str, Any]:
        """Of pods with its name as the label app.

        The switches serve its own address, or its outside ones where it is balanced outside.
        """
        inside = {} if spec.get("type") == "LoadBalancer" else {"flowferry.dev/switch": "true"}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": inside,
            },
            "spec": {
                "selector": {"app": name},
                "ports": [{"port": port, "targetPort": target, "protocol": protocol}],
                **spec,
            },
        }

    def until_ready(self, *names: str) -> None:
        self.kubectl("wait", "--for=condition=Ready", "--timeout=55s", *(f"pod/{n}" for n in names))

    def scale(self, deployment: str, replicas: int) -> None:
        self.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}")
        self.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=55s")

    def pod_at(self, app: str, address: str) -> dict[str, Any]:
        """Of an application's pods the one that has an address, by whatever name."""
        (found,) = [one for one in self.pods(app) if one["status"].get("podIP") == address]
        return found

    @staticmethod
    def elsewhere_of(pod: Mapping[str, Any]) -> str:
        """The node that it is not on."""
        return next(node for node in NODES if node != pod["spec"]["nodeName"])

    def move_away(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """To the other node, without anything being left; how it went."""
        name = f"pod:default/{pod['metadata']['name']}"
        moved = self.move(self.elsewhere_of(pod), name).must_succeed()
        if left := left_over(moved.outcome):
            raise LabError(str(left))
        return moved.outcome

    def address_of(self, pod: str, version: int = 4) -> str:
        return self._addresses("pod", pod, "{.status.podIPs[*].ip}")[version]

    def inside(self, service: str, version: int = 4) -> str:
        return self._addresses("service", service, "{.spec.clusterIPs[*]}")[version]

    def outside(self, service: str, version: int = 4) -> str:
        """The address that the controller gives to a Service."""
        path = "{.status.loadBalancer.ingress[*].ip}"
        wait_for(
            lambda: version in self._addresses("service", service, path),
            f"an outside address of {service}", 20,
        )  # fmt: skip
        return self._addresses("service", service, path)[version]

    def _addresses(self, kind: str, name: str, path: str) -> dict[int, str]:
        """By their IP version."""
        told = self.kubectl("get", kind, name, "-o", f"jsonpath={path}").split()
        return {ip_address(one).version: one for one in told}

    # -- questions

    def ask(self, who: str, kind: str, host: str, port: int, count: float = 1) -> dict[str, int]:
        """Who answers how often; ``who`` is a pod, or the client outside."""
        words = ["python3", "-c", ASKER, kind, host, str(port), str(count)]
        if who == "client":
            told = self.run("client", shlex.join(words))
        else:
            told = self.kubectl("exec", who, "--", *words)
        found: dict[str, int] = json.loads(told)
        return found

    def start_asking(
        self, pod: str, kind: str, host: str, port: int, count: float
    ) -> subprocess.Popen[str]:
        """The same, and something else meanwhile; ``heard`` is its end."""
        program = str(kubectl.programs("kubernetes") / "kubectl")
        kubeconfig = f"--kubeconfig=/run/flowferry/lab{self.number}/kubeconfig"
        words = ["python3", "-c", ASKER, kind, host, str(port), str(count)]
        return subprocess.Popen(
            [program, kubeconfig, "exec", pod, "--", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def heard(self, asking: subprocess.Popen[str]) -> dict[str, int]:
        told, _ = asking.communicate(timeout=90)
        if not told.startswith("{"):
            raise LabError(told)
        found: dict[str, int] = json.loads(told)
        return found

    def keep(self, who: str, host: str, port: int, count: int) -> Kept:
        """Connections that stay open until the end."""
        words = ["python3", "-c", ASKER, "keep", host, str(port), str(count)]
        if who == "client":
            return Kept(self.popen("client", shlex.join(words)))
        program = str(kubectl.programs("kubernetes") / "kubectl")
        kubeconfig = f"--kubeconfig=/run/flowferry/lab{self.number}/kubeconfig"
        started = subprocess.Popen(
            [program, kubeconfig, "exec", "-i", who, "--", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Kept(started)

    def until_answered(self, who: str, kind: str, host: str, port: int, *names: str) -> None:
        """Until all of these answer, and nobody else: switches learn of a Service one by one."""
        self.until_several_answer(who, kind, host, port, len(names), names)

    def until_several_answer(
        self, who: str, kind: str, host: str, port: int, count: int, names: Sequence[str] = ()
    ) -> set[str]:
        """Until so many answer, by whatever names, unless these are given."""
        seen: dict[str, int] = {}

        def heard() -> bool:
            seen.clear()
            seen.update(self.ask(who, kind, host, port, 12 * count))
            failed = any(name.startswith("no answer") for name in seen)
            return set(seen) == set(names) if names else len(seen) == count and not failed

        try:
            wait_for(heard, "", 30)
        except LabError:
            wanted = names or f"{count} names"
            raise LabError(f"{who} asks {host} port {port}: {seen}, not {wanted}") from None
        return set(seen)

    # -- its own programs

    def traces_everywhere(self) -> dict[str, list[Any]]:
        """What a move must not leave at a switch of the three."""
        switches = {"edge": (self.switch_address, None)}
        switches |= {node: (self.node_switch(node), self.tls) for node in NODES}
        tables = [f"{t}{v}" for t in ("hold_to", "hold_from", "guard") for v in ("", "_ipv6")]
        found = {}
        for name, (address, tls) in switches.items():
            with Session.open(address, primary=False, tls=tls) as session:
                entries = session.read(tables)
            if entries:
                found[name] = entries
        return found

    def node_switch(self, node: str) -> str:
        """Where the switch of a node serves P4Runtime."""
        return f"{self.host_address(node)}:9559"

    @property
    def tls(self) -> Tls:
        """How migrations prove to the nodes' switches who they are."""
        own = Path(f"/run/flowferry/lab{self.number}/dataplane")
        pair = str(own / "migration.pem")
        return Tls(ca=str(own / "ca.crt"), cert=pair, key=pair, server_name="flowferry-switch")

    def host_address(self, host: str) -> str:
        return f"198.18.{self.number}.{HOST_NUMBERS[host]}"

    def end_program(self, node: str, module: str) -> None:
        """A program of the data plane on a node dies, and its container is started again."""
        before = self.restarts(node)
        self.run(node, f"pkill -9 -f 'm flowferry_p4.{module}[ ]@'")
        wait_for(lambda: self.restarts(node) > before, f"{module} on {node} is started again", 60)
        self.until_well(node)

    def restarts(self, node: str) -> int:
        return sum(one["restartCount"] for one in self._containers(node))

    def until_well(self, node: str) -> None:
        wait_for(
            lambda: all(one["ready"] for one in self._containers(node)),
            f"the data plane on {node} is ready", 60,
        )  # fmt: skip

    def _containers(self, node: str) -> list[dict[str, Any]]:
        told = self.kubectl(
            "get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=flowferry-dataplane",
            f"--field-selector=spec.nodeName={node}", "-o", "json",
        )  # fmt: skip
        (pod,) = json.loads(told)["items"]
        found: list[dict[str, Any]] = pod["status"]["containerStatuses"]
        return found


class Kept:
    """Connections of one client, which are asked again and again."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.count = self._hear()["connections"]

    def broken(self) -> int:
        """How many do not answer, or with another name than at first."""
        return sum(self.lost().values())

    def lost(self) -> dict[str, int]:
        """The same, by the name that answered at first."""
        assert self._process.stdin is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        found: dict[str, int] = self._hear()["lost"]
        return found

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("{"):
            raise LabError(line + self._process.stdout.read())
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
