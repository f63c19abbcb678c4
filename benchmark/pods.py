# SPDX-License-Identifier: Apache-2.0
"""Pods of the Kubernetes lab: their test bed, and the reference way to move one by hand.

That way is what the documentation of Kubernetes and of the runtimes describes: the kubelet's
checkpoint API, an OCI image of the archive, a push to the registry, an edited manifest, apply,
wait. Then the route is changed, and the source deleted.

containerd fetches the image that a checkpoint was made upon anew for a restore, and without the
node's settings for registries. So that this succeeds there is a mirror on the destination that asks
for no password, and the checkpoint names it.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from demo.kubectl import kubectl, pods
from demo.lab_control import CONTROL_NUMBER, HOST_NUMBERS, NODES, Lab, LabError

from . import switch
from .bed import Bed
from .methods import NAME, Moved, Runtime, Timed

_AUTHORITY = "/etc/flowferry/kubernetes/ca.crt"
# The operator's, on the node while a move takes.
_CERTIFICATE = f"/run/{NAME}-operator.pem"
_MIRROR = "127.0.0.1:5001"
_MIRROR_FILES = "/var/lib/containers/mirror"
_MIRROR_DAEMON = f"{NAME}-mirror"
# A pod made later would name its image by the mirror, which has ended.
_FORGET_MIRRORED = (
    f"ctr -n k8s.io images list -q | grep ^{_MIRROR}/ | xargs -r ctr -n k8s.io images remove"
)
_ARCHIVES = "/var/lib/containers/kubelet/checkpoints"


class PodBed(Bed):
    """Redis in a pod."""

    def location(self) -> str:
        return str(_pod(self.lab)["spec"]["nodeName"])

    def start(self) -> None:
        self.remove()
        self.lab.playbook(
            "demo_pod.yml", demo_name=NAME, demo_address=self.lab.address
        ).must_succeed()

    def remove(self) -> None:
        found = [f"pod/{pod['metadata']['name']}" for pod in pods(self.lab, NAME)]
        if found:
            kubectl(self.lab, "delete", *found, "--grace-period=1", "--timeout=60s", limit=90)
        for node in NODES:
            self.lab.run(node, f"rm -f {_ARCHIVES}/checkpoint-{NAME}*.tar")
            if self.lab.run(node, f"ls {_MIRROR_FILES}", check=False):  # as by_hand() has left it
                # Not on a node with CRI-O, whose images are buildah's.
                self.lab.run(node, "buildah rmi --all --force", check=False)
                self.lab.module(node, "daemon", name=_MIRROR_DAEMON, state="stopped")
                self.lab.run(node, f"rm -rf {_MIRROR_FILES}")
                self.lab.run(node, _FORGET_MIRRORED)
        switch.forget(self.lab)


def by_hand(lab: Lab, runtime: Runtime, source: str, destination: str) -> Moved:
    """The six steps, as an operator types them, and what has to follow them.

    Credentials and a mirror on the nodes are not timed, nor is what is cleaned up afterwards.
    """
    registry = f"{_address(lab, 'control')}:5000"
    # A name of its own: a node that has pulled an image does not ask again what its name means.
    image = f"{registry}/checkpoint:{NAME}-{time.time_ns()}"
    _log_in(lab, source, registry)
    _mirror(lab, destination)
    pod = _pod(lab)
    timed, archives = Timed(), []
    timed("checkpoint", lambda: archives.append(_checkpoint(lab, source, pod)))
    timed("image", lambda: lab.run(source, _build(archives[0], registry, image), log_in=True))
    push = f"buildah push --quiet --cert-dir {_trust(registry)} {image}"
    timed("push", lambda: lab.run(source, push, log_in=True))
    copy = _manifest(pod, destination, image)
    timed("apply", lambda: _apply(lab, copy))
    name = copy["metadata"]["name"]
    wait = ("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s")
    timed("wait", lambda: kubectl(lab, *wait, limit=200))
    timed("redirect", lambda: switch.redirect(lab, destination))
    end = ("delete", f"pod/{pod['metadata']['name']}", "--timeout=60s")
    timed("delete", lambda: kubectl(lab, *end, limit=90))
    lab.run(source, f"rm -f {archives[0]} {_CERTIFICATE}; buildah rmi --all --force")
    return Moved(sum(phase["ms"] for phase in timed.phases), timed.phases)


def _pod(lab: Lab) -> dict[str, Any]:
    found = pods(lab, NAME)
    if len(found) != 1:
        raise LabError(f"there should be one pod {NAME}, there are {len(found)}")
    return found[0]


def _address(lab: Lab, host: str) -> str:
    return f"198.18.{lab.number}.{(HOST_NUMBERS | CONTROL_NUMBER)[host]}"


def _trust(registry: str) -> str:
    """Where containerd has the registry's authority, which buildah reads as well."""
    return f"/etc/containerd/certs.d/{registry}"


