# SPDX-License-Identifier: Apache-2.0
"""Controllers with one pod each, for the tests of what becomes of them in a move."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import ClusterLab

from demo.lab_control import NODES, Played
from demo.traffic import TrafficClient

SHARED = "/srv/shared"
OPEN = ("--save", "", "--protected-mode", "no")


class Workload:
    """A controller with one pod, at an address of its own that the switch routes."""

    def __init__(self, cluster: ClusterLab, kind: str, number: int, program: str = "redis") -> None:
        self.kind = kind.lower()
        self.name = f"{self.kind[:4]}-{program}"
        self.lab = copy.copy(cluster)
        self.lab.address = f"{cluster.data_network}.{number}"
        self.image = f"198.18.{cluster.number}.4:5000/redis:lab"
        self.template: dict[str, Any] = {
            "metadata": {
                "labels": {"app": self.name},
                "annotations": {"flowferry.io/address": self.lab.address},
            },
            "spec": {"terminationGracePeriodSeconds": 2, "containers": [self.container("redis")]},
        }
        self.manifest: dict[str, Any] = {
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": self.name}},
                "template": self.template,
                # Two pods cannot have one address, so a new one waits for the end of the old one.
                **(
                    {"serviceName": self.name}
                    if kind == "StatefulSet"
                    else {"strategy": {"type": "Recreate"}}
                ),
            },
        }

    def container(self, name: str, *command: str) -> dict[str, Any]:
        """Redis, or what else its image has."""
        return {
            "name": name,
            "image": self.image,
            **({"command": list(command)} if command else {}),
        }

    def keep_data(self, directory: Path) -> None:
        """Let Redis keep its data in a claim of its own, on the storage that both nodes have."""
        self.template["spec"]["containers"] = [
            {
                **self.container(
                    "redis", "redis-server", "--appendonly", "yes", "--dir", "/data", *OPEN
                ),
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ]
        self._keep_in_claim(directory)

    def keep_data_with_it(self) -> None:
        """Let Redis keep its data in a volume of the pod itself, beside one in memory."""
        server = ("redis-server", "--appendonly", "yes", "--dir", "/data", *OPEN)
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("data", "fast")]
        spec = self.template["spec"]
        spec["containers"] = [{**self.container("redis", *server), "volumeMounts": mounts}]
        spec["volumes"] = [
            {"name": "data", "emptyDir": {}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        ]

    def in_volumes(self, command: str) -> str:
        """What the node says in the directory of the pod's own volumes."""
        uid = self.pod["metadata"]["uid"]
        place = f"/var/lib/containers/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir"
        return self.lab.run(self.node, f"cd {place} && {command}")

    def _keep_in_claim(self, directory: Path) -> None:
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Mi"}},
        }
        self.manifest["spec"]["volumeClaimTemplates"] = [
            {"metadata": {"name": "data"}, "spec": claim}
        ]
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self.name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Mi"},
                "hostPath": {"path": SHARED},
                "claimRef": {"namespace": "default", "name": f"data-{self.name}-0"},
            },
        }
        file = directory / "volume.json"
        file.write_text(json.dumps(volume))
        self.lab.kubectl("apply", "-f", str(file))

    @contextmanager
    def running(self, directory: Path) -> Iterator[Workload]:
        file = directory / f"{self.name}.json"
        file.write_text(json.dumps(self.manifest))
        self.lab.kubectl("apply", "-f", str(file))
        try:
            self.wait_for_rollout()
            self.lab.route(self.lab.address, self.node)
            yield self
        finally:
            self.lab.unroute(self.lab.address)
            claims = self.manifest["spec"].get("volumeClaimTemplates", [])
            self.lab.kubectl(
                "delete", self.kind, self.name, "--cascade=foreground", "--timeout=50s"
            )
            if claims:  # they outlive their StatefulSet
                self.lab.kubectl("delete", "pvc", f"data-{self.name}-0", "--timeout=50s")
                self.lab.kubectl("delete", "pv", self.name, "--timeout=50s")

    def wait_for_rollout(self) -> None:
        self.lab.kubectl("rollout", "status", f"{self.kind}/{self.name}", "--timeout=50s")

    @property
    def pod(self) -> dict[str, Any]:
        (found,) = self.lab.pods(self.name)
        return found

    @property
    def node(self) -> str:
        return str(self.pod["spec"]["nodeName"])

    @property
    def other(self) -> str:
        return next(node for node in NODES if node != self.node)

    def controller(self) -> dict[str, Any]:
        told = self.lab.kubectl("get", self.kind, self.name, "-o", "json")
        found: dict[str, Any] = json.loads(told)
        return found

    @contextmanager
    def clients(self) -> Iterator[list[TrafficClient]]:
        kinds = (("pingpong", "a"), ("writer", "b"), ("reader", "b"))
        started = [TrafficClient(self.lab, *kind) for kind in kinds]
        try:
            for client in started:
                client.seen()
            yield started
        finally:
            for client in started:
                client.end()

    def move(self, destination: str = "", **environment: str) -> Played:
        """To the other node, unless another one is named."""
        name = f"pod:default/{self.pod_name}"
        return self.lab.move(destination or self.other, name, **environment)

    @property
    def pod_name(self) -> str:
        """The one that a StatefulSet gives stays, whatever becomes of the pod."""
        if self.kind == "statefulset":
            return f"{self.name}-0"
        return str(self.pod["metadata"]["name"])

    def claims(self) -> list[str]:
        found = [one.get("persistentVolumeClaim") for one in self.pod["spec"]["volumes"]]
        return [one["claimName"] for one in found if one]

    def restart_count(self) -> int:
        return int(self.pod["status"]["containerStatuses"][0]["restartCount"])
