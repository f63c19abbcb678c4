# SPDX-License-Identifier: Apache-2.0
"""What a node's containerd knows of a pod: its containers, their processes, its images."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import run
from .errors import FlowferryError
from .oci.blobs import architecture

BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
REGISTRIES = Path("/etc/containerd/certs.d")
_ANNOTATION = "io.kubernetes.cri."
_CTR = ["ctr", "--namespace", "k8s.io"]


@dataclass(frozen=True)
class Container:
    """One container of a pod, the sandbox's own included; pid 0 until it is started."""

    id: str
    name: str
    pod_uid: str
    is_sandbox: bool
    pid: int
    image: str
    directory: Path

    @property
    def dump_is_over(self) -> Path:
        """A file that containerd writes as soon as it has let a dumped container go on."""
        return self.directory / "ctrd-checkpoint" / "config.dump"


def containers_of(pod_uid: str) -> list[Container]:
    """The containers that the runtime has of a pod on this node."""
    found = []
    for bundle in BUNDLES.iterdir() if BUNDLES.is_dir() else []:
        container = _read(bundle)
        if container is not None and container.pod_uid == pod_uid:
            found.append(container)
    return found


def _read(bundle: Path) -> Container | None:
    try:
        spec: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
    except (OSError, ValueError):  # it comes, or goes, at this moment
        return None
    told = spec.get("annotations") or {}
    pid_file = bundle / "init.pid"
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        pid = 0
    return Container(
        bundle.name,
        _name(spec),
        told.get(f"{_ANNOTATION}sandbox-uid", ""),
        told.get(f"{_ANNOTATION}container-type") == "sandbox",
        pid,
        told.get(f"{_ANNOTATION}image-name", ""),
        _directory(spec) / "containers" / bundle.name,
    )


def _name(spec: dict[str, Any]) -> str:
    """By the directory that the kubelet has for it: the annotation of a restored one is wrong."""
    for mount in spec.get("mounts", []):
        found = re.search(r"/pods/[^/]+/containers/([^/]+)/", mount.get("source", ""))
        if found:
            return found[1]
    return str((spec.get("annotations") or {}).get(f"{_ANNOTATION}container-name", ""))


def _directory(spec: dict[str, Any]) -> Path:
    """Where containerd's CRI keeps its files: a pod's host name is one of them."""
    for mount in spec.get("mounts", []):
        if mount.get("destination") == "/etc/hostname":
            return Path(mount["source"]).parents[2]
    return Path("/var/lib/containerd/io.containerd.grpc.v1.cri")


def require_containerd() -> None:
    """FlowferryError unless the node's containerd restores containers."""
    if shutil.which("ctr") is None or not BUNDLES.parent.is_dir():
        raise FlowferryError(
            "runtime_cannot_restore",
            "there is no containerd here; pods are moved between nodes that run containerd 2.1: "
            "the role containerd sets it up",
        )
    version = run(["ctr", "--version"]).split()[-1].lstrip("v")
    if version.split(".")[:2] != ["2", "1"]:
        raise FlowferryError(
            "runtime_cannot_restore",
            f"containerd here is {version}; only 2.1 restores a container from a checkpoint image "
            "without an experimental option",
        )


def images() -> dict[str, str]:
    """Digests of the images' manifests by name."""
    found = {}
    for line in run([*_CTR, "images", "list"]).splitlines()[1:]:
        name, _kind, digest = line.split()[:3]
        found[name] = digest
    return found


def read_content(digest: str) -> bytes:
    """A small document of the content store: an index, a manifest or a config."""
    return run([*_CTR, "content", "get", digest]).encode()


def read_manifest(digest: str) -> dict[str, Any]:
    """The manifest that an image has for this machine; ``digest`` may be that of an index."""
    found: dict[str, Any] = json.loads(read_content(digest))
    for entry in found.get("manifests", []):
        told = entry.get("platform", {})
        if (told.get("os"), told.get("architecture")) == ("linux", architecture()):
            return read_manifest(entry["digest"])
    return found


def pull(name: str) -> None:
    """Fetch and unpack an image with the settings that the kubelet's pulls have."""
    run(
        [*_CTR, "images", "pull", "--hosts-dir", "/etc/containerd/certs.d", name],
        timeout=120.0,
        code="no_image",
    )


def import_archive(archive: Path) -> None:
    """Take the images of an OCI archive into the store, unpacked."""
    run([*_CTR, "images", "import", str(archive)], timeout=120.0)


def trust_plain(address: str) -> None:
    """Let pulls from a registry on this node go without TLS; containerd reads this at each pull."""
    directory = REGISTRIES / address
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.toml").write_text(f'server = "http://{address}"\n')


def forget_plain(address: str) -> None:
    shutil.rmtree(REGISTRIES / address, ignore_errors=True)


def tag(source: str, name: str) -> None:
    """Give an image another name, which may have meant another image before."""
    run([*_CTR, "images", "tag", "--force", source, name])


def remove_images(names: list[str]) -> None:
    """Forget names of images; those that are not there are no failure."""
    if names:
        run([*_CTR, "images", "remove", *names])
