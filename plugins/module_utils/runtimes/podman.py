# SPDX-License-Identifier: Apache-2.0
"""Podman containers: describe, checkpoint, restore, resume, remove.

The container is frozen through its cgroup before CRIU dumps it, and left running by Podman: so the
source stays as it is, frozen, with its sockets, and a rollback is a thaw. It is also faster, as
CRIU needs up to 100 ms to stop a process tree by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

from .. import endpoint as endpoints
from ..commands import run
from ..errors import FlowferryError

MINIMUM_CRIU = (4, 2)
# Device nodes that CRIU restores by opening them again.
_PLAIN_DEVICES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}


class PodmanContainer:
    """One container, by name, on this node."""

    def __init__(self, name: str) -> None:
        self.name = name

    # -- what is there

    def inspect(self) -> dict[str, Any] | None:
        """What Podman says of the container, None when it knows none of this name."""
        listed = run(["podman", "ps", "-a", "--format", "{{.Names}}"]).split()
        if self.name not in listed:
            return None
        found: list[dict[str, Any]] = json.loads(run(["podman", "container", "inspect", self.name]))
        return found[0]

    def describe(self) -> dict[str, Any] | None:
        """Everything the plan needs; None when there is no such container."""
        found = self.inspect()
        if found is None:
            return None
        mode: str = found["HostConfig"]["NetworkMode"]
        space = mode[len("ns:/run/netns/") :] if mode.startswith("ns:/run/netns/") else ""
        endpoint = endpoints.find(space) if space else None
        state = found["State"]
        return {
            "id": found["Id"],
            "status": state["Status"],
            "pid": state["Pid"],
            "started_at": state["StartedAt"],
            "image": found["ImageName"],
            "image_id": found["Image"],
            "runtime": Path(found["OCIRuntime"]).name,
            "network_mode": mode,
            "endpoint": endpoint.as_dict() if endpoint else None,
            "mounts": [mount["Destination"] for mount in found["Mounts"]],
            "memory_bytes": self._memory_bytes(found["Id"]) if state["Running"] else 0,
        }

    def _cgroup(self, controller: str, container_id: str) -> Path:
        return Path(f"/sys/fs/cgroup/{controller}/libpod_parent/libpod-{container_id}")

    def _memory_bytes(self, container_id: str) -> int:
        usage = self._cgroup("memory", container_id) / "memory.usage_in_bytes"
        return int(usage.read_text()) if usage.exists() else 0

    # -- refused early

    def check_source(self) -> dict[str, Any]:
        """What the plan needs of a container that can leave this node, or a FlowferryError."""
        about = self.describe()
        where = f'container "{self.name}"'
        if about is None:
            raise FlowferryError(
                "unknown_workload", f"there is no {where} here; `podman ps -a` lists what there is"
            )
        if about["status"] != "running":
            raise FlowferryError(
                "not_running",
                f"{where} is {about['status']}; only a running one can be moved: "
                f"`podman start {self.name}`",
            )
        if about["runtime"] != "runc":
            raise FlowferryError(
                "runtime_cannot_restore",
                f"{where} runs under {about['runtime']}, which restores no container here; create "
                "it with --runtime runc",
            )
        if about["endpoint"] is None:
            raise FlowferryError(
                "no_endpoint",
                f"{where} has network mode {about['network_mode']}; its address can move only from "
                "a namespace of its own: --network ns:/run/netns/NAME, see flowferry.core.endpoint",
            )
        if about["mounts"]:
            raise FlowferryError(
                "has_mounts",
                f"{where} has volumes ({', '.join(about['mounts'])}); their content would stay "
                "behind, so it is not moved",
            )
        check_criu()
        self._check_files(about["id"])
        return about

    def _check_files(self, container_id: str) -> None:
        """Refuse what CRIU cannot dump: open devices, and sockets connected to the outside."""
        pids = self._pids(container_id)
        inodes: set[str] = set()
        for pid in pids:
            for number in Path(f"/proc/{pid}/fd").iterdir():
                target = _link(number)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
                elif target.startswith("/"):  # a device node can have any name
                    self._check_device(pid, number, target)
        if pids and inodes:
            self._check_unix_sockets(pids[0], inodes)

    def _check_device(self, pid: int, number: Path, target: str) -> None:
        try:
            info = number.stat()
        except FileNotFoundError:  # closed in the meantime
            return
        if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
            return
        numbers = (os.major(info.st_rdev), os.minor(info.st_rdev))
        if numbers not in _PLAIN_DEVICES and numbers[0] != 136:
            raise FlowferryError(
                "open_device",
                f'container "{self.name}": process {pid} has the device {target} open, which CRIU '
                "cannot dump; close it in the application first",
            )

    def _check_unix_sockets(self, pid: int, inodes: set[str]) -> None:
        # A socket that was accepted belongs to the network namespace of whoever connected.
        listed = run(["ss", "-xanH"])
        listed += run(["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-xanH"])
        for line in listed.splitlines():
            fields = line.split()
            if len(fields) < 8 or fields[1] != "ESTAB" or fields[5] not in inodes:
                continue
            if fields[7] not in inodes and fields[7] != "0":
                raise FlowferryError(
                    "external_socket",
                    f'container "{self.name}": a unix socket ({fields[4]}, inode {fields[5]}) is '
                    "connected to a process outside, which would stay behind; close it first",
                )

    def _pids(self, container_id: str) -> list[int]:
        listed = self._cgroup("freezer", container_id) / "cgroup.procs"
        return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []

    def check_destination(self, about: dict[str, Any], directory: str) -> None:
        """Refuse a node that cannot take the container."""
        check_criu()
        if self.inspect() is not None:
            raise FlowferryError(
                "name_taken",
                f'there is another container "{self.name}" on the destination; rename or remove it '
                f"there: `podman rm {self.name}`",
            )
        info = json.loads(run(["podman", "info", "--format", "json"]))
        if Path(info["host"]["ociRuntime"]["name"]).name != "runc":
            raise FlowferryError(
                "runtime_cannot_restore",
                f"podman on the destination uses {info['host']['ociRuntime']['name']}; set "
                'runtime = "runc" in containers.conf',
            )
        needed = 2 * int(about["memory_bytes"]) + (16 << 20)
        for place in (directory, info["store"]["graphRoot"]):
            free = shutil.disk_usage(place).free
            if free < needed:
                raise FlowferryError(
                    "no_space",
                    f"{place} on the destination has {free >> 20} MB free, the checkpoint may need "
                    f"{needed >> 20} MB; free some space there",
                )
        ids = run(["podman", "images", "--no-trunc", "--quiet"]).split()
        present = any(image.split(":")[-1] == about["image_id"] for image in ids)
        if not present:
            raise FlowferryError(
                "no_image",
                f"the destination does not have the image {about['image']} "
                f"({about['image_id'][:12]}); load the same image there: podman pull, or podman "
                "save here and podman load there",
            )

    # -- source

    def freeze(self, container_id: str) -> None:
        """Stop every process of the container; returns when the kernel says so."""
        self._set_freezer(container_id, "FROZEN")

    def resume(self, container_id: str) -> None:
        """Let the source go on where it was."""
        self._set_freezer(container_id, "THAWED")

    def _set_freezer(self, container_id: str, wanted: str) -> None:
        state = self._cgroup("freezer", container_id) / "freezer.state"
        if not state.exists():
            raise FlowferryError("not_running", f'container "{self.name}" has ended by itself')
        deadline = time.monotonic() + 5.0
        state.write_text(wanted)
        while state.read_text().strip() != wanted:
            if time.monotonic() > deadline:
                raise FlowferryError(
                    "freeze",
                    f"{state} did not become {wanted} within 5 s: it is {state.read_text()}",
                )
            time.sleep(0.0005)

    def checkpoint(self, archive: Path) -> None:
        """Write the checkpoint of the frozen container; the source stays frozen."""
        run(
            ["podman", "container", "checkpoint", "--leave-running", "--tcp-established"]
            + ["--file-locks", "--compress", "none", "--export", str(archive), self.name],
            code="checkpoint_failed",
        )

    def remove(self, endpoint: endpoints.Endpoint) -> None:
        """End the container unheard: the cable is cut before a process dies."""
        about = self.inspect()
        endpoints.remove(endpoint)
        if about is None:
            return
        freezer = self._cgroup("freezer", about["Id"]) / "freezer.state"
        for pid in self._pids(about["Id"]):
            os.kill(pid, signal.SIGKILL)
        if freezer.exists():
            freezer.write_text("THAWED")
        run(["podman", "rm", "--force", "--time", "0", self.name])

    # -- destination

    def restore(self, archive: Path) -> dict[str, Any]:
        """Bring the container back from the archive, its sockets established."""
        run(
            ["podman", "container", "restore", "--tcp-established", "--file-locks"]
            + ["--import", str(archive)],
            code="restore_failed",
        )
        about = self.describe()
        if about is None or about["status"] != "running":
            raise FlowferryError("restore_failed", f'"{self.name}" does not run after its restore')
        return about


def check_criu() -> str:
    """The version of CRIU; FlowferryError when it is missing or too old for current kernels."""
    if shutil.which("criu") is None:
        raise FlowferryError("criu_missing", "criu is not installed; the role criu installs it")
    version = run(["criu", "--version"]).splitlines()[0].split()[-1]
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_CRIU:
        raise FlowferryError(
            "criu_too_old",
            f"criu is {version}; below 4.2 it cannot dump TCP sockets on kernels from 6.16 on: the "
            "role criu installs a newer one",
        )
    return version


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