def _log_in(lab: Lab, node: str, registry: str) -> None:
    """The registry's password, and a certificate for the kubelet."""
    directory = Path(f"/run/flowferry/lab{lab.number}")
    certificate = (directory / "pki" / "migration.pem").read_text()
    password = (directory / "keys" / "registry").read_text().strip()
    words = ["buildah", "login", "--cert-dir", _trust(registry), "--username", "flowferry"]
    log_in = shlex.join([*words, "--password", password, registry])
    save = f"umask 077; echo {shlex.quote(certificate)} >{_CERTIFICATE}"
    lab.run(node, f"{save}; {log_in}")


def _mirror(lab: Lab, node: str) -> None:
    """A registry on the node's loopback interface with what the cluster's has of Redis."""
    images, archive = f"{_MIRROR_FILES}/docker/registry/v2", f"/run/{_MIRROR_DAEMON}.tar"
    if not lab.run(node, f"ls {_MIRROR_FILES}", check=False):
        lab.run("control", _PACK.format(archive=archive))
        lab.copy("control", node, archive)
        lab.run(node, f"mkdir -p {images} && tar --extract --file {archive} --directory {images}")
        for host in ("control", node):
            lab.run(host, f"rm {archive}")
    file = f"{_MIRROR_FILES}/config.json"
    settings = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": _MIRROR_FILES}},
        "http": {"addr": _MIRROR},
    }
    lab.run(node, f"echo {shlex.quote(json.dumps(settings))} >{file}")
    command = ["docker-registry", "serve", file]
    started = lab.module(node, "daemon", name=_MIRROR_DAEMON, command=command, ready=_MIRROR)
    if started.get("failed"):
        raise LabError(f"a mirror on {node}: {started['msg']}")


# A registry keeps blobs of all repositories in one place, and lists in each which are its own.
_PACK = """set -e
cd /var/lib/containers/registry/docker/registry/v2
cd repositories/redis
digests=$(ls _layers/sha256; ls _manifests/revisions/sha256)
cd ../..
for digest in $digests
do printf 'blobs/sha256/%.2s/%s\\n' "$digest" "$digest"
done | tar --create --file {archive} repositories/redis --files-from -"""


def _checkpoint(lab: Lab, node: str, pod: dict[str, Any]) -> str:
    """The archive that the node's kubelet writes."""
    words = ["curl", "--silent", "--show-error", "--fail-with-body", "--request", "POST"]
    words += ["--cacert", _AUTHORITY, "--cert", _CERTIFICATE, "--key", _CERTIFICATE]
    name = pod["metadata"]["name"]
    words.append(f"https://{_address(lab, node)}:10250/checkpoint/default/{name}/redis")
    answer = lab.run(node, shlex.join(words), log_in=True)
    return str(json.loads(answer)["items"][0])


def _build(archive: str, registry: str, image: str) -> str:
    """buildah unpacks the archive that it adds; the base image is fetched from the mirror."""
    return f"""set -e
container=$(buildah from scratch)
buildah add --quiet "$container" {archive} /
tar --extract --to-stdout --file {archive} config.dump |
  sed s#{registry}/#{_MIRROR}/#g >/tmp/config.dump
buildah add --quiet "$container" /tmp/config.dump /config.dump
buildah config --annotation=org.criu.checkpoint.container.name=redis "$container"
buildah config --annotation=io.kubernetes.cri-o.annotations.checkpoint.name=redis "$container"
buildah commit --quiet "$container" {image}
buildah rm "$container"
rm /tmp/config.dump"""


def _manifest(pod: dict[str, Any], node: str, image: str) -> dict[str, Any]:
    """The pod's own, edited: another name, the other node, the checkpoint as its image."""
    metadata = pod["metadata"]
    name = NAME if metadata["name"] != NAME else f"{NAME}-moved"
    (container,) = pod["spec"]["containers"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": metadata["labels"],
            "annotations": {
                key: value
                for key, value in metadata["annotations"].items()
                if key == "flowferry.io/address"
            },
        },
        "spec": {
            "nodeName": node,
            "hostname": NAME,
            "containers": [{"name": container["name"], "image": image}],
        },
    }


def _apply(lab: Lab, manifest: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(manifest, file)
        file.flush()
        kubectl(lab, "apply", "-f", file.name)
