# SPDX-License-Identifier: Apache-2.0
"""What is in a checkpoint, as data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from . import images
from .contents import Checkpoint
from .sockets import InetSocket, inet_sockets

_MANAGERS = {"libpod": "podman", "cri-o": "cri-o"}


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything, with names that stay the same for all kinds; what is not known is null."""
    where = checkpoint.where(checkpoint.prefix + "files.img")
    sockets = inet_sockets(checkpoint.image("files.img"), where)
    return {
        "kind": checkpoint.kind,
        "container": _container(checkpoint),
        "versions": _versions(checkpoint),
        "host_name": _host_name(checkpoint),
        "processes": _processes(checkpoint, sockets),
        "sockets": [socket.as_dict() for socket in sockets],
        "mounts": list(_mounts(checkpoint)),
        "network_external": _network_is_external(checkpoint),
        "sizes": _sizes(checkpoint),
        "timings_us": _timings(checkpoint),
    }


def _text(value: Any) -> str | None:
    """A word of the engine's, if it is one: what comes from outside can be of any type."""
    return value if isinstance(value, str) and value else None


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _container(checkpoint: Checkpoint) -> dict[str, str | None] | None:
    """The container that it was, None for a directory of CRIU."""
    config, spec = checkpoint.metadata("config.dump"), checkpoint.metadata("spec.dump")
    if checkpoint.kind == "criu":
        return None
    annotations = _dictionary(spec.get("annotations"))
    # Kubelet archives have the name of the container and pod from the container runtime interface.
    name = annotations.get("io.kubernetes.container.name") or annotations.get(
        "io.kubernetes.cri.container-name"
    )
    return {
        "id": _text(config.get("id")),
        "name": _text(config.get("name")) or _text(name),
        "image": _text(config.get("rootfsImageName")),
        "image_id": _text(config.get("rootfsImageID")) or _text(config.get("rootfsImageRef")),
        "created": _text(config.get("createdTime")),
        "checkpointed": _text(config.get("checkpointedTime")),
    }


def _versions(checkpoint: Checkpoint) -> dict[str, str | int | None]:
    """Engine, runtime, CRIU, kernel: as far as the checkpoint says."""
    spec, config = checkpoint.metadata("spec.dump"), checkpoint.metadata("config.dump")
    annotations = _dictionary(spec.get("annotations"))
    manager = _text(annotations.get("io.container.manager"))
    if manager is None and any(str(key).startswith("io.kubernetes.cri.") for key in annotations):
        manager = "containerd"
    log = checkpoint.held.get("dump.log", b"").decode(errors="replace")
    criu = re.search(r"\bVersion: (\d[\w.]*)", log)
    kernel = re.search(r"\bRunning on \S+ Linux (\S+)", log)
    inventory = checkpoint.message("inventory.img", "INVENTORY", "inventory_entry")
    core = checkpoint.message(f"core-{_pids(checkpoint)[0]}.img", "CORE", "core_entry")
    return {
        "engine": _MANAGERS.get(manager, manager) if manager else None,
        "engine_version": _text(annotations.get("io.container.manager.version")),
        "runtime": _text(config.get("runtime")) or _text(config.get("ociRuntime")),
        "runtime_specification": _text(spec.get("ociVersion")),
        "criu": criu[1] if criu else None,
        "images": inventory.img_version,
        "kernel": kernel[1] if kernel else None,
        "architecture": images.pycriu().pb.core_entry.march.Name(core.mtype).lower(),
    }


def _pids(checkpoint: Checkpoint) -> list[int]:
    found = [entry.pid for entry in checkpoint.messages("pstree.img", "PSTREE", "pstree_entry")]
    if not found:
        raise images.bad_image(checkpoint.where("pstree.img"), "has no process")
    return found


def _host_name(checkpoint: Checkpoint) -> str | None:
    names = [name for name in checkpoint.images() if name.startswith("utsns-")]
    if not names:
        return None
    return images.text(checkpoint.message(names[0], "UTSNS", "utsns_entry").nodename)


def _processes(checkpoint: Checkpoint, sockets: Iterable[InetSocket]) -> list[dict[str, Any]]:
    by_id = {socket.id: str(socket) for socket in sockets}
    paths = dict(_paths(checkpoint))
    return [
        _process(checkpoint, entry, by_id, paths)
        for entry in checkpoint.messages("pstree.img", "PSTREE", "pstree_entry")
    ]


def _process(
    checkpoint: Checkpoint, entry: Any, sockets: dict[int, str], paths: dict[int, str]
) -> dict[str, Any]:
    core = checkpoint.message(f"core-{entry.pid}.img", "CORE", "core_entry")
    executable, memory = None, 0
    if checkpoint.has(f"mm-{entry.pid}.img"):
        mm = checkpoint.message(f"mm-{entry.pid}.img", "MM", "mm_entry")
        executable = paths.get(mm.exe_file_id)
        memory = sum(area.end - area.start for area in mm.vmas)
    descriptors = _descriptors(checkpoint, entry.pid, core)
    return {
        "pid": entry.pid,
        "parent": entry.ppid,
        "command": images.text(core.tc.comm) if core.HasField("tc") else None,
        "executable": executable,
        "threads": max(1, len(entry.threads)),
        "address_space_bytes": memory,
        "descriptors": len(descriptors),
        "sockets": [sockets[number] for number in descriptors if number in sockets],
    }


def _descriptors(checkpoint: Checkpoint, pid: int, core: Any) -> list[int]:
    """Ids of the open files. Processes can share a table of descriptors, so it has a number."""
    ids = core.ids if core.HasField("ids") else None
    if checkpoint.has(f"ids-{pid}.img"):
        ids = checkpoint.message(f"ids-{pid}.img", "IDS", "task_kobj_ids_entry")
    name = f"fdinfo-{ids.files_id}.img" if ids is not None else ""
    if not name or not checkpoint.has(name):
        return []
    return [entry.id for entry in checkpoint.messages(name, "FDINFO", "fdinfo_entry")]


def _paths(checkpoint: Checkpoint) -> Iterator[tuple[int, str]]:
    for entry in checkpoint.messages("files.img", "FILES", "file_entry"):
        if entry.HasField("reg"):
            yield entry.id, images.text(entry.reg.name)


def _mounts(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    types = images.pycriu().pb.fstype
    for name in checkpoint.images():
        if not name.startswith("mountpoints-"):
            continue
        for entry in checkpoint.messages(name, "MNTS", "mnt_entry"):
            known = entry.fstype in types.values()
            kind = types.Name(entry.fstype).lower() if known else f"type {entry.fstype}"
            yield {
                "mountpoint": images.text(entry.mountpoint),
                "type": images.text(entry.fsname) or kind,
                "source": images.text(entry.source),
                "external": bool(entry.ext_mount or entry.ext_key),
            }


def _network_is_external(checkpoint: Checkpoint) -> bool | None:
    """Does the restore join a network namespace that is there? None when nothing is said of it."""
    found = [name for name in checkpoint.images() if re.fullmatch(r"netns-\d+\.img", name)]
    entries = [checkpoint.message(name, "NETNS", "netns_entry") for name in found]
    return all(bool(entry.ext_key) for entry in entries) if entries else None


def _sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes on the disk, of memory, and of what the container has written to its root."""
    path = checkpoint.path
    memory = [size for name, size in checkpoint.sizes.items() if _is_pages(name)]
    return {
        "stored": path.stat().st_size if path.is_file() else sum(checkpoint.sizes.values()),
        "content": sum(checkpoint.sizes.values()),
        "memory": sum(memory),
        "root_changes": checkpoint.sizes.get("rootfs-diff.tar", 0),
    }


def _is_pages(name: str) -> bool:
    return name.rpartition("/")[2].startswith("pages-")


def _timings(checkpoint: Checkpoint) -> dict[str, int] | None:
    """What CRIU measured when it made the checkpoint, in microseconds."""
    if "stats-dump" not in checkpoint.held:
        return None
    where = checkpoint.where("stats-dump")
    for entry in images.messages(checkpoint.held["stats-dump"], "STATS", "stats_entry", where):
        names = ("freezing", "frozen", "memdump", "memwrite")
        return {name: getattr(entry.dump, f"{name}_time") for name in names}
    return None
